"""Labelled photos: registered by name, in folders like ``root/{train,val}/<class>/*.jpg``, or in shards.

Folders need nothing else: class indices are the positions of their names in sorted order, as in torchvision.
"""

import logging
import os
from collections import Counter
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import Any

from detectron2.data import DatasetCatalog

from ...annotations.formats.addresses import address_of, split_folders, split_named
from ...annotations.formats.recognise import FORMATS, recognise
from ...annotations.image_labels import read_image_labels
from ...annotations.missing import unknown_dataset
from ...errors import AnnotationError, UserError, examples
from ...listing import IMAGE_EXTENSIONS, files_below, is_image
from .fine_grained import OWN_CLASSES, FineGrained
from .fraction import take_fraction

logger = logging.getLogger(__name__)

#: Formats that contain each image's class.
_WITH_LABELS = ("parquet", "imagefolder", "webdataset")
# Folders listed in parallel: network storage has high latency but serves many requests at once.
_LISTERS = 16
# The contents of a class folder: images, and other visible files; relative paths, forward slashes.
_ClassFolder = tuple[list[str], list[str]]


def classification_dataset(
    root: str | Path | None = None,
    split: str | None = "train",
    *,
    names: Sequence[str] | str = (),
    classes_from: str | None = "train",
    num_classes: int | None = None,
    per_class: int | None = None,
    fraction: float | None = None,
    fraction_seed: int = 0,
    fraction_per_class: bool = True,
    split_key: str = "split",
    format: str | None = None,
) -> list[dict[str, Any]]:
    """List images with their classes.

    Folders are listed without opening files, so an unreadable file is only noticed when it is loaded. Hidden
    files are skipped, folders within a class folder are searched, and files other than images are left out
    with a warning.

    Args:
        root: folder of the splits; None for ``names``, or, without these, ``imagenet`` below
            ``$DETECTRON2_DATASETS`` (or ``./datasets``).
        split: folder below ``root``; "" or None if the class folders are in ``root`` itself.
        names: registered datasets, concatenated, such as ``cub_200_train``; used if no root is given.
        classes_from: the split whose folders number the classes, if it exists; otherwise ``split`` itself.
        num_classes: the model's number, to be checked against the data; None for no check.
        per_class: use at most this many images per class, the first in sorted order; None for all.
        fraction: for training with few labels: the fraction of the images to use, see `take_fraction`; None
            for all.
        fraction_seed: another seed selects other images. It is not the training seed.
        fraction_per_class: use that fraction of each class, but at least one image; False for the fraction of
            all images, whatever their classes.
        split_key: what the config calls ``split``, for messages.
        format: format of ``root``, one of `NAMES`; detected by default. Parquet, imagefolder and WebDataset
            have labels of their own, whatever their folders; all others are class folders.

    Returns:
        dataset dicts, sorted by class, then name: ``file_name``; ``image_id``, the path relative to ``root``;
        ``label``, an int from 0.

    Raises:
        UserError: something is missing (says what, where it was expected and how to get it); a name is not
            registered, or the classes of several names differ; the number of classes is not the model's;
            ``per_class`` is below 1 or combined with a fraction; or the fraction selects no image.
        AnnotationError: there are classes that the training images lack, or files of a registered dataset
            cannot be used.
    """
    if per_class is not None and (not isinstance(per_class, int) or per_class < 1):
        raise UserError(f"per_class={per_class}: images of each class, 1 or more; null for all")
    if per_class is not None and fraction is not None:
        raise UserError(
            f"dataset.per_class={per_class} and dataset.fraction={fraction} both choose images: leave out one"
        )
    if root is None and names:
        dicts, source = _named(names, num_classes)
    else:
        labelled = _of_labels(root, split, format)
        if labelled is not None:
            dicts, classes, source = labelled
            _check_number(len(classes), num_classes, f"{source} has {len(classes)} classes")
        else:
            folders = (root, split or "", classes_from or "", num_classes, split_key)
            dicts, source = _of_folders(*folders)
    if per_class is not None:
        dicts = _first(dicts, per_class)
    counts = (len(dicts), len({sample["label"] for sample in dicts}), source)
    logger.info("%d images of %d classes from %s", *counts)
    return take_fraction(dicts, fraction, fraction_seed, source, per_class=fraction_per_class)


def _first(dicts: list[dict[str, Any]], per_class: int) -> list[dict[str, Any]]:
    """At most ``per_class`` images of each class."""
    counts: Counter[int] = Counter()
    kept = []
    for sample in dicts:
        counts[sample["label"]] += 1
        if counts[sample["label"]] <= per_class:
            kept.append(sample)
    return kept


