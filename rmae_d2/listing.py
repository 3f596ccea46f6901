"""Image files: recognition by name, and listing below a folder."""

import logging
import os
from collections.abc import Callable, Iterator
from pathlib import Path

from .errors import examples

logger = logging.getLogger(__name__)

#: Formats that Pillow opens and people store photos in; HEIC needs an extra. Compared in lower case.
IMAGE_EXTENSIONS = frozenset(
    (".jpg", ".jpeg", ".jpe", ".jfif", ".png", ".webp", ".bmp", ".dib", ".tif", ".tiff", ".gif")
    + (".ppm", ".pgm", ".pbm", ".pnm", ".jp2", ".heic", ".heif", ".avif")
)


def is_image(name: str) -> bool:
    """Whether the extension is that of an image."""
    return os.path.splitext(name)[1].lower() in IMAGE_EXTENSIONS


def files_below(
    folder: str, onerror: Callable[[OSError], None] | None = None
) -> tuple[list[str], list[str]]:
    """Lists non-hidden images and other files below a folder: relative paths with forward slashes, sorted.

    FIFOs, sockets and devices named like images are skipped with a warning. Links are followed. Folders
    that cannot be listed are passed to ``onerror``, or skipped.
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
    """Yields a folder and all non-hidden folders below it with their file names; links are followed."""
    seen: set[tuple[int, int]] = set()
    for parent, folders, files in os.walk(folder, onerror=onerror, followlinks=True):
        status = os.stat(parent)
        if (status.st_dev, status.st_ino) in seen:  # a link back to a folder already listed
            folders.clear()
            continue
        seen.add((status.st_dev, status.st_ino))
        # Sorted, so that every file system follows the same one of two links to a folder.
        folders[:] = sorted(name for name in folders if not name.startswith("."))
        yield parent, files


def _is_special(entry: os.DirEntry[str]) -> bool:
    """Whether the listing shows neither file nor folder; link targets are left to the reader."""
    known = entry.is_symlink() or entry.is_file() or entry.is_dir()
    return not known and is_image(entry.name)
