"""Which files are images, by their names, and those below a folder."""

import logging
import os
from collections.abc import Callable, Iterator
from pathlib import Path

from .errors import examples

logger = logging.getLogger(__name__)

#: What Pillow opens and people keep photos in; HEIC by an extra. Compared in lower case.
IMAGE_EXTENSIONS = frozenset(
    (".jpg", ".jpeg", ".jpe", ".jfif", ".png", ".webp", ".bmp", ".dib", ".tif", ".tiff", ".gif")
    + (".ppm", ".pgm", ".pbm", ".pnm", ".jp2", ".heic", ".heif", ".avif")
)


def is_image(name: str) -> bool:
    """By the extension."""
    return os.path.splitext(name)[1].lower() in IMAGE_EXTENSIONS


def files_below(
    folder: str, onerror: Callable[[OSError], None] | None = None
) -> tuple[list[str], list[str]]:
    """Images and other files below a folder that are not hidden: relative paths with forward slashes, sorted.

    FIFOs, sockets and devices of an image's name are left out with a warning. Links are followed. Folders
    that cannot be listed are ``onerror``'s, or left out.
    """
    images: list[str] = []
    others: list[str] = []
    odd: list[str] = []
    for parent, files in walk(folder, onerror):
        relative = Path(parent).relative_to(folder)
        special = {entry.name for entry in os.scandir(parent) if _is_special(entry)}
        odd += [(relative / name).as_posix() for name in special]
        for name in files:
            if not name.startswith(".") and name not in special:
                (images if is_image(name) else others).append((relative / name).as_posix())
    if odd:
        logger.warning(
            "%d FIFOs, sockets or devices in %s have an image's name, such as %s: they are left out",
            *(len(odd), folder, examples(sorted(odd))),
        )
    return sorted(images), sorted(others)


def walk(
    folder: str, onerror: Callable[[OSError], None] | None = None
) -> Iterator[tuple[str, list[str]]]:
    """A folder and those below it that are not hidden, with the names of their files; links are followed."""
    seen: set[tuple[int, int]] = set()
    for parent, folders, files in os.walk(folder, onerror=onerror, followlinks=True):
        status = os.stat(parent)
        if (status.st_dev, status.st_ino) in seen:  # a link back to a folder already listed
            folders.clear()
            continue
        seen.add((status.st_dev, status.st_ino))
        # Sorted, so that of two links to one folder the same one is followed on every file system.
        folders[:] = sorted(name for name in folders if not name.startswith("."))
        yield parent, files


def _is_special(entry: os.DirEntry[str]) -> bool:
    """Neither file nor folder, as listing tells; what links lead to is left to the reader."""
    known = entry.is_symlink() or entry.is_file() or entry.is_dir()
    return not known and is_image(entry.name)
