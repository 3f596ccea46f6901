"""Photos without labels, to pre-train on: a folder, a text list, a COCO json or a dataset's name."""

import hashlib
import json
import logging
import os
from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

from detectron2.data import DatasetCatalog, MetadataCatalog
from detectron2.utils.file_io import PathManager

from ..images import IMAGE_EXTENSIONS
from ...annotations.coco_json import examples
from ...annotations.missing import missing_dataset, unknown_dataset
from ...errors import UserError

logger = logging.getLogger(__name__)

#: Datasets whose images are one whole folder: listing it takes seconds, parsing COCO's json a minute and 2 GB.
_WHOLE_FOLDERS = {
    *("coco_2017_train", "coco_2017_val", "coco_2017_unlabeled"),
    *("imagenet_1k_train", "imagenet_1k_val", "scenes_train", "scenes_val"),
}

_OWN = "dataset.root=/photos (a folder, .txt list or COCO .json)"

#: One image of so many is held out for evaluation, and no more than the other number.
_HELD_OUT_SHARE, _HELD_OUT_MOST = 10, 1000


def images_from(
    root: str | Path, image_root: str | Path | None = None, allow_missing: float = 0.01
) -> list[dict[str, Any]]:
    """Lists images without labels.

    Args:
        root: one of a folder, searched with its sub-folders (links followed, hidden files skipped); a
            ``.txt`` list, one path a line, absolute or relative to the list's folder; empty lines and lines
            that begin with ``#`` are skipped; a COCO-style ``.json``, of which ``images[].file_name`` (or
            ``coco_url``) is used.
        image_root: folder that the json's file names are relative to. Found by itself where the
            json lies in it, beside it, or in an ``annotations`` folder beside it.
        allow_missing: share of a list's files that may be absent; they are left out with a warning.

    Returns:
        dataset dicts in a fixed order (folders: sorted): ``file_name``; ``image_id``, the path relative to
        the folder, the list's line or the json's id; ``height`` and ``width`` where the json has them.

    Raises:
        UserError: nothing there, no image in it, too many of its files absent, or a list or json that is
            not understood.
    """
    path = os.path.expanduser(str(root))
    if os.path.isdir(path):
        return _from_folder(path)
    if not PathManager.exists(path):
        raise UserError(
            f"there is no {os.path.abspath(path)} (given as root={root}): "
            f"give a folder of images, a .txt list or a COCO .json"
        )
    if path.lower().endswith(".txt"):
        return without_absent(_from_text(path), path, allow_missing)
    if path.lower().endswith(".json"):
        folder = None if image_root is None else os.path.expanduser(str(image_root))
        return without_absent(_from_json(path, folder), path, allow_missing)
    raise UserError(f"root={root} must be a folder of images, a .txt list or a COCO .json")


def pretrain_dataset(
    names: Sequence[str] = ("coco_2017_train",),
    root: str | Path | None = None,
    image_root: str | Path | None = None,
    *,
    held_out: bool | None = None,
) -> list[dict[str, Any]]:
    """The images to pre-train on.

    COCO, ImageNet and scenes are listed from their image folders: no annotation is needed or read.
    Other registered datasets come as registered, annotations included.

    Args:
        names: names in Detectron2's catalog; the sets are concatenated.
        root: own images instead of names, see :func:`images_from`; as ``image_root``.
        held_out: True for the images kept for evaluation, False for the others, None for all. Kept are a
            tenth, at most 1000, at least one: those whose ids have the smallest SHA-256.

    Returns:
        dataset dicts. With several names whose image ids collide, ids become ``name/id``.

    Raises:
        UserError: what is missing, where it was looked for, how to get it, what to try instead; a name that
            is not registered (names the nearest ones), or an unreadable list.
    """
    if root is not None:
        dicts, source = images_from(root, image_root), str(root)
    else:
        names = (names,) if isinstance(names, str) else tuple(names)
        sets = {name: _by_name(name) for name in names}
        dicts, source = [sample for members in sets.values() for sample in members], ", ".join(names)
        if len(sets) > 1 and len({sample["image_id"] for sample in dicts}) < len(dicts):
            for name, members in sets.items():
                for sample in members:
                    sample["image_id"] = f"{name}/{sample['image_id']}"
    if held_out is None:
        logger.info("%d images from %s", len(dicts), source)
        return dicts
    parts = _split(dicts, source)
    text = "%d images from %s, held out for evaluation" if held_out else "%d images from %s, %d held out"
    logger.info(text, len(parts[held_out]), source, *([] if held_out else [len(parts[True])]))
    return parts[held_out]


