"""Detection datasets for configs: registered ones by name, the user's own by a json and a folder."""

import logging
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import lru_cache, partial
from typing import Any, NamedTuple

import numpy as np
from detectron2.data import DatasetCatalog, MetadataCatalog
from detectron2.structures import BoxMode
from detectron2.utils.file_io import PathManager

from ...annotations.coco import (
    OWN_DATA,
    Annotations,
    check_instances,
    joined,
    located,
    read_annotations,
    stamp_of,
)
from ...annotations.entries import Instance
from ...annotations.formats.addresses import address_of
from ...annotations.missing import missing_dataset, unknown_dataset
from ...errors import AnnotationError, UserError, examples
from ...files import READERS
from ...members import stored_jpeg
from ...photos.image_files import image_files, without_absent
from ...pixels import stored_size, upright_size
from ...remote import absolute
from .fraction import take_fraction

logger = logging.getLogger(__name__)

#: Number of images whose sizes are compared with the json's when a dataset is loaded.
_SIZES_CHECKED = 64

#: Fields of LVIS's images that its loader passes on.
_OF_LVIS = ("neg_category_ids", "not_exhaustive_category_ids")

#: Detectron2's functions that register a json with a loader of their own.
_DETECTRON2_LOADERS = ("register_coco_instances", "register_lvis_instances")


class JsonFacts(NamedTuple):
    """What a config must know about a json."""

    classes: tuple[str, ...]  #: in the model's order
    image_counts: tuple[int, ...]  #: for each class, the number of images that show it
    has_masks: bool
    has_rle: bool  #: not counting crowds, which are not used for training


def detection_dataset(
    names: Sequence[str] | str = (),
    json: str | None = None,
    root: str | None = None,
    *,
    filter_empty: bool = True,
    masks: bool | None = None,
    allow_missing: float = 0.01,
    fraction: float | None = None,
    fraction_seed: int = 0,
    format: str | None = None,
    split: str | None = None,
) -> list[dict[str, Any]]:
    """Images with annotated instances, in the form that Detectron2's mappers take.

    The following are left out, with counts and examples in the log: whatever `read_annotations` leaves out;
    if masks are used, instances without one; images whose file is missing; and, with filter_empty, images
    with nothing but crowds left.

    Args:
        names: registered datasets, concatenated; used if no json is given.
        json: the user's own data in COCO's format. Classes are numbered by sorted ids, without gaps.
            The dataset is registered under `own_dataset_name`.
        root: folder of the json's images, by default searched for near the json; without a json, the user's
            own data in any format that `recognise` knows.
        filter_empty: leave out images without objects, for training.
        masks: False leaves masks out, True requires them; by default they are used if the data have any.
        allow_missing: fraction of the images whose files may be missing.
        fraction: for training with few labels: the fraction to use of the images not left out, see
            `take_fraction`; None for all.
        fraction_seed: another seed selects other images. It is not the training seed.
        format: format of the user's own data, one of `NAMES`; detected by default.
        split: split of the user's own data, such as ``train``; by default all splits.

    Returns:
        dataset dicts, per dataset in the order of image ids.

    Raises:
        UserError: the json or images do not exist (says how to get them), a name is not registered, the
            classes of several names differ, or the fraction selects no image.
        AnnotationError: the json cannot be used, its sizes differ from the images', or nothing is left.
    """
    json, root = own_labels(json, root, format, split)
    if json is not None:
        dicts = without_absent(_load_own(json, root), json, allow_missing)
        _register(json, root)
        source = json
    else:
        named = (names,) if isinstance(names, str) else tuple(names)
        if not named:
            raise UserError(
                "no data set is named: set dataset.names, dataset.root, or dataset.json and its root"
            )
        dicts = [sample for name in named for sample in _load_named(name, allow_missing)]
        check_same_registered("thing_classes", named)
        source = ", ".join(named)
    dicts = _of_their_sizes(dicts, source)
    dicts = _with_usable_annotations(dicts, source, masks)
    if filter_empty:
        dicts = _without_empty(dicts, source)
    dicts = take_fraction(dicts, fraction, fraction_seed, source)
    classes = [a["category_id"] for s in dicts for a in s["annotations"] if not a.get("iscrowd")]
    counts = (len(dicts), len(classes), len(set(classes)))
    logger.info("%s: %d images, %d instances of %d classes", source, *counts)
    return dicts


def own_dataset_name(json: str) -> str:
    """The user's own data's name in Detectron2's catalogs: their address, with an absolute path."""
    address = address_of(json)
    return str(address._replace(path=absolute(address.path)))


def own_labels(
    json: str | None, root: str | None, format: str | None = None, split: str | None = None
) -> tuple[str | None, str | None]:
    """The user's data as one string, ``[FORMAT:]PATH[#SPLIT]``, and a json's image folder; or two Nones.

    Arguments and errors are those of `detection_dataset`.
    """
    if json is None and root is None:
        return None, None
    if json is None:
        json, root = root, None
    return str(address_of(str(json), format, split)), root


def json_facts(json: str) -> JsonFacts:
    """Facts about the user's own data, cached while they do not change. Errors as in `read_annotations`."""
    path = located(json)
    return _facts(path, stamp_of(path))


