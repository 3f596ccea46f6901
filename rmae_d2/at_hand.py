"""Contents of files that have already been read: opening such a file for reading looks here first."""

import io
from collections.abc import Iterator
from contextlib import contextmanager

_contents: dict[str, bytes] = {}


@contextmanager
def at_hand(path: str, content: bytes) -> Iterator[None]:
    """Within the context, in this process, opening the path yields this content."""
    _contents[path] = content
    try:
        yield
    finally:
        del _contents[path]


def is_at_hand(path: str) -> bool:
    """Whether the content of a path is held here."""
    return path in _contents


def open_at_hand(path: str) -> io.BytesIO | None:
    """Opens a file whose content is held here; None for any other."""
    content = _contents.get(path)
    return None if content is None else io.BytesIO(content)
