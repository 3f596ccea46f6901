"""Datasets of detection for configs: registered ones by name, own ones by a json and a folder."""

import json as json_module
import logging
import os
from collections.abc import Sequence
from functools import lru_cache, partial
from operator import itemgetter
from typing import Any, NamedTuple

import pycocotools.mask as mask_util
from detectron2.data import DatasetCatalog, MetadataCatalog
from detectron2.structures import BoxMode
from detectron2.utils.file_io import PathManager
from PIL import Image

from ...annotations.coco_json import OWN_DATA, examples, mask_of, read_coco_json
from ...annotations.missing import missing_dataset, unknown_dataset
from .images_only import coco_image_name, image_folder, without_absent
from ...errors import UserError, AnnotationError
from ...files import check_file
from ...pixels import exif_orientation

logger = logging.getLogger(__name__)

#: Images whose size is compared with the json's when a dataset is loaded.
_SIZES_CHECKED = 64


class JsonFacts(NamedTuple):
    """What a config has to know of a json."""

    classes: tuple[str, ...]  #: in the model's order
    image_counts: tuple[int, ...]  #: of each class, the images that show it
    has_masks: bool
    has_rle: bool  #: crowds, which nobody learns from, aside


def detection_dataset(
    names: Sequence[str] | str = (),
    json: str | None = None,
    root: str | None = None,
    *,
    filter_empty: bool = True,
    masks: bool | None = None,
    allow_missing: float = 0.01,
) -> list[dict[str, Any]]:
    """Images with annotated instances, as Detectron2's mappers take them.

    Left out, with counts and examples in the log: boxes without area, polygons of fewer than three points,
    where masks are wanted also instances without any, images whose file is absent and, with filter_empty,
    images on which nothing is left but crowds.

    Args:
        names: registered datasets, concatenated; used where there is no json.
        json: own data in COCO's format. Its classes are numbered in the order of their ids, gaps closed.
            The dataset is registered under :func:`own_dataset_name`.
        root: folder of the json's images; by default found near the json.
        filter_empty: for training.
        masks: False leaves masks out, True insists on them; by default they are there if the data have any.
        allow_missing: share of the images whose files may be absent.

    Returns:
        dataset dicts in the order of the image ids, of each dataset.

    Raises:
        UserError: json or images are not there, and how to get them; a name that is not registered, or names
            whose classes differ.
        AnnotationError: the json cannot be used, sizes differ from the images', or nothing is left.
    """
    if json is not None:
        json = os.path.expanduser(json)
        dicts = without_absent(_load_own(json, root), json, allow_missing)
        _register(json, root)
        source = json
    else:
        named = (names,) if isinstance(names, str) else tuple(names)
        if not named:
            raise UserError("which data? set dataset.names, or dataset.json and dataset.root")
        dicts = [sample for name in named for sample in _load_named(name, allow_missing)]
        check_same_registered("thing_classes", named)
        source = ", ".join(named)
    _check_sizes(dicts, source)
    dicts = _with_usable_annotations(dicts, source, masks)
    if filter_empty:
        dicts = _without_empty(dicts, source)
    classes = [a["category_id"] for s in dicts for a in s["annotations"] if not a.get("iscrowd")]
    counts = (len(dicts), len(classes), len(set(classes)))
    logger.info("%s: %d images, %d instances of %d classes", source, *counts)
    return dicts


def own_dataset_name(json: str) -> str:
    """The name in Detectron2's catalogs of a dataset that was given as a json: its absolute path."""
    return os.path.abspath(os.path.expanduser(json))


def json_facts(json: str) -> JsonFacts:
    """What a json holds; read once as long as the file does not change. For errors see :func:`read_coco_json`."""
    path = os.path.expanduser(json)
    status = os.stat(path) if os.path.isfile(path) else None
    return _facts(path, (status.st_mtime_ns, status.st_size) if status else None)


@lru_cache(maxsize=8)
def _facts(path: str, version: tuple[int, int] | None) -> JsonFacts:
    content = read_coco_json(path)
    names = {c["id"]: str(c["name"]) for c in sorted(content["categories"], key=itemgetter("id"))}
    images: dict[Any, set[Any]] = {category: set() for category in names}
    has_masks = has_rle = False
    for annotation in content.get("annotations", []):
        images[annotation["category_id"]].add(annotation["image_id"])
        mask = mask_of(annotation)
        has_masks |= mask is not None
        has_rle |= isinstance(mask, dict) and not annotation.get("iscrowd")
    counts = tuple(len(members) for members in images.values())
    return JsonFacts(tuple(names.values()), counts, has_masks, has_rle)


