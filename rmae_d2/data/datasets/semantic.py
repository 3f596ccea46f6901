"""Semantic segmentation for configs: ADE20K and registered datasets by name, own data by two folders."""

import logging
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from detectron2.data import DatasetCatalog, MetadataCatalog
from detectron2.utils.file_io import PathManager

from ...annotations.missing import missing_dataset, unknown_dataset
from ...errors import AnnotationError, UserError, examples
from ...listing import files_below
from ...photos.label_images import (
    IGNORE_LABEL,
    LABEL_EXTENSIONS,
    MAX_CLASSES,
    label_files,
    read_labels,
)
from ...pixels import upright_size
from .detection import check_same_registered
from .fraction import take_fraction
from .images_only import images_from

logger = logging.getLogger(__name__)

#: Number of label images read and checked when a dataset is listed, spread over it.
_LABELS_CHECKED = 32

_ADE20K = "ade20k_sem_seg_"
_OWN = "dataset.images=FOLDER dataset.labels=FOLDER dataset.num_classes=N"


def semantic_dataset(
    names: Sequence[str] | str = (),
    images: str | None = None,
    labels: str | None = None,
    num_classes: int | None = None,
    *,
    zero_is_ignored: bool = False,
    allow_missing: float = 0.01,
    fraction: float | None = None,
    fraction_seed: int = 0,
) -> list[dict[str, Any]]:
    """List images with their label images.

    ``ade20k_sem_seg_train`` and ``_val`` are read from the official release, ``ADEChallengeData2016/
    {images,annotations}/{training,validation}``, or from the output of Detectron2's script,
    ``annotations_detectron2``, if only that exists.

    Args:
        names: registered datasets, concatenated; used if no ``images`` are given.
        images: the user's own data: a folder of images, searched recursively.
        labels: the user's own data: a folder of label images (see `read_labels`) with the same names as the
            images, except for the extension, in the same sub-folders.
        num_classes: C; required for the user's own data, checked against a registered dataset's.
        zero_is_ignored: for the user's own data: 0 is not a class, and classes are 1 to C.
        allow_missing: fraction of the images that may lack a label image; they are left out with a warning.
        fraction: for training with few labels: the fraction of the images to use, see `take_fraction`; None
            for all.
        fraction_seed: another seed selects other images. It is not the training seed.

    Returns:
        dataset dicts: ``file_name``, ``sem_seg_file_name``, ``image_id``, ``num_classes``,
        ``zero_is_ignored``. Labels are still those of the files; mapper and evaluator shift them.

    Raises:
        UserError: folders or files do not exist (says how to get them), a name is not registered, the
            classes of several names differ, arguments do not belong together, or the fraction selects no
            image.
        AnnotationError: one of the few labels that are checked is out of range, in colour, or of another
            size than its image.
    """
    if images is not None:
        if labels is None or num_classes is None:
            given = {"dataset.labels": labels, "dataset.num_classes": num_classes}
            lacking = " and ".join(key for key, value in given.items() if value is None)
            raise UserError(
                f"dataset.images={images} lacks {lacking}: own "
                "data need all of dataset.images, dataset.labels (two folders) and dataset.num_classes"
            )
        _check_num_classes(num_classes)
        dicts = _pairs(os.path.expanduser(images), os.path.expanduser(labels), allow_missing)
        facts = {"num_classes": num_classes, "zero_is_ignored": zero_is_ignored}
        dicts = [{**sample, **facts} for sample in dicts]
        source = images
    else:
        named = _named(names)
        if labels is not None:
            raise UserError(f"dataset.labels={labels} is of own data, which need dataset.images")
        dicts = [sample for name in named for sample in _load_named(name, allow_missing)]
        check_same_registered("stuff_classes", named)
        source = ", ".join(named)
        known = len(semantic_classes(named))
        if num_classes is not None and num_classes != known:
            raise UserError(
                f"{source} has {known} classes, num_classes={num_classes}: set "
                f"model.sem_seg_head.num_classes={known}"
            )
    _check_few(dicts, source)
    dicts = take_fraction(dicts, fraction, fraction_seed, source)
    counts = (len(dicts), dicts[0]["num_classes"])
    logger.info("%s: %d images with labels of %d classes", source, *counts)
    return dicts


