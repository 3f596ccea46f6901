"""Detection ground truth, read once and prepared for the library that computes AP."""

import logging
from collections.abc import Sequence
from typing import Any

import numpy as np
from detectron2.data import DatasetCatalog, MetadataCatalog
from detectron2.data.datasets.coco import convert_to_coco_json
from numpy.typing import NDArray

from ..annotations.coco import Annotations, read_annotations
from ..annotations.entries import Instance
from ..annotations.missing import unknown_dataset
from ..annotations.values import shown
from ..errors import AnnotationError, UserError, examples

logger = logging.getLogger(__name__)

#: COCO's sizes: bounds of an instance's area in square pixels, both inclusive.
AREAS = {"all": (0, 1e10), "small": (0, 32**2), "medium": (32**2, 96**2), "large": (96**2, 1e10)}
#: LVIS's frequency classes: categories in at most 10, at most 100, and more images of its training set.
FREQUENCIES = {"r": "rare", "c": "common", "f": "frequent"}


class GroundTruth:
    """A json's images, categories and annotations, prepared for the library that computes AP.

    Attributes:
        path: of the json.
        classes: the model's class index -> category id in the json.
        names: names of the categories, in the order of their ids.
    """

    def __init__(
        self, annotations: Annotations, classes: dict[int, int], names: Sequence[str]
    ) -> None:
        self.path = annotations.path
        self.classes, self.names = classes, list(names)
        self.category_ids = [category.id for category in annotations.categories]
        self.image_sizes: dict[Any, tuple[int, int]] = {}  #: image id -> (height, width)
        self._images: list[dict[str, Any]] = []
        self.categories = [_given(category._asdict()) for category in annotations.categories]
        self.annotations: list[dict[str, Any]] = []  #: in COCO format; none in a test set
        for image, instances in annotations:
            self._images.append(_given(image._asdict()))
            self.image_sizes[image.id] = image.height, image.width
            self.annotations += [_entry(instance, image.id) for instance in instances]

    @property
    def has_masks(self) -> bool:
        return any("segmentation" in annotation for annotation in self.annotations)

    @property
    def frequencies(self) -> list[str]:
        """LVIS: "r", "c" or "f" for each category, in order of ids."""
        return [category["frequency"] for category in self.categories]

    def for_task(self, task: str) -> dict[str, Any]:
        """Returns COCO format; except for "bbox", drops annotations without a mask, with a warning."""
        kept = self.annotations
        if task != "bbox":
            kept = [a for a in self.annotations if "segmentation" in a]
        if len(kept) < len(self.annotations):
            without = [a["id"] for a in self.annotations if "segmentation" not in a]
            logger.warning(
                "%s: %d of %d annotations have no mask (nor a polygon of three points), such as the ids %s; "
                "%s leaves them out, so detections of these objects count as wrong",
                *(self.path, len(without), len(self.annotations), examples(without), task),
            )
        return {"images": self._images, "categories": self.categories, "annotations": kept}


def _given(fields: dict[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in fields.items() if value is not None}


def _entry(instance: Instance, image_id: Any) -> dict[str, Any]:
    entry = {
        "id": instance.id,
        "image_id": image_id,
        "category_id": instance.category_id,
        "bbox": list(instance.box),
        "area": instance.area,
        "iscrowd": int(instance.iscrowd),
    }
    return entry if instance.mask is None else {**entry, "segmentation": instance.mask}


def instance_counts(content: dict[str, Any]) -> NDArray[np.int64]:
    """Counts instances to be found, (categories in order of ids, sizes); crowds do not count."""
    index = {k: n for n, k in enumerate(sorted(c["id"] for c in content["categories"]))}
    counts_KA = np.zeros((len(index), len(AREAS)), np.int64)
    for annotation in content["annotations"]:
        if not annotation["iscrowd"]:
            within = [low <= annotation["area"] <= high for low, high in AREAS.values()]
            counts_KA[index[annotation["category_id"]]] += within
    return counts_KA


def load_ground_truth(
    dataset_name: str, output_dir: str | None, *, json: str | None = None, lvis: bool = False
) -> GroundTruth:
    """Reads the json of a registered dataset; one without json is converted first.

    Args:
        output_dir: where a converted dataset's json is written.
        json: custom data, used instead of the registered dataset.
        lvis: whether the json has LVIS's fields.

    Raises:
        UserError: if the json is missing (says where it comes from), the dataset is not registered, or it
            needs conversion without an output_dir.
        AnnotationError: if it cannot be used.
    """
    mapping = names = None
    if json is not None:
        annotations = read_annotations(json)
    else:
        metadata = MetadataCatalog.get(dataset_name)
        path = metadata.get("json_file") or _convert(dataset_name, output_dir)
        annotations = read_annotations(path, dataset_name)
        mapping = metadata.get("thing_dataset_id_to_contiguous_id")
        names = metadata.get("thing_classes")
    if lvis:
        _check_lvis(annotations)
    if not annotations.labelled:
        logger.warning(
            "%s has no annotations, as the files of test sets: detections will be written, nothing evaluated",
            annotations.path,
        )
    classes = annotations.class_ids(mapping, first=1 if lvis and json is None else None)
    return GroundTruth(annotations, classes, category_names(names, annotations, classes))


def _convert(dataset_name: str, output_dir: str | None) -> str:
    """Writes a dataset without json in COCO format, always anew as it may have changed; returns the file."""
    if dataset_name not in DatasetCatalog:
        raise unknown_dataset(dataset_name, DatasetCatalog.list())
    if not output_dir:
        raise UserError(
            f"{dataset_name} has no json and is converted: say where to with output_dir"
        )
    json_file = f"{output_dir}/{dataset_name}_coco_format.json"
    logger.info("%s has no json: converting it to %s", dataset_name, json_file)
    convert_to_coco_json(dataset_name, json_file, allow_cached=False)
    return json_file


def _check_lvis(annotations: Annotations) -> None:
    path, remedy = annotations.path, "use dataloader.evaluator.rules=coco"
    for image, instances in annotations:
        lacking = [
            key
            for key in ("neg_category_ids", "not_exhaustive_category_ids")
            if getattr(image, key) is None
        ]
        if lacking:
            raise AnnotationError(
                f"{path}: image {shown(image.id)} has no {', '.join(lacking)}: this is not LVIS's format; "
                f"for COCO's {remedy}"
            )
        if ignored := [i.id for i in instances if i.ignore or i.iscrowd]:
            raise AnnotationError(
                f"{path}: annotations of image {shown(image.id)}, such as {examples(ignored)}, have 'ignore' "
                f"or 'iscrowd', which LVIS does not know: take them out, or {remedy}"
            )
    for category in annotations.categories:
        if category.frequency not in FREQUENCIES:
            raise AnnotationError(
                f"{path}: category {category.id} has the frequency {shown(category.frequency)}; LVIS's are "
                f"r, c and f. For COCO's format {remedy}"
            )


def category_names(
    registered: list[str] | None, annotations: Annotations, classes: dict[int, int]
) -> list[str]:
    """Names in order of category ids: the json's, or the registered ones if they suffice.

    No name appears twice.
    """
    by_id = {category.id: category.name for category in annotations.categories}
    if registered is not None and set(classes) <= set(range(len(registered))):
        by_id = {identifier: registered[number] for number, identifier in classes.items()}
    names = [by_id[identifier] for identifier in sorted(by_id)]
    return [
        f"{name} (id {identifier})" if names.count(name) > 1 else name
        for name, identifier in zip(names, sorted(by_id), strict=True)
    ]
