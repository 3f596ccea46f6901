"""Read JSON value by value: as Python objects, an annotation file takes many times its size in memory."""

import json
import re
from collections.abc import Iterator
from typing import Any

_DECODER = json.JSONDecoder()
_SPACE = re.compile(r"[ \t\n\r]*")


class Cursor:
    """A position in a JSON text.

    Its methods raise `json.JSONDecodeError` for invalid JSON, IndexError if the text ends early,
    RecursionError for deep nesting, and ValueError for numbers with thousands of digits.
    """

    def __init__(self, text: str) -> None:
        self._text = text
        self.position = 0
        self._skip_space()

    @property
    def character(self) -> str:
        """The first character of the next value."""
        return self._text[self.position]

    def sections(self) -> Iterator[str]:
        """Yield the keys of the object that comes next, which must extend to the end of the text.

        The caller must move past each key's value, with `value`, `values` or `skip`.
        """
        for _ in self._members("{", "}"):
            key = self.value()
            self._expect(":")
            yield key
        self.end()

    def end(self) -> None:
        """Check that nothing follows."""
        if self.position < len(self._text):
            raise json.JSONDecodeError("Extra data", self._text, self.position)

    def values(self) -> Iterator[Any]:
        """Yield the elements of the list that comes next."""
        for _ in self._members("[", "]"):
            yield self.value()

    def value(self) -> Any:
        """Read the next value as a whole."""
        value, self.position = _DECODER.raw_decode(self._text, self.position)
        self._skip_space()
        return value

    def skip(self) -> None:
        """Move past the next value; lists are skipped element by element."""
        if self.character == "[":
            for _ in self.values():
                pass
        else:
            self.value()

    def _members(self, opening: str, closing: str) -> Iterator[None]:
        self._expect(opening)
        if self.character != closing:
            yield
            while self.character == ",":
                self._expect(",")
                yield
        self._expect(closing)

    def _expect(self, character: str) -> None:
        if self.character != character:
            raise json.JSONDecodeError(f"Expecting {character!r}", self._text, self.position)
        self.position += 1
        self._skip_space()

    def _skip_space(self) -> None:
        match = _SPACE.match(self._text, self.position)
        assert match is not None
        self.position = match.end()