@lru_cache(maxsize=8)
def _facts(path: str, stamp: tuple[int, int] | None) -> JsonFacts:
    annotations = read_annotations(path)
    names = {identifier: "" for identifier in annotations.class_ids().values()}
    names |= {category.id: category.name for category in annotations.categories}
    images: dict[int, set[Any]] = {identifier: set() for identifier in names}
    has_masks = has_rle = False
    for image, instances in annotations:
        for instance in instances:
            images[instance.category_id].add(image.id)
            has_masks |= instance.mask is not None
            has_rle |= isinstance(instance.mask, dict) and not instance.iscrowd
    counts = tuple(len(members) for members in images.values())
    return JsonFacts(tuple(names.values()), counts, has_masks, has_rle)


def check_same_classes(train_json: str, test_json: str) -> None:
    """Refuse test classes that are numbered differently from the training classes, and name them."""
    train, test = json_facts(train_json).classes, json_facts(test_json).classes
    if train != test:
        differing = [f"{k}: {a} / {b}" for k, (a, b) in enumerate(zip(train, test)) if a != b]  # noqa: B905
        raise AnnotationError(
            f"{train_json} has {len(train)} classes, {test_json} {len(test)}; differing numbers: "
            f"{examples(differing) or 'those at the end'}. List the same 'categories', with the same ids, "
            "in both"
        )


def check_same_registered(key: str, names: Sequence[str]) -> None:
    """Refuse to concatenate datasets with different ``key``, i.e. ``thing_classes`` or ``stuff_classes``."""
    first, *others = names
    expected = MetadataCatalog.get(first).get(key)
    for name in others:
        if MetadataCatalog.get(name).get(key) != expected:
            raise UserError(
                f"dataset.names: {first} and {name} have different classes ({key}), so one model cannot "
                "learn both: name datasets with the same classes"
            )


def _load_own(json: str, root: str | None) -> list[dict[str, Any]]:
    annotations = read_annotations(json)
    return _samples(annotations, annotations.class_ids(), root)


def _samples(
    annotations: Annotations, classes: dict[int, int], root: str | None
) -> list[dict[str, Any]]:
    """A json's dataset dicts, in the order of image ids."""
    numbers = {identifier: number for number, identifier in classes.items()}
    files = files_of(annotations, root)
    return [
        {
            "file_name": file,
            "image_id": image.id,
            "height": image.height,
            "width": image.width,
            **{key: list(ids) for key in _OF_LVIS if (ids := getattr(image, key)) is not None},
            "annotations": [_instance(i, numbers[i.category_id]) for i in instances],
        }
        for file, (image, instances) in zip(files, annotations, strict=True)
    ]


def files_of(annotations: Annotations, root: str | None) -> list[str]:
    """The image files of labels, in order. UserError: they cannot be found, or a root is not applicable."""
    names = [image.file_name for image, _ in annotations]
    if annotations.folder is not None:
        if root is not None:
            raise UserError(
                f"dataset.root={root} does not apply: {annotations.path} locates its images itself. Omit it"
            )
        return [joined(annotations.folder, name) for name in names]
    try:
        return image_files(annotations.path, names, root)
    except UserError as error:  # pre-training has a different key for it
        raise UserError(str(error).replace("dataset.image_root", "dataset.root")) from None


def _instance(instance: Instance, number: int) -> dict[str, Any]:
    found = {
        "bbox": list(instance.box),
        "bbox_mode": BoxMode.XYWH_ABS,
        "category_id": number,
        "iscrowd": int(instance.iscrowd),
    }
    return found if instance.mask is None else {**found, "segmentation": instance.mask}


def _register(json: str, root: str | None) -> None:
    """Register it under its path, so that drawing and evaluation can find the class names."""
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
    metadata = MetadataCatalog.get(name)
    json_file, image_root = map(metadata.get, ("json_file", "image_root"))
    absent = [place for place in (json_file, image_root) if place and not PathManager.exists(place)]
    if absent:
        raise missing_dataset(name, absent, OWN_DATA)
    if (
        json_file
        and getattr(DatasetCatalog[name], "__qualname__", "").split(".")[0] in _DETECTRON2_LOADERS
    ):
        dicts = _load_registered(name, json_file, image_root)
    else:
        dicts = _checked(DatasetCatalog.get(name), name)
    return without_absent(dicts, json_file or name, allow_missing)


def _load_registered(name: str, json_file: str, image_root: str | None) -> list[dict[str, Any]]:
    """Load a json like Detectron2's own loader, also filling the metadata, but with validation."""
    metadata = MetadataCatalog.get(name)
    annotations = read_annotations(json_file, name)
    of_lvis = metadata.get("evaluator_type") == "lvis"
    mapping = metadata.get("thing_dataset_id_to_contiguous_id")
    classes = annotations.class_ids(mapping, first=1 if of_lvis else None)
    if metadata.get("thing_classes") is None:
        metadata.thing_classes = [category.name for category in annotations.categories]
    if mapping is None and not of_lvis:
        metadata.thing_dataset_id_to_contiguous_id = {i: number for number, i in classes.items()}
    return _samples(annotations, classes, image_root)