def _split(dicts: Sequence[dict[str, Any]], source: str) -> dict[bool, list[dict[str, Any]]]:
    """The images to train on, at False, and those held out, at True: by their ids, wherever they lie."""
    ids = sorted(
        {str(sample["image_id"]) for sample in dicts},
        key=lambda text: hashlib.sha256(text.encode()).digest(),
    )
    if len(ids) < 2:
        raise UserError(
            f"{source} has one image, of which none can be held out for evaluation: set train.eval_period=0, "
            "or name others with dataloader.test.dataset.root"
        )
    kept = set(ids[: min(max(len(ids) // _HELD_OUT_SHARE, 1), _HELD_OUT_MOST)])
    parts: dict[bool, list[dict[str, Any]]] = {False: [], True: []}
    for sample in dicts:
        parts[str(sample["image_id"]) in kept].append(sample)
    return parts


def _by_name(name: str) -> list[dict[str, Any]]:
    if name not in DatasetCatalog:
        raise unknown_dataset(name, DatasetCatalog.list(), "dataset.root")
    metadata = MetadataCatalog.get(name)
    keys = ["json_file", "panoptic_json", "image_root", "image_dir", "sem_seg_root"]
    if whole := name in _WHOLE_FOLDERS:
        keys = ["image_root"]
    places = [metadata.get(key) for key in keys if isinstance(metadata.get(key), str)]
    absent = [place for place in places if not PathManager.exists(place)]
    if absent:
        raise missing_dataset(name, absent, _OWN)
    try:
        return _from_folder(metadata.image_root) if whole else DatasetCatalog.get(name)
    except FileNotFoundError as error:
        raise missing_dataset(name, places, _OWN, str(error)) from error


def _from_folder(folder: str) -> list[dict[str, Any]]:
    paths, _ = files_below(folder)
    if not paths:
        raise UserError(
            f"no image in {os.path.abspath(folder)} or its sub-folders: looked for files ending in "
            f"{' '.join(sorted(IMAGE_EXTENSIONS))} (in any case)"
        )
    return [{"file_name": os.path.join(folder, path), "image_id": path} for path in paths]


def is_image(name: str) -> bool:
    """By the extension."""
    return os.path.splitext(name)[1].lower() in IMAGE_EXTENSIONS


def files_below(
    folder: str, onerror: Callable[[OSError], None] | None = None
) -> tuple[list[str], list[str]]:
    """Images and other files below a folder that are not hidden: relative paths with forward slashes, sorted.

    Links are followed. Folders that cannot be listed are ``onerror``'s, or left out.
    """
    images: list[str] = []
    others: list[str] = []
    seen: set[tuple[int, int]] = set()
    for parent, folders, files in os.walk(folder, onerror=onerror, followlinks=True):
        status = os.stat(parent)
        if (status.st_dev, status.st_ino) in seen:  # a link back to a folder already listed
            folders.clear()
            continue
        seen.add((status.st_dev, status.st_ino))
        # Sorted, so that of two links to one folder the same one is followed on every file system.
        folders[:] = sorted(name for name in folders if not name.startswith("."))
        relative = Path(parent).relative_to(folder)
        for name in files:
            if not name.startswith("."):
                (images if is_image(name) else others).append((relative / name).as_posix())
    return sorted(images), sorted(others)


def _from_text(path: str) -> list[dict[str, Any]]:
    folder = os.path.dirname(path)
    with PathManager.open(path, "r") as file:
        lines = [line.strip() for line in file]
    lines = [line for line in lines if line and not line.startswith("#")]
    if not lines:
        raise UserError(f"{os.path.abspath(path)} names no image: one path a line is expected")
    return [
        {"file_name": line if "://" in line else os.path.join(folder, line), "image_id": line}
        for line in lines
    ]


def _from_json(path: str, image_root: str | None) -> list[dict[str, Any]]:
    with PathManager.open(path, "r") as file:
        try:
            content = json.load(file)
        except ValueError as error:
            raise UserError(f"{path} is not JSON: {error}") from error
    images = content.get("images") if isinstance(content, dict) else None
    if not isinstance(images, list) or not images:
        found = sorted(content) if isinstance(content, dict) else type(content).__name__
        raise UserError(f"{path} is not in COCO's format: it needs a list 'images', it has {found}")
    names = [coco_image_name(image, path) for image in images]
    folder = image_folder(path, names, image_root)
    return [
        {
            "file_name": os.path.join(folder, name),
            "image_id": image.get("id", name),
            **{k: image[k] for k in ("height", "width") if isinstance(image.get(k), int)},
        }
        for image, name in zip(images, names, strict=True)
    ]


def coco_image_name(image: Any, path: str) -> str:
    """The file of an entry of a json's ``images``, relative to a folder that :func:`image_folder` finds.

    Raises:
        UserError: the entry has neither ``file_name`` nor, as LVIS has, ``coco_url``.
    """
    if isinstance(image, dict):
        if isinstance(image.get("file_name"), str):
            return str(image["file_name"])
        if isinstance(image.get("coco_url"), str):  # LVIS
            return "/".join(image["coco_url"].split("/")[-2:])
    raise UserError(f"{path} has an image without 'file_name' and 'coco_url': {image}")


def image_folder(path: str, names: Sequence[str], image_root: str | None) -> str:
    """The folder of the json's images: of the candidates, the one that has most of a few files."""
    candidates = _candidate_folders(path) if image_root is None else [image_root]
    few = names[:: -(-len(names) // 16)]
    hits = [sum(os.path.exists(os.path.join(place, name)) for name in few) for place in candidates]
    if max(hits):
        return candidates[hits.index(max(hits))]
    tried = "\n  ".join(os.path.abspath(candidate) for candidate in candidates)
    raise UserError(
        f"{os.path.abspath(path)} names {len(names)} images, such as {names[0]}, but none of those "
        f"tried is in any of\n  {tried}\nSay where they are with dataset.image_root=/folder"
    )


def _candidate_folders(path: str) -> list[str]:
    """Where a json's images may lie: beside it, or as COCO's beside its folder, then anywhere near.

    For annotations/instances_train2017.json COCO has train2017, others images/train2017 or images.
    """
    here = os.path.dirname(path) or os.curdir
    above = os.path.join(here, os.pardir)
    split = os.path.splitext(os.path.basename(path))[0].split("_")[-1]
    usual = [
        os.path.normpath(os.path.join(base, part))
        for base in (above, here)
        for part in (split, f"images/{split}", "images", "")
    ]
    siblings = sorted(os.path.normpath(entry.path) for entry in os.scandir(above) if entry.is_dir())
    return list(dict.fromkeys([os.path.normpath(here), *usual, *siblings]))


def without_absent(
    dicts: list[dict[str, Any]], path: str, allow_missing: float
) -> list[dict[str, Any]]:
    """Leaves out absent files. Lists each folder once: a stat a file takes hours on NFS."""
    local = [sample["file_name"] for sample in dicts if "://" not in sample["file_name"]]
    there: dict[str, set[str]] = {}
    for folder in {os.path.dirname(file) for file in local}:
        with suppress(FileNotFoundError, NotADirectoryError):
            there[folder] = set(os.listdir(folder or os.curdir))
    absent = {f for f in local if os.path.basename(f) not in there.get(os.path.dirname(f), ())}
    if not absent:
        return dicts
    message = (
        f"{len(absent)} of the {len(dicts)} files that {os.path.abspath(path)} names are absent, "
        f"such as {examples(os.path.abspath(file) for file in sorted(absent))}"
    )
    kept = [sample for sample in dicts if sample["file_name"] not in absent]
    if not kept or len(absent) > allow_missing * len(dicts):
        raise UserError(
            f"{message}. At most {allow_missing:.0%} may be: fetch them or take them out of the list"
        )
    logger.warning("%s. They are left out", message)
    return kept
