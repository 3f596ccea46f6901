"""List images from a folder, a text list, a COCO json, or a data set in another format."""

import logging
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from .. import remote
from ..annotations.coco import read_images
from ..annotations.entries import Image
from ..annotations.formats.addresses import address_of, folder_of_split
from ..annotations.formats.coco_files import json_of
from ..annotations.formats.recognise import recognise
from ..errors import UserError, examples
from ..files import read_text
from ..listing import IMAGE_EXTENSIONS, files_below, is_image
from ..packed import PackedImages
from ..remote import absolute, is_remote
from .image_files import files_in, image_files, without_absent
from .label_images import label_files

logger = logging.getLogger(__name__)


def images_from(
    root: str | Path,
    image_root: str | Path | None = None,
    allow_missing: float | None = 0.01,
    *,
    format: str | None = None,
    split: str | None = None,
) -> Sequence[dict[str, Any]]:
    """List images without labels.

    Args:
        root: one of: a folder, possibly in an object store, which is searched recursively (links are
            followed, hidden files skipped); a ``.txt`` list, one path per line, absolute or relative to the
            list's folder (empty lines and lines that begin with ``#`` are skipped); a COCO-style ``.json``,
            of which ``images[].file_name`` (or ``coco_url``) is used; or ``[FORMAT:]PATH[#SPLIT]``, a data
            set that `recognise` knows. Of a folder with labels, all images are used unless a format or split
            is given.
        image_root: folder that the json's file names are relative to. It is found automatically if it is
            the json's own folder, beside the json, or beside an ``annotations`` folder that holds the json.
        allow_missing: fraction of a list's files that may be missing; they are left out with a warning. None
            keeps them.
        format, split: see `address_of`.

    Returns:
        dataset dicts in a fixed order (sorted, for folders) with ``file_name``; ``image_id``, which is the
        path relative to the folder, the list's line or the json's id; and ``height`` and ``width`` if the
        json has them. A packed folder gives a `PackedImages` with what was packed.

    Raises:
        UserError: the path does not exist or contains no image, too many of its files are missing, or the
            list or json cannot be parsed.
    """
    address = address_of(root, format, split)
    found, path = recognise(address), address.path
    if found.name == "images":
        return from_folder(folder_of_split(path, address.split))
    whole = address.format is None and address.split is None
    if whole and found.format.photos_only and os.path.isdir(path):
        logger.info("%s: all images in it and below are taken", path)
        return from_folder(path)
    if found.name == "packed":
        if address.split is not None:
            raise UserError(f"{path} has no split {address.split}: packed images have none")
        return PackedImages(path)
    if found.name == "list":
        return without_absent(_from_text(path), path, allow_missing)
    folder = None if image_root is None else os.path.expanduser(str(image_root))
    if found.name == "coco":
        json = json_of(path, address.split)
        images = read_images(json)
        files = image_files(json, [image.file_name for image in images], folder)
    else:
        json = str(found.address)
        images = read_images(json)
        files = [image.file_name for image in images]
    dicts = [_sample(file, image) for file, image in zip(files, images, strict=True)]
    return without_absent(dicts, json, allow_missing)


def from_folder(folder: str) -> list[dict[str, Any]]:
    """Images in a folder and its sub-folders, sorted; see `images_from`."""
    paths = _below_in_store(folder) if is_remote(folder) else files_below(folder)[0]
    if not paths:
        raise UserError(
            f"no image in {absolute(folder)} or its sub-folders: looked for files ending in "
            f"{' '.join(sorted(IMAGE_EXTENSIONS))} (in any case)"
        )
    labels = _labels_beside(folder, paths)
    return [
        {"file_name": os.path.join(folder, path), "image_id": path}
        for path in paths
        if path not in labels
    ]


def _below_in_store(folder: str) -> list[str]:
    """The counterpart of `files_below` for an object store."""
    return [
        name for name in remote.files_below(folder) if is_image(name) and "/." not in f"/{name}"
    ]


def _labels_beside(folder: str, paths: Sequence[str]) -> set[str]:
    """Label images that lie beside their photos and share their names except for the extension."""
    by_stem: dict[str, list[str]] = {}
    for path in paths:
        by_stem.setdefault(os.path.splitext(path)[0], []).append(path)
    found: set[str] = set()
    for members in by_stem.values():
        if len(members) > 1:
            labels = label_files(folder, members)
            found.update(labels if len(labels) < len(members) else ())
    if found:
        logger.warning(
            "%s: %d images of one channel lie beside photos of the same names, such as %s: taken for their "
            "labels and left out",
            *(folder, len(found), examples(sorted(found))),
        )
    return found


def _from_text(path: str) -> list[dict[str, Any]]:
    folder = os.path.dirname(path)
    lines = [line.strip() for line in read_text(path).splitlines()]
    lines = [line for line in lines if line and not line.startswith("#")]
    if not lines:
        raise UserError(f"{absolute(path)} names no image: one path per line is expected")
    files = files_in(folder, lines, path)
    return [{"file_name": file, "image_id": line} for file, line in zip(files, lines, strict=True)]


def _sample(file: str, image: Image) -> dict[str, Any]:
    size = {"height": image.height, "width": image.width} if image.height else {}
    return {"file_name": file, "image_id": image.id, **size}