def check_same_classes(train_json: str, test_json: str) -> None:
    """Refuses, naming them, classes of a test set that are numbered in another way than those of training."""
    train, test = json_facts(train_json).classes, json_facts(test_json).classes
    if train != test:
        differing = [f"{k}: {a} / {b}" for k, (a, b) in enumerate(zip(train, test)) if a != b]  # noqa: B905
        raise AnnotationError(
            f"{train_json} has {len(train)} classes, {test_json} {len(test)}; differing numbers: "
            f"{examples(differing) or 'those at the end'}. List the same 'categories', with the same ids, "
            "in both"
        )


def check_same_registered(key: str, names: Sequence[str]) -> None:
    """Refuses to concatenate datasets whose metadata differ in ``thing_classes`` or ``stuff_classes``, the key."""
    first, *others = names
    expected = MetadataCatalog.get(first).get(key)
    for name in others:
        if MetadataCatalog.get(name).get(key) != expected:
            raise UserError(
                f"dataset.names: {first} and {name} have different classes ({key}), so one model cannot "
                "learn both: name datasets with the same classes"
            )


def _load_own(json: str, root: str | None) -> list[dict[str, Any]]:
    content = read_coco_json(json)
    numbers = {k: n for n, k in enumerate(sorted(c["id"] for c in content["categories"]))}
    by_image: dict[Any, list[dict[str, Any]]] = {image["id"]: [] for image in content["images"]}
    astray = []
    for annotation in content.get("annotations", []):
        members = by_image.get(annotation["image_id"])
        if members is None:
            astray.append(annotation["id"])
        else:
            members.append(_instance(annotation, numbers))
    if astray:
        logger.warning(
            "%s: %d annotations are of images that it does not list, such as the annotations %s: ignored",
            *(json, len(astray), examples(astray)),
        )
    images = sorted(content["images"], key=itemgetter("id"))
    names = [coco_image_name(image, json) for image in images]
    try:
        folder = image_folder(json, names, None if root is None else os.path.expanduser(root))
    except UserError as error:  # pre-training's key has another name
        raise UserError(str(error).replace("dataset.image_root", "dataset.root")) from None
    return [
        {
            "file_name": os.path.join(folder, name),
            "image_id": image["id"],
            "height": image["height"],
            "width": image["width"],
            "annotations": by_image[image["id"]],
        }
        for image, name in zip(images, names, strict=True)
    ]


def _instance(annotation: dict[str, Any], numbers: dict[Any, int]) -> dict[str, Any]:
    instance = {
        "bbox": annotation["bbox"],
        "bbox_mode": BoxMode.XYWH_ABS,
        "category_id": numbers[annotation["category_id"]],
        "iscrowd": int(annotation.get("iscrowd") or 0),
    }
    if mask := annotation.get("segmentation"):
        if isinstance(mask, dict) and isinstance(mask.get("counts"), list):
            mask = mask_util.frPyObjects(mask, *mask["size"])
        instance["segmentation"] = mask
    return instance


def _register(json: str, root: str | None) -> None:
    """Under its path, so that whoever draws or evaluates finds the names of the classes."""
    name = own_dataset_name(json)
    for catalog in (DatasetCatalog, MetadataCatalog):
        if name in catalog:
            catalog.pop(name)
    DatasetCatalog.register(name, partial(_load_own, json, root))
    facts = json_facts(json)
    MetadataCatalog.get(name).set(
        json_file=json,
        thing_classes=list(facts.classes),
        has_masks=facts.has_masks,
        evaluator_type="coco",
    )


