"""The ground truth of detection, read once and made fit for the libraries that compute AP."""

import logging
from dataclasses import dataclass
from typing import Any

import numpy as np
import pycocotools.mask as mask_util
from detectron2.data import DatasetCatalog, MetadataCatalog
from detectron2.data.datasets.coco import convert_to_coco_json
from numpy.typing import NDArray

from ..annotations.coco_json import examples, mask_of, read_coco_json
from ..annotations.missing import unknown_dataset
from ..errors import AnnotationError, UserError

logger = logging.getLogger(__name__)

#: COCO's sizes: bounds of an instance's area in square pixels, both included.
AREAS = {"all": (0, 1e10), "small": (0, 32**2), "medium": (32**2, 96**2), "large": (96**2, 1e10)}
#: LVIS's classes of frequency: categories in fewer than 10, 100 and more images of its training set.
FREQUENCIES = {"r": "rare", "c": "common", "f": "frequent"}


@dataclass
class GroundTruth:
    """Images, categories and annotations of one json.

    Attributes:
        path: of the json.
        content: of the json; every annotation has ``area`` and ``iscrowd``, and ids count from 1.
        classes: the model's class number -> category id in the json.
        names: names of the categories, in the order of their ids.
    """

    path: str
    content: dict[str, Any]
    classes: dict[int, int]
    names: list[str]

    @property
    def annotations(self) -> list[dict[str, Any]]:
        """Those of the json; none where it is of a test set."""
        return self.content.get("annotations", [])

    @property
    def category_ids(self) -> list[int]:
        """In rising order."""
        return sorted(category["id"] for category in self.content["categories"])

    @property
    def image_sizes(self) -> dict[Any, tuple[int, int]]:
        """Image id -> (height, width)."""
        return {image["id"]: (image["height"], image["width"]) for image in self.content["images"]}

    @property
    def frequencies(self) -> list[str]:
        """LVIS: "r", "c" or "f" for each category, in the order of their ids."""
        by_id = {c["id"]: c["frequency"] for c in self.content["categories"]}
        return [by_id[identifier] for identifier in self.category_ids]

    def for_task(self, task: str) -> dict[str, Any]:
        """The content for one task, with annotations that a library may write into.

        Args:
            task: "bbox", or another, for which annotations without a mask are left out with a warning.
        """
        if task == "bbox":
            return {**self.content, "annotations": [dict(a) for a in self.annotations]}
        kept, without = [], []
        for annotation in self.annotations:
            mask = mask_of(annotation)
            if mask is None:
                without.append(annotation["id"])
            else:
                kept.append({**annotation, "segmentation": mask})
        if without:
            logger.warning(
                "%s: %d of %d annotations have no mask (nor a polygon of three points), such as the ids %s; "
                "%s leaves them out, so detections of these objects count as wrong",
                *(self.path, len(without), len(self.annotations), examples(without), task),
            )
        return {**self.content, "annotations": kept}

    def count(self, content: dict[str, Any], image_ids: list[Any] | None) -> NDArray[np.int64]:
        """Instances to be found, (categories, sizes): crowds and ignored ones do not count."""
        index = {identifier: k for k, identifier in enumerate(self.category_ids)}
        images = set(self.image_sizes if image_ids is None else image_ids)
        counts = np.zeros((len(index), len(AREAS)), np.int64)
        for annotation in content["annotations"]:
            if annotation["image_id"] not in images or annotation["iscrowd"]:
                continue
            for a, (low, high) in enumerate(AREAS.values()):
                counts[index[annotation["category_id"]], a] += low <= annotation["area"] <= high
        return counts


def load_ground_truth(
    dataset_name: str,
    output_dir: str | None,
    *,
    json: str | None = None,
    lvis: bool = False,
    allow_cached: bool = False,
) -> GroundTruth:
    """Reads the json of a registered dataset; one without json is converted first.

    Args:
        dataset_name: registered with Detectron2.
        output_dir: where a converted dataset's json is written.
        json: own data, taken instead of the registered ones.
        lvis: the json has LVIS's fields.
        allow_cached: take a converted json that lies in output_dir already.

    Raises:
        UserError: the json is not there (where from, how to get it).
        AnnotationError: it cannot be used.
        UserError: the dataset is not registered, or to be converted without an output_dir.
    """
    if json is not None:
        path, mapping, names = json, None, None
        content = read_coco_json(path)
    else:
        metadata = MetadataCatalog.get(dataset_name)
        path = metadata.get("json_file") or _convert(dataset_name, output_dir, lvis, allow_cached)
        content = read_coco_json(path, dataset_name)
        mapping = metadata.get("thing_dataset_id_to_contiguous_id")
        names = metadata.get("thing_classes")
    if lvis:
        _check_lvis(content, path)
    _complete(content, path)
    _report_oddities(content, path)
    classes = class_ids(mapping, content, path, first=1 if lvis and json is None else None)
    return GroundTruth(path, content, classes, category_names(names, content, classes))


def _convert(dataset_name: str, output_dir: str | None, lvis: bool, allow_cached: bool) -> str:
    """Writes a dataset without json in COCO's format; returns the file."""
    if dataset_name not in DatasetCatalog:
        raise unknown_dataset(dataset_name, DatasetCatalog.list())
    if lvis:
        raise UserError(f"{dataset_name} has no json: LVIS's evaluation needs one in LVIS's format")
    if not output_dir:
        raise UserError(
            f"{dataset_name} has no json and is converted to COCO's format: say where to with output_dir"
        )
    json_file = f"{output_dir}/{dataset_name}_coco_format.json"
    logger.info("%s has no json: converting it to %s", dataset_name, json_file)
    convert_to_coco_json(dataset_name, json_file, allow_cached=allow_cached)
    return json_file


