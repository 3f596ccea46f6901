"""Images below a folder."""

import os
from collections.abc import Callable
from pathlib import Path

from ..images import IMAGE_EXTENSIONS


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