def _checked(dicts: list[dict[str, Any]], name: str) -> list[dict[str, Any]]:
    """The output of a custom loader, without annotations that cannot be read."""
    checked = []
    for sample in dicts:
        kept = list(sample.get("annotations", []))
        size: Any = (sample.get("height"), sample.get("width"))
        if None in size:
            size = upright_size(sample["file_name"]) or size
        upright = all(a["bbox_mode"] in (BoxMode.XYWH_ABS, BoxMode.XYXY_ABS) for a in kept)
        if kept and upright and None not in size:  # not for rotated boxes, which no json has
            entries = [_plain(annotation) for annotation in kept]
            found = check_instances(entries, size, f"{name}, {sample['file_name']}")
            kept = [
                _mended(annotation, entry, instance)
                for annotation, entry, instance in zip(kept, entries, found, strict=True)
                if instance is not None
            ]
        checked.append({**sample, "annotations": kept})
    return checked


def _mended(
    annotation: dict[str, Any], entry: dict[str, Any], instance: Instance
) -> dict[str, Any]:
    """An annotation with the validated mask, and with the mask's box if its own was unreadable."""
    mended = dict(annotation)
    if entry["bbox"] != list(instance.box):
        mended |= {"bbox": list(instance.box), "bbox_mode": BoxMode.XYWH_ABS}
    return mended if instance.mask is None else {**mended, "segmentation": instance.mask}


def _plain(annotation: dict[str, Any]) -> dict[str, Any]:
    """An annotation with an XYWH box and lists instead of arrays, as in a json."""
    box, mask = np.asarray(annotation["bbox"]), annotation.get("segmentation")
    if box.shape == (4,) and annotation["bbox_mode"] == BoxMode.XYXY_ABS:
        box = np.concatenate((box[:2], box[2:] - box[:2]))
    if isinstance(mask, list):
        mask = [part.tolist() if isinstance(part, np.ndarray) else part for part in mask]
    return {**annotation, "bbox": box.tolist(), "segmentation": mask}


def _of_their_sizes(dicts: list[dict[str, Any]], source: str) -> list[dict[str, Any]]:
    """Compare the sizes of a few images, spread over the dataset, with those in the annotations.

    If some were annotated on a JPEG's stored pixels, ignoring EXIF, all such images are read like that.
    """
    few = dicts[:: -(-len(dicts) // _SIZES_CHECKED) or 1]
    few = [sample for sample in few if "height" in sample and "://" not in sample["file_name"]]
    wrong = []
    if any(_is_stored(sample) for sample in few):
        with ThreadPoolExecutor(READERS) as pool:
            stored = list(pool.map(_is_stored, dicts))
        names = [sample["file_name"] for sample, so in zip(dicts, stored, strict=True) if so]
        logger.warning(
            "%s: %d photos that EXIF turns on their side were annotated as they are stored, such as %s: they "
            "are read without the turn",
            *(source, len(names), examples(names)),
        )
        dicts = [
            {**sample, "file_name": stored_jpeg(sample["file_name"])} if so else sample
            for sample, so in zip(dicts, stored, strict=True)
        ]
        few = [sample for sample in few if sample["file_name"] not in names]
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
    return dicts


def _is_stored(sample: dict[str, Any]) -> bool:
    """Whether the annotations have the size of a JPEG's stored pixels rather than of the upright photo."""
    if (
        "height" not in sample
        or sample["height"] == sample["width"]
        or "://" in sample["file_name"]
    ):
        return False
    return stored_size(sample["file_name"]) == (sample["height"], sample["width"])


def _with_usable_annotations(
    dicts: list[dict[str, Any]], source: str, masks: bool | None
) -> list[dict[str, Any]]:
    """Leave out instances without a mask if masks are used."""
    has_masks = any("segmentation" in a for sample in dicts for a in sample["annotations"])
    if masks and not has_masks:
        raise AnnotationError(f"{source} has boxes only, and dataset.masks=true insists on masks")
    if masks is None and not has_masks:
        logger.warning(
            "%s has boxes only, no masks: train a model without mask head, and without "
            "mapper.use_instance_mask and mapper.recompute_boxes",
            source,
        )
    keep_masks = has_masks and masks is not False
    bare, cleaned = [], []
    for sample in dicts:
        kept = []
        for annotation in sample["annotations"]:
            if not keep_masks:
                kept.append({k: v for k, v in annotation.items() if k != "segmentation"})
            elif "segmentation" in annotation:
                kept.append(annotation)
            else:
                bare.append(sample["image_id"])
        cleaned.append({**sample, "annotations": kept})
    if bare:
        logger.warning(
            "%s: %d instances have no mask, nor a polygon of three points, such as in the images %s: "
            "left out",
            *(source, len(bare), examples(dict.fromkeys(bare))),
        )
    return cleaned


def _without_empty(dicts: list[dict[str, Any]], source: str) -> list[dict[str, Any]]:
    """Leave out images with nothing to learn: no annotation, or crowds only."""
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
