"""Where photos come from: a folder, a text list or a COCO json."""

import logging
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from ..annotations.coco import read_images
from ..errors import UserError, examples
from ..files import exists, read_text
from .image_files import files_in, image_files, without_absent
from .label_images import label_files
from .listing import files_below
from .reading import IMAGE_EXTENSIONS

logger = logging.getLogger(__name__)


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
        return from_folder(path)
    if not exists(path):
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


def from_folder(folder: str) -> list[dict[str, Any]]:
    """Those of a folder and its sub-folders, sorted; see :func:`images_from`."""
    paths, _ = files_below(folder)
    if not paths:
        raise UserError(
            f"no image in {os.path.abspath(folder)} or its sub-folders: looked for files ending in "
            f"{' '.join(sorted(IMAGE_EXTENSIONS))} (in any case)"
        )
    labels = _labels_beside(folder, paths)
    return [
        {"file_name": os.path.join(folder, path), "image_id": path}
        for path in paths
        if path not in labels
    ]


def _labels_beside(folder: str, paths: Sequence[str]) -> set[str]:
    """Label images that lie beside their photos, with their names but for the extension."""
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
        raise UserError(f"{os.path.abspath(path)} names no image: one path a line is expected")
    files = files_in(folder, lines, path)
    return [{"file_name": file, "image_id": line} for file, line in zip(files, lines, strict=True)]


def _from_json(path: str, image_root: str | None) -> list[dict[str, Any]]:
    images = read_images(path)
    files = image_files(path, [image.file_name for image in images], image_root)
    return [
        {
            "file_name": file,
            "image_id": image.id,
            **({"height": image.height, "width": image.width} if image.height else {}),
        }
        for file, image in zip(files, images, strict=True)
    ]