def _of_labels(
    root: str | Path | None, split: str | None, format: str | None = None
) -> tuple[list[dict[str, Any]], list[str], str] | None:
    """Dataset dicts, classes and name of a data set that has its own labels; None for class folders."""
    if root is None:
        return None
    address = address_of(root, format)
    told = address.format or any(FORMATS[name].why(address.path) for name in _WITH_LABELS)
    if not told or recognise(address).name not in _WITH_LABELS:
        return None
    address = address._replace(split=address.split or split or None)
    labels = read_image_labels(str(address))
    dicts = [
        {"file_name": image.file_name, "image_id": image.id, "label": number}
        for image, number in labels.images
    ]
    dicts.sort(key=lambda sample: sample["label"])
    return dicts, [category.name for category in labels.categories], str(address)


def _of_folders(
    root: str | Path | None,
    split: str,
    classes_from: str,
    num_classes: int | None,
    split_key: str,
) -> tuple[list[dict[str, Any]], str]:
    """Dataset dicts, and the folder they come from."""
    folder = _split_folder(root, split)
    own = _class_names(folder, split_key)
    names = _numbering(root, split, classes_from, own)
    above = os.path.dirname(folder) if split else folder
    _check_number(len(names), num_classes, f"{above} has {len(names)} class folders")
    with ThreadPoolExecutor(_LISTERS) as pool:
        places = (os.path.join(folder, name) for name in own)
        listed = dict(
            zip(own, pool.map(partial(files_below, onerror=_refuse), places), strict=True)
        )
    _check_contents(folder, names, listed, trained=split == classes_from)
    inside = os.path.relpath(folder, _split_folder(root, "")) if split else ""
    dicts = []
    for label, name in enumerate(names):
        images = listed[name][0] if name in listed else []
        place, key = os.path.join(folder, name, ""), f"{inside}/{name}/".lstrip("/")
        dicts += [
            {"file_name": place + image, "image_id": key + image, "label": label}
            for image in images
        ]
    return dicts, folder


def _check_number(count: int, num_classes: int | None, what: str) -> None:
    if num_classes not in (None, count):
        raise UserError(f"{what}, the model {num_classes} classes: set model.num_classes={count}")


def _named(names: Sequence[str] | str, num_classes: int | None) -> tuple[list[dict[str, Any]], str]:
    """Dataset dicts of registered datasets, and their names."""
    named = (names,) if isinstance(names, str) else tuple(names)
    source = ", ".join(named)
    found = [_fine_grained(name).load() for name in named]
    classes = found[0][1]
    for name, (_, others) in zip(named, found, strict=True):
        if others != classes:
            raise UserError(
                f"dataset.names: {named[0]} and {name} have different classes, so one model cannot learn "
                "both: name datasets with the same classes"
            )
    _check_number(len(classes), num_classes, f"{source} has {len(classes)} classes")
    return [sample for dicts, _ in found for sample in dicts], source


def _fine_grained(name: str) -> FineGrained:
    if name not in DatasetCatalog:
        raise unknown_dataset(name, DatasetCatalog.list(), "dataset.root")
    dataset = DatasetCatalog[name]
    if not isinstance(dataset, FineGrained):
        known = [n for n in DatasetCatalog.list() if isinstance(DatasetCatalog[n], FineGrained)]
        raise UserError(
            f"the dataset {name} does not give each image a class; those that do are "
            f"{', '.join(sorted(known))}; own data: {OWN_CLASSES}"
        )
    return dataset


def class_names(
    root: str | Path | None = None, split: str = "train", names: Sequence[str] | str = ()
) -> list[str]:
    """Class names in the order of their indices; arguments and errors as in `classification_dataset`."""
    if root is None and names:
        name = names if isinstance(names, str) else names[0]
        return list(_fine_grained(name).read(name).classes)
    if (labelled := _of_labels(root, split)) is not None:
        return labelled[1]
    return _class_names(_split_folder(root, split))


def knn_dataset(
    root: str | Path | None = None,
    bank_split: str | None = "train",
    query_split: str | None = "val",
    *,
    bank_per_class: int | None = None,
    query_per_class: int | None = None,
) -> list[dict[str, Any]]:
    """Images for `KNNEvaluator`: first those that vote, then the queries.

    Args:
        bank_split: folder of the images that vote; "" or None for ``root`` itself.
        query_split: folder of the images whose classes are predicted; None to predict each voter from the
            others instead (leave one out), for folders without a second split.
        bank_per_class, query_per_class: largest number of images per class; None for all.

    Returns:
        dicts from `classification_dataset`, which also defines root and the errors, with ``bank``, a bool.
    """
    listed = [("bank_split", bank_split, bank_per_class)]
    if query_split is not None:
        listed.append(("query_split", query_split, query_per_class))
    return [
        {**sample, "bank": key == "bank_split"}
        for key, split, count in listed
        for sample in classification_dataset(
            root, split, classes_from=bank_split, per_class=count, split_key=key
        )
    ]


