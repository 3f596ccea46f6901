"""No paths of a machine in what is shown of a log to others."""

import re
from collections.abc import Iterable
from pathlib import Path
from typing import Any


class Redaction:
    """Shortens absolute paths in a text to their last part, but those that a run's config has.

    A path with spaces is recognised in quotes only, or where it is the run's own folder.

    Args:
        folder: of the run, resolved.
        known: values of its config; the paths among them, and what lies below, stay.
    """

    _PATH = re.compile(
        r"""(?P<quote>['"])(?P<quoted>(?:/|[A-Za-z]:\\)[^'"\n]+)(?P=quote)"""
        r"""|(?:file://)(?P<url>/[^\s'"]+)"""
        r"""|(?<![\w/.:~<…-])(?P<plain>/[^\s'"`,;()<>|/][^\s'"`,;()<>|]*|[A-Za-z]:\\[^\s'"`,;()<>|]+)"""
    )

    def __init__(self, folder: Path, known: Iterable[Any] = ()) -> None:
        paths = (value for value in known if isinstance(value, str) and value.startswith("/"))
        self._known = {path.partition("?")[0].rstrip("/") for path in paths}
        self._folder = str(folder)

    def __call__(self, text: str) -> str:
        if not self._is_known(self._folder):
            text = text.replace(self._folder, "…/" + Path(self._folder).name)
        return self._PATH.sub(self._shorten, text)

    def _shorten(self, match: re.Match[str]) -> str:
        path = match["quoted"] or match["url"] or match["plain"]
        if self._is_known(path.rstrip(".:")):
            return match.group()
        last = re.split(r"[/\\]", path.rstrip("/\\"))[-1]
        quote = match["quote"] or ""
        return f"{quote}…/{last}{quote}"

    def _is_known(self, path: str) -> bool:
        return any(path == known or path.startswith(f"{known}/") for known in self._known)
