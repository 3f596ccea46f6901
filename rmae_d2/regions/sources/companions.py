"""Files that belong to individual images: `<same relative path>.npy`, `.json` or `.png`."""

import os
import posixpath
from collections.abc import Mapping
from typing import Any

from ...errors import UserError


def check_folder(folder: str | os.PathLike[str], remedy: str) -> str:
    """The folder as text; a local one must exist, otherwise every image would fail."""
    path = os.fspath(folder)
    if "://" not in path and not os.path.isdir(path):
        raise UserError(f"there is no folder {os.path.abspath(path)}. {remedy}")
    return path


def find_companion(
    folder: str, dataset_dict: Mapping[str, Any], extension: str, remedy: str
) -> str:
    """Local path of the file that belongs to an image; FileNotFoundError names the places tried.

    Tried in turn: the image's path relative to its data set (`image_id`) with the extension
    replaced, then the name of its file alone.
    """
    from iopath.common.file_io import g_pathmgr

    tried = [posixpath.join(folder, name) for name in _names(dataset_dict, extension)]
    for path in tried:
        if g_pathmgr.isfile(path):
            local: str = g_pathmgr.get_local_path(path)
            return local
    raise FileNotFoundError(
        f"no regions for the image {dataset_dict.get('file_name')}: there is no "
        f"{' and no '.join(tried)}. {remedy}"
    )


def _names(dataset_dict: Mapping[str, Any], extension: str) -> list[str]:
    names = [str(dataset_dict["file_name"]).rpartition("/")[2]]
    image_id = dataset_dict.get("image_id")
    if isinstance(image_id, str):
        relative = posixpath.normpath(image_id)
        if not posixpath.isabs(relative) and not relative.startswith(".."):
            names.insert(0, relative)
    return list(dict.fromkeys(posixpath.splitext(name)[0] + extension for name in names))


def check_size(
    path: str,
    found: tuple[int, ...],
    image: tuple[int, ...],
    remedy: str = "Make its regions again from this image.",
) -> None:
    """Raise UserError if a file's regions (H, W) differ in size from the upright image (H, W, ...)."""
    size = image[:2]
    if found != size:
        turned = " The photo is turned by its EXIF orientation." if found[::-1] == size else ""
        raise UserError(
            f"{path} is of size {found} (height, width), its image is {size}.{turned} {remedy}"
        )