def semantic_classes(
    names: Sequence[str] | str = (),
    images: str | None = None,
    num_classes: int | None = None,
    zero_is_ignored: bool = False,
) -> tuple[str, ...]:
    """Names of the classes of `semantic_dataset`, in order.

    For the user's own data, they are the values in the label files: "0" to "C - 1", or "1" to "C" with
    zero_is_ignored. UserError: a name is not registered, or a dataset has no semantic labels.
    """
    if images is not None:
        if num_classes is None:
            raise UserError("own data need num_classes")
        first = first_label(images=images, zero_is_ignored=zero_is_ignored)
        return tuple(str(value) for value in range(first, first + num_classes))
    name = _named(names)[0]
    classes = MetadataCatalog.get(name).get("stuff_classes")
    if not classes:
        raise UserError(f"the dataset {name} has no semantic labels (no stuff_classes)")
    _check_num_classes(len(classes))
    return tuple(classes)


def first_label(
    names: Sequence[str] | str = (), images: str | None = None, zero_is_ignored: bool = False
) -> int:
    """The value of class 0 in the label files of `semantic_dataset`: 1 if 0 is not a class, else 0.

    For ADE20K it is that of the official release, 1, unless only Detectron2's converted folder exists.
    """
    if images is not None:
        return int(zero_is_ignored)
    name = _named(names)[0]
    if not name.startswith(_ADE20K):
        return 0
    try:
        return int(_ade20k_labels(name)[1])
    except UserError:
        return 1


def _named(names: Sequence[str] | str) -> tuple[str, ...]:
    named = (names,) if isinstance(names, str) else tuple(names or ())
    if not named:
        raise UserError(
            "no data set is named: set dataset.names, or dataset.images, dataset.labels and "
            "dataset.num_classes"
        )
    for name in named:
        if name not in DatasetCatalog:
            raise unknown_dataset(name, DatasetCatalog.list(), "dataset.images and dataset.labels")
    return named


def _check_num_classes(num_classes: int) -> None:
    if not 0 < num_classes <= MAX_CLASSES:
        raise UserError(
            f"num_classes={num_classes}: 1 to {MAX_CLASSES} are possible, for label {IGNORE_LABEL} is that "
            "of pixels without a class"
        )


def _load_named(name: str, allow_missing: float) -> list[dict[str, Any]]:
    facts = {"num_classes": len(semantic_classes(name)), "zero_is_ignored": False}
    metadata = MetadataCatalog.get(name)
    if name.startswith(_ADE20K):
        folder, facts["zero_is_ignored"] = _ade20k_labels(name)
        dicts = _pairs(metadata.image_root, folder, allow_missing)
        return [{**sample, **facts} for sample in dicts]
    if metadata.get("ignore_label", IGNORE_LABEL) != IGNORE_LABEL:
        raise UserError(
            f"the dataset {name} has ignore_label={metadata.ignore_label}, and only {IGNORE_LABEL} is "
            "understood"
        )
    try:
        dicts = DatasetCatalog.get(name)
    except (FileNotFoundError, AssertionError) as error:
        raise missing_dataset(name, [], _OWN, str(error)) from error
    if not dicts or "sem_seg_file_name" not in dicts[0]:
        raise UserError(f"the dataset {name} has no label images (no sem_seg_file_name)")
    return [{"image_id": sample["file_name"], **sample, **facts} for sample in dicts]


def _ade20k_labels(name: str) -> tuple[str, bool]:
    """The folder of labels, and whether it is the official release's, whose 0 is not a class."""
    metadata = MetadataCatalog.get(name)
    split = Path(metadata.image_root).name
    official = str(Path(metadata.image_root).parents[1] / "annotations" / split)
    if not PathManager.isdir(metadata.image_root):
        raise missing_dataset(name, [metadata.image_root], _OWN)
    for folder, shifted in ((official, True), (metadata.sem_seg_root, False)):
        if PathManager.isdir(folder):
            return folder, shifted
    raise missing_dataset(name, [official, metadata.sem_seg_root], _OWN)