def _split_folder(root: str | Path | None, split: str) -> str:
    if root is None:
        root = os.path.join(os.getenv("DETECTRON2_DATASETS", "datasets"), "imagenet")
    above = os.path.expanduser(str(root))
    named = split_folders(above).get(split_named(split)) if os.path.isdir(above) else None
    if named is not None and not os.path.isdir(os.path.join(above, split)):
        split = named
    return os.path.join(above, split).rstrip("/") or "/"


def _class_names(folder: str, split_key: str = "split") -> list[str]:
    """Sorted names of a folder's sub-folders; there must be at least one."""
    if not os.path.isdir(folder):
        raise UserError(_missing_message(folder, "there is no such folder", split_key))
    try:
        visible = [entry for entry in os.scandir(folder) if not entry.name.startswith(".")]
    except PermissionError as error:
        raise UserError(f"{folder}: this user may not list it") from error
    loose = sorted(entry.name for entry in visible if is_image(entry.name))
    names = sorted(e.name for e in visible if not is_image(e.name) and e.is_dir())
    if not names and loose:
        raise UserError(
            f"{len(loose)} images, such as {examples(loose)}, lie in {os.path.abspath(folder)} itself, where "
            "a folder per class is expected, <class>/<image>. (ImageNet's validation images come that way: "
            "sort them into folders by the labels of the development kit)"
        )
    if not names:
        raise UserError(_missing_message(folder, "the folder has no class folders", split_key))
    if loose:
        logger.warning(
            "%d images in %s are in no class folder, such as %s: they are left out",
            *(len(loose), folder, examples(loose)),
        )
    return names


def _missing_message(folder: str, detail: str, split_key: str) -> str:
    above = os.path.dirname(folder)
    lines = [
        f"no labelled images in {os.path.abspath(folder)}: {detail}.",
        f"  DETECTRON2_DATASETS = {os.environ.get('DETECTRON2_DATASETS', '(not set, so ./datasets)')}",
    ]
    beside: list[str] = []
    if not os.path.isdir(folder) and os.path.isdir(above):
        beside = sorted(entry.name for entry in os.scandir(above) if entry.is_dir())
    if beside:
        lines.append(f"  found there: {examples(beside)} (choose with dataset.{split_key}=NAME)")
    lines += [
        "  ImageNet:    https://image-net.org (free account), as imagenet/train/<class>/*.JPEG and "
        "imagenet/val/<class>/*.JPEG",
        "  own photos:  dataset.root=/photos with /photos/train/<class>/*.jpg and /photos/val/<class>/*.jpg",
    ]
    return "\n".join(lines)


def _numbering(root: str | Path | None, split: str, classes_from: str, own: list[str]) -> list[str]:
    """All classes in the order of their indices: those of the training images, which must include all."""
    reference = _split_folder(root, classes_from)
    if split == classes_from:
        return own
    if not os.path.isdir(reference):
        logger.info(
            "there is no %s: classes are numbered by the folders of %s itself",
            *(reference, split or root),
        )
        return own
    names = _class_names(reference)
    unknown = sorted(set(own) - set(names))
    if unknown:
        raise AnnotationError(
            f"{len(unknown)} of the {len(own)} class folders in {_split_folder(root, split)} are not in "
            f"{reference}, such as {examples(unknown)}: classes must have the same names in both"
        )
    return names


def _refuse(error: OSError) -> None:
    raise UserError(f"{error.filename}: this user may not list it") from error


def _check_contents(
    folder: str, names: list[str], listed: dict[str, _ClassFolder], trained: bool
) -> None:
    """Warn about files that are not images and about classes without any, which are an error in training."""
    empty = [name for name in names if name not in listed or not listed[name][0]]
    if len(empty) == len(names):
        raise UserError(
            f"no image in the {len(listed)} class folders of {os.path.abspath(folder)}: looked for files "
            f"ending in {' '.join(sorted(IMAGE_EXTENSIONS))} (in any case)"
        )
    if empty and trained:
        raise UserError(
            f"{len(empty)} of the {len(names)} class folders in {os.path.abspath(folder)} have no image, "
            f"such as {examples(empty)}: add images or take the folders away"
        )
    if empty:
        logger.warning(
            "%d of %d classes have no image in %s, such as %s: accuracy is that of the others",
            *(len(empty), len(names), folder, examples(empty)),
        )
    strays = [f"{name}/{file}" for name, (_, others) in listed.items() for file in others]
    if strays:
        logger.warning(
            "%d files in %s are not images by their names, such as %s: they are left out",
            *(len(strays), folder, examples(strays)),
        )