def _check_lvis(content: dict[str, Any], path: str) -> None:
    needs = {
        "images": ("neg_category_ids", "not_exhaustive_category_ids"),
        "categories": ("frequency",),
    }
    for section, keys in needs.items():
        for entry in content[section]:
            if lacking := [key for key in keys if key not in entry]:
                raise AnnotationError(
                    f"{path}: entry {entry['id']} of {section!r} has no {', '.join(lacking)}: this is not "
                    "LVIS's format; use COCOEvaluator for COCO's"
                )
    strange = {c["frequency"] for c in content["categories"]} - set(FREQUENCIES)
    if strange:
        raise AnnotationError(
            f"{path}: frequency must be r, c or f, not {examples(sorted(strange))}"
        )
    ignored = [
        a["id"] for a in content.get("annotations", []) if a.get("ignore") or a.get("iscrowd")
    ]
    if ignored:  # lvis would heed the first only, faster-coco-eval the second
        raise AnnotationError(
            f"{path}: {len(ignored)} annotations, such as {examples(ignored)}, have 'ignore' or 'iscrowd', "
            "which LVIS does not know: take them out, or use COCOEvaluator"
        )


def _complete(content: dict[str, Any], path: str) -> None:
    """Adds what own data often lack and the libraries need, in place."""
    annotations = content.get("annotations", [])
    sizes = {image["id"]: (image["height"], image["width"]) for image in content["images"]}
    if any(annotation["id"] in (0, False) for annotation in annotations):
        logger.warning(
            "%s has an annotation with id 0, which COCO's tools take for 'not matched': ids are counted "
            "from 1 here",
            path,
        )
        for i, annotation in enumerate(annotations, 1):
            annotation["id"] = i
    lacking = 0
    for annotation in annotations:
        annotation["iscrowd"] = int(annotation.get("iscrowd") or 0)
        mask, size = mask_of(annotation), sizes.get(annotation["image_id"])
        if isinstance(mask, dict) and size is not None and tuple(mask["size"]) != size:
            raise AnnotationError(
                f"{path}: the mask of annotation {annotation['id']} is {tuple(mask['size'])} (height, "
                f"width), its image {annotation['image_id']} {size}"
            )
        if annotation.get("area") is None:
            lacking += 1
            annotation["area"] = _area(annotation, mask, size)
    if lacking:
        logger.warning(
            "%s: %d annotations have no area: that of the mask, else of the box is taken",
            path,
            lacking,
        )


def _area(annotation: dict[str, Any], mask: Any, size: tuple[int, int] | None) -> float:
    if mask is None or size is None:
        return float(annotation["bbox"][2] * annotation["bbox"][3])
    if isinstance(mask, list):
        mask = mask_util.merge(mask_util.frPyObjects(mask, *size))
    elif isinstance(mask["counts"], list):
        mask = mask_util.frPyObjects(mask, *size)
    return float(mask_util.area(mask))


def _report_oddities(content: dict[str, Any], path: str) -> None:
    """Says what lowers AP whatever is detected. It is left in, as COCO's own numbers have it."""
    annotations = content.get("annotations", [])
    known = {image["id"] for image in content["images"]}
    flat = [a["id"] for a in annotations if min(a["bbox"][2:]) <= 0]
    astray = [a["id"] for a in annotations if a["image_id"] not in known]
    if flat:
        logger.warning(
            "%s: %d boxes have no area, such as those of the annotations %s: nothing can match them, "
            "and as in COCO's own evaluation they count as missed",
            *(path, len(flat), examples(flat)),
        )
    if astray:
        logger.warning(
            "%s: %d annotations are of images that it does not list, such as the annotations %s: ignored",
            *(path, len(astray), examples(astray)),
        )
        content["annotations"] = [a for a in annotations if a["image_id"] in known]


def class_ids(
    mapping: dict[int, int] | None, content: dict[str, Any], path: str, first: int | None
) -> dict[int, int]:
    """The model's class number -> category id: as the dataset's loader has it.

    Detectron2 knows the mapping of own data only once their loader has run; until then it is what the
    loader makes: categories counted in the order of their ids or, of LVIS, ids less the first.

    Args:
        mapping: category id -> class number, where it is registered.
        content: of the json.
        path: of the json, for messages.
        first: the id that is class 0 where ids are counted from it; None for the order of the ids.

    Raises:
        AnnotationError: the mapping has other category ids than the json.
    """
    ids = sorted(category["id"] for category in content["categories"])
    if mapping is None:
        return {(k if first is None else i - first): i for k, i in enumerate(ids)}
    if set(mapping) != set(ids):
        raise AnnotationError(
            f"{path} has {len(ids)} categories, its registered metadata {len(mapping)}; ids in one of the "
            f"two only: {examples(sorted(set(mapping) ^ set(ids)))}. Register it under another name"
        )
    return {number: identifier for identifier, number in mapping.items()}


def category_names(
    registered: list[str] | None, content: dict[str, Any], classes: dict[int, int]
) -> list[str]:
    """Names in the order of category ids: the registered ones, else the json's. None stands twice.

    Args:
        registered: in the order of class numbers; not used where it has too few.
        content: of the json.
        classes: of :func:`class_ids`.
    """
    by_id = {category["id"]: category["name"] for category in content["categories"]}
    if registered is not None and set(classes) <= set(range(len(registered))):
        by_id = {identifier: registered[number] for number, identifier in classes.items()}
    names = [str(by_id[identifier]) for identifier in sorted(by_id)]
    return [
        f"{name} (id {identifier})" if names.count(name) > 1 else name
        for name, identifier in zip(names, sorted(by_id), strict=True)
    ]
