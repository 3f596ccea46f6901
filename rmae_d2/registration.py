"""Registers our datasets and architectures with Detectron2 as soon as Detectron2 has its registries.

They are available there by name once this package is imported. Importing Detectron2 for that takes seconds,
however, which ``rmae-d2 --help`` or a look at a region store need not wait for. So nothing is imported here:
our part is imported once anything has imported Detectron2, or immediately if it is already loaded.
"""

import sys
from collections.abc import Sequence
from importlib import import_module
from importlib.abc import MetaPathFinder
from importlib.machinery import ModuleSpec, PathFinder
from types import ModuleType
from typing import Any

from . import compat

#: Detectron2's modules with registries, and our packages that register with them on import.
OURS = {"detectron2.data": "rmae_d2.data", "detectron2.modeling": "rmae_d2.modeling"}


def register() -> None:
    """Registers what can be registered now, and the rest once Detectron2 is imported."""
    absent = OURS.keys() - sys.modules.keys()
    if absent:
        sys.meta_path.insert(0, _Finder(absent))
    for theirs in OURS:
        if theirs not in absent:
            _import_ours(theirs)


class _Finder(MetaPathFinder):
    """Finds Detectron2's packages as Python does, and imports ours after them."""

    def __init__(self, waits_for: set[str]) -> None:
        self._waits_for = waits_for
        self._ready: list[str] = []
        self._running = 0  # number of their imports in progress

    def find_spec(
        self, fullname: str, path: Sequence[str] | None = None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        spec = PathFinder.find_spec(fullname, path) if fullname in self._waits_for else None
        if spec is None or spec.loader is None:
            return None
        loader: Any = spec.loader
        execute = loader.exec_module

        def execute_both(module: ModuleType) -> None:
            self._running += 1
            execute(module)
            self._running -= 1
            self._ready.append(fullname)
            # One of their packages imports the other, and ours need both complete.
            while self._ready and not self._running:
                self._waits_for.discard(self._ready[0])
                _import_ours(self._ready.pop(0))
            if not self._waits_for and self in sys.meta_path:  # no longer needed
                sys.meta_path.remove(self)

        loader.exec_module = execute_both
        return spec


def _import_ours(theirs: str) -> None:
    if theirs == "detectron2.modeling":
        compat.check_detectron2()
    import_module(OURS[theirs])
