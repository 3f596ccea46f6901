"""Registers our datasets and architectures with Detectron2, as soon as Detectron2 has its registries.

Whoever imports this package finds them there by name. Importing Detectron2 for that takes seconds, though,
which ``rmae-d2 --help`` or a look at a region store need not wait for. So nothing is imported here: our part
is imported when the import of Detectron2's ends, whoever asks for that, or at once where it is there already.
"""

import sys
from collections.abc import Sequence
from importlib import import_module
from importlib.abc import MetaPathFinder
from importlib.machinery import ModuleSpec, PathFinder
from types import ModuleType
from typing import Any

from . import compat

#: Where Detectron2 has registries, and our package that registers with them when it is imported.
OURS = {"detectron2.data": "rmae_d2.data", "detectron2.modeling": "rmae_d2.modeling"}


def register() -> None:
    """Registers now what can be, and the rest when its time comes."""
    absent = OURS.keys() - sys.modules.keys()
    if absent:
        sys.meta_path.insert(0, _Finder(absent))
    for theirs in OURS:
        if theirs not in absent:
            _import_ours(theirs)


class _Finder(MetaPathFinder):
    """Finds Detectron2's packages as Python does, and has ours imported after them."""

    def __init__(self, waits_for: set[str]) -> None:
        self._waits_for = waits_for
        self._ready: list[str] = []
        self._running = 0  # of theirs, that are in the middle of their import

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
            # One of theirs imports the other, and ours need both whole.
            while self._ready and not self._running:
                self._waits_for.discard(self._ready[0])
                _import_ours(self._ready.pop(0))
            if not self._waits_for and self in sys.meta_path:  # later imports need not come by
                sys.meta_path.remove(self)

        loader.exec_module = execute_both
        return spec


def _import_ours(theirs: str) -> None:
    if theirs == "detectron2.modeling":
        compat.check_detectron2()
    import_module(OURS[theirs])
