"""Contents of files that were read already: whoever opens such a file for reading finds them here first."""

import io
from collections.abc import Iterator
from contextlib import contextmanager

_contents: dict[str, bytes] = {}


@contextmanager
def at_hand(path: str, content: bytes) -> Iterator[None]:
    """Inside, in this process, a path opens as this content."""
    _contents[path] = content
    try:
        yield
    finally:
        del _contents[path]


def is_at_hand(path: str) -> bool:
    """Whether a path is one of those."""
    return path in _contents


def open_at_hand(path: str) -> io.BytesIO | None:
    """A file that is at hand, opened; else None."""
    content = _contents.get(path)
    return None if content is None else io.BytesIO(content)