def _load_named(name: str, allow_missing: float) -> list[dict[str, Any]]:
    if name not in DatasetCatalog:
        raise unknown_dataset(name, DatasetCatalog.list())
    json_file, image_root = map(MetadataCatalog.get(name).get, ("json_file", "image_root"))
    absent = [place for place in (json_file, image_root) if place and not PathManager.exists(place)]
    if absent:
        raise missing_dataset(name, absent, OWN_DATA)
    try:
        dicts = DatasetCatalog.get(name)
    except (json_module.JSONDecodeError, UnicodeDecodeError, AssertionError, KeyError) as error:
        if json_file is not None:
            read_coco_json(json_file, name)  # says it better, in most cases
        reason = " ".join(str(error).split())
        raise AnnotationError(f"{json_file or name} cannot be used: {reason}") from error
    dicts = [{**sample, "annotations": sample.get("annotations", [])} for sample in dicts]
    return without_absent(dicts, json_file or name, allow_missing)


def _check_sizes(dicts: list[dict[str, Any]], source: str) -> None:
    """Compares the sizes of a few images, spread over the dataset, with what the annotations say."""
    few = dicts[:: -(-len(dicts) // _SIZES_CHECKED) or 1]
    few = [sample for sample in few if "height" in sample and "://" not in sample["file_name"]]
    wrong = []
    for sample in few:
        name, height, width = sample["file_name"], sample["height"], sample["width"]
        size = upright_size(name)
        if size not in (None, (height, width)):
            wrong.append(f"{name} is {size[0]}x{size[1]} (height x width), not {height}x{width}")
    if wrong:
        raise AnnotationError(
            f"{source}: {len(wrong)} of {len(few)} images looked at have another size than the annotations "
            f"say: {examples(wrong)}. Were the images resized or turned after they were annotated?"
        )


def upright_size(file_name: str) -> tuple[int, int] | None:
    """(height, width) as readers see it, EXIF's turn applied; None where it is no image."""
    try:
        check_file(file_name)
        with Image.open(file_name) as image:
            turned = exif_orientation(image) in (5, 6, 7, 8)
            return image.size if turned else image.size[::-1]
    except (OSError, SyntaxError):  # the loader counts and names what it cannot read
        return None


def _with_usable_annotations(
    dicts: list[dict[str, Any]], source: str, masks: bool | None
) -> list[dict[str, Any]]:
    """Without boxes of no area and, where masks are wanted, instances that have none."""
    has_masks = any(mask_of(a) is not None for sample in dicts for a in sample["annotations"])
    if masks and not has_masks:
        raise AnnotationError(f"{source} has boxes only, and dataset.masks=true insists on masks")
    if masks is None and not has_masks:
        logger.warning(
            "%s has boxes only, no masks: train a model without mask head, and without "
            "mapper.use_instance_mask and mapper.recompute_boxes",
            source,
        )
    keep_masks = has_masks and masks is not False
    flat, bare, cleaned = [], [], []
    for sample in dicts:
        kept = []
        for annotation in sample["annotations"]:
            mask = mask_of(annotation)
            if _is_flat(annotation):
                flat.append(sample["image_id"])
            elif keep_masks and mask is None:
                bare.append(sample["image_id"])
            else:
                rest = {k: v for k, v in annotation.items() if k != "segmentation"}
                kept.append({**rest, "segmentation": mask} if keep_masks else rest)
        cleaned.append({**sample, "annotations": kept})
    for what, images in (
        ("boxes have no area", flat),
        ("instances have no mask, nor a polygon of three points", bare),
    ):
        if images:
            few = examples(dict.fromkeys(images))
            logger.warning(
                "%s: %d %s, such as in the images %s: left out", source, len(images), what, few
            )
    return cleaned


def _is_flat(annotation: dict[str, Any]) -> bool:
    a, b, c, d = (float(x) for x in annotation["bbox"][:4])
    if annotation["bbox_mode"] == BoxMode.XYXY_ABS:
        c, d = c - a, d - b
    return c <= 0 or d <= 0


def _without_empty(dicts: list[dict[str, Any]], source: str) -> list[dict[str, Any]]:
    """Without images on which there is nothing to learn: no annotation, or crowds only."""
    kept = [s for s in dicts if any(not a.get("iscrowd") for a in s["annotations"])]
    bare = sum(not sample["annotations"] for sample in dicts)
    crowds = len(dicts) - len(kept) - bare
    if bare or crowds:
        what = "%s: %d images without annotations and %d with crowds only are left out"
        logger.info(what, source, bare, crowds)
    if not kept:
        raise AnnotationError(
            f"{source}: none of its {len(dicts)} images has a usable annotation "
            f"({bare} have none, {crowds} crowds only)"
        )
    return kept
