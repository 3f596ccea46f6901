"""The ground truth of detection, read once and made fit for the library that computes AP."""

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
    """Images, categories and annotations of one json, that at ``path``.

    Attributes:
        content: every annotation has ``area`` and ``iscrowd``, and an image that is listed.
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
        """The content; but for "bbox" without annotations that have no mask, with a warning."""
        if task == "bbox":
            return {**self.content, "annotations": self.annotations}
        kept = [{**a, "segmentation": mask} for a in self.annotations if (mask := mask_of(a))]
        if len(kept) < len(self.annotations):
            without = [a["id"] for a in self.annotations if mask_of(a) is None]
            logger.warning(
                "%s: %d of %d annotations have no mask (nor a polygon of three points), such as the ids %s; "
                "%s leaves them out, so detections of these objects count as wrong",
                *(self.path, len(without), len(self.annotations), examples(without), task),
            )
        return {**self.content, "annotations": kept}


def instance_counts(content: dict[str, Any]) -> NDArray[np.int64]:
    """Instances to be found, (categories in the order of their ids, sizes): crowds do not count."""
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
        json: own data, taken instead of the registered ones.
        lvis: the json has LVIS's fields.

    Raises:
        UserError: the json is not there (where from, how to get it), or the dataset is not registered, or to
            be converted without an output_dir.
        AnnotationError: it cannot be used.
    """
    mapping = names = None
    if json is not None:
        path, content = json, read_coco_json(json)
    else:
        metadata = MetadataCatalog.get(dataset_name)
        path = metadata.get("json_file") or _convert(dataset_name, output_dir)
        content = read_coco_json(path, dataset_name)
        mapping = metadata.get("thing_dataset_id_to_contiguous_id")
        names = metadata.get("thing_classes")
    if lvis:
        _check_lvis(content, path)
    if "annotations" in content:
        _complete(content, path)
    classes = class_ids(mapping, content, path, first=1 if lvis and json is None else None)
    return GroundTruth(path, content, classes, category_names(names, content, classes))


def _convert(dataset_name: str, output_dir: str | None) -> str:
    """Writes a dataset without json in COCO's format, anew, for it may have changed; returns the file."""
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


def _check_lvis(content: dict[str, Any], path: str) -> None:
    remedy = "use dataloader.evaluator.rules=coco"
    of_images = ("neg_category_ids", "not_exhaustive_category_ids")
    for section, keys in (("images", of_images), ("categories", ("frequency",))):
        for entry in content[section]:
            if lacking := [key for key in keys if key not in entry]:
                raise AnnotationError(
                    f"{path}: entry {entry['id']} of {section!r} has no {', '.join(lacking)}: this is not "
                    f"LVIS's format; for COCO's {remedy}"
                )
    if strange := {c["frequency"] for c in content["categories"]} - set(FREQUENCIES):
        given = examples(sorted(strange))
        raise AnnotationError(f"{path}: frequency must be r, c or f, not {given}")
    ignored = [
        a["id"] for a in content.get("annotations", []) if a.get("ignore") or a.get("iscrowd")
    ]
    if ignored:
        raise AnnotationError(
            f"{path}: {len(ignored)} annotations, such as {examples(ignored)}, have 'ignore' or 'iscrowd', "
            f"which LVIS does not know: take them out, or {remedy}"
        )


def _complete(content: dict[str, Any], path: str) -> None:
    """Adds what own data often lack, in place, and says what lowers AP whatever is detected.

    Boxes without area stay, as COCO's own numbers have them; annotations of unknown images do not.
    """
    sizes = {image["id"]: (image["height"], image["width"]) for image in content["images"]}
    annotations = content["annotations"]
    content["annotations"] = known = [a for a in annotations if a["image_id"] in sizes]

    def warn(what: str, chosen: list[dict[str, Any]]) -> None:
        if chosen:
            text = "%s: %d annotations, such as %s, %s"
            logger.warning(text, path, len(chosen), examples([a["id"] for a in chosen]), what)

    strangers = [a for a in annotations if a["image_id"] not in sizes]
    warn("are of images that it does not list: ignored", strangers)
    what = "as in COCO's own evaluation, nothing matches it and it counts as missed"
    warn(f"have a box without area: {what}", [a for a in known if min(a["bbox"][2:]) <= 0])
    what = "have no area: that of the mask, else of the box is taken"
    warn(what, [a for a in known if a.get("area") is None])
    for annotation in known:
        annotation["iscrowd"] = int(annotation.get("iscrowd") or 0)
        mask, size = mask_of(annotation), sizes[annotation["image_id"]]
        if isinstance(mask, dict) and tuple(mask["size"]) != size:
            raise AnnotationError(
                f"{path}: the mask of annotation {annotation['id']} is {tuple(mask['size'])} (height, "
                f"width), its image {annotation['image_id']} {size}"
            )
        if annotation.get("area") is None:
            annotation["area"] = _area(annotation["bbox"], mask, size)


def _area(box: list[float], mask: Any, size: tuple[int, int]) -> float:
    return float(box[2] * box[3] if mask is None else mask_util.area(compressed(mask, size)))


def compressed(mask: Any, size: tuple[int, int]) -> dict[str, Any]:
    """What :func:`~rmae_d2.annotations.coco_json.mask_of` gives as pycocotools' own run lengths."""
    if isinstance(mask, list):
        return mask_util.merge(mask_util.frPyObjects(mask, *size))
    return mask_util.frPyObjects(mask, *size) if isinstance(mask["counts"], list) else mask


def class_ids(
    mapping: dict[int, int] | None, content: dict[str, Any], path: str, first: int | None
) -> dict[int, int]:
    """The model's class number -> category id: as the dataset's loader has it.

    Detectron2 knows the mapping of own data only once their loader has run; until then it is what the
    loader makes: categories counted in the order of their ids or, of LVIS, ids less the first.

    Args:
        mapping: category id -> class number, where it is registered.
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
    """Names in the order of category ids: the json's, or those registered where they are enough.

    None stands twice.
    """
    by_id = {category["id"]: category["name"] for category in content["categories"]}
    if registered is not None and set(classes) <= set(range(len(registered))):
        by_id = {identifier: registered[number] for number, identifier in classes.items()}
    names = [str(by_id[identifier]) for identifier in sorted(by_id)]
    return [
        f"{name} (id {identifier})" if names.count(name) > 1 else name
        for name, identifier in zip(names, sorted(by_id), strict=True)
    ]