def _pairs(images: str, labels: str, allow_missing: float) -> list[dict[str, Any]]:
    """Pair images with the label images of the same relative names."""
    for folder, key in ((images, "images"), (labels, "labels")):
        if not os.path.isdir(folder):
            raise UserError(
                f"there is no folder {os.path.abspath(folder)} (given as dataset.{key})"
            )
    by_stem: dict[str, list[str]] = {}
    for path in files_below(labels)[0]:
        stem, extension = os.path.splitext(path)
        if extension.lower() in LABEL_EXTENSIONS:
            by_stem.setdefault(stem, []).append(path)
    photos = images_from(images)
    in_one_folder = os.path.realpath(images) == os.path.realpath(labels)
    if in_one_folder:
        by_stem = {stem: label_files(labels, paths) for stem, paths in by_stem.items()}
    of_labels = {os.path.realpath(os.path.join(labels, p)) for ps in by_stem.values() for p in ps}
    photos = [p for p in photos if os.path.realpath(p["file_name"]) not in of_labels]
    pairs, bare, double = [], [], []
    for sample in photos:
        own = by_stem.get(os.path.splitext(sample["image_id"])[0], [])
        if not own:
            bare.append(sample["image_id"])
        elif len(own) > 1:
            double.append(", ".join(own))
        else:
            pairs.append({**sample, "sem_seg_file_name": os.path.join(labels, own[0])})
    if in_one_folder:
        with_photo = {os.path.splitext(photo["image_id"])[0] for photo in photos}
        bare += [
            path for stem, paths in by_stem.items() if stem not in with_photo for path in paths
        ]
    if double:
        raise AnnotationError(
            f"{labels} has several label images for one image: {examples(double)}; leave one of each"
        )
    if bare:
        message = (
            f"{len(bare)} of the {len(bare) + len(pairs)} images in {os.path.abspath(images)} have no label "
            f"image in {os.path.abspath(labels)}, such as {examples(bare)}"
        )
        if not pairs or len(bare) > allow_missing * (len(bare) + len(pairs)):
            raise UserError(
                f"{message}. At most {allow_missing:.0%} may be without: a label image has its image's name, "
                f"but for the extension ({' '.join(LABEL_EXTENSIONS)})"
            )
        logger.warning("%s. They are left out", message)
    return pairs


def _check_few(dicts: list[dict[str, Any]], source: str) -> None:
    """Check the sizes and classes of a few label images, spread over the dataset."""
    few = dicts[:: -(-len(dicts) // _LABELS_CHECKED)]
    few = [sample for sample in few if "://" not in sample["sem_seg_file_name"]]
    found: set[int] = set()
    for sample in few:
        labels = read_labels(
            sample["sem_seg_file_name"], sample["num_classes"], sample["zero_is_ignored"]
        )
        size = upright_size(sample["file_name"])
        if size is not None:
            check_label_size(sample, size, labels.shape)
        found.update(np.unique(labels).tolist())
    if not few:
        return
    classes = found - {IGNORE_LABEL}
    void = f"0 or {IGNORE_LABEL}" if few[0]["zero_is_ignored"] else str(IGNORE_LABEL)
    num_classes = few[0]["num_classes"]
    if not classes:
        raise AnnotationError(
            f"{source}: all pixels of the {len(few)} label images looked at are {void}, which is not a "
            "class: there is nothing to learn"
        )
    if num_classes == 2 and found == {0, IGNORE_LABEL}:
        raise AnnotationError(
            f"{source}: the {len(few)} label images looked at hold 0 and 255 alone, and 255 is not a class: "
            "save masks of 0 and 255 as 0 and 1"
        )
    if len(classes) < 2 <= num_classes:
        logger.warning(
            "%s: the %d label images looked at show %d of the %d classes; %s is not a class",
            *(source, len(few), len(classes), num_classes, void),
        )


def check_label_size(
    sample: dict[str, Any], image_size: Sequence[int], label_size: Sequence[int]
) -> None:
    """Raise AnnotationError if labels and the upright image differ in (height, width)."""
    if tuple(image_size[:2]) != tuple(label_size[:2]):
        raise AnnotationError(
            f"{sample['sem_seg_file_name']} is {label_size[0]}x{label_size[1]} (height x width), its image "
            f"{sample['file_name']} is {image_size[0]}x{image_size[1]}: resize neither alone, and mind that "
            "images are turned as their EXIF orientation says"
        )
