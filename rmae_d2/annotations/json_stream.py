"""JSON read value by value: an annotation file as Python objects takes many times its size in memory."""

import json
import re
from collections.abc import Iterator
from typing import Any

_DECODER = json.JSONDecoder()
_SPACE = re.compile(r"[ \t\n\r]*")


class Cursor:
    """A place in a JSON text.

    Its methods raise `json.JSONDecodeError` for what is not JSON, IndexError where the text ends early,
    RecursionError for deep nesting, and ValueError for a number of thousands of digits.
    """

    def __init__(self, text: str) -> None:
        self._text = text
        self.position = 0
        self._skip_space()

    @property
    def character(self) -> str:
        """The first one of the next value."""
        return self._text[self.position]

    def sections(self) -> Iterator[str]:
        """Keys of the object that comes next, down to the end of the text.

        Whoever iterates moves past each key's value, by `value`, `values` or `skip`.
        """
        for _ in self._members("{", "}"):
            key = self.value()
            self._expect(":")
            yield key
        self.end()

    def end(self) -> None:
        """Nothing may come next."""
        if self.position < len(self._text):
            raise json.JSONDecodeError("Extra data", self._text, self.position)

    def values(self) -> Iterator[Any]:
        """Elements of the list that comes next."""
        for _ in self._members("[", "]"):
            yield self.value()

    def value(self) -> Any:
        """The next value, whole."""
        value, self.position = _DECODER.raw_decode(self._text, self.position)
        self._skip_space()
        return value

    def skip(self) -> None:
        """Moves past the next value, of a list element by element."""
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
