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
    sys.meta_path.insert(0, _Finder())
    for theirs in OURS:
        if theirs in sys.modules:
            _import_ours(theirs)


class _Finder(MetaPathFinder):
    """Finds Detectron2's packages as Python does, and has ours imported after them."""

    def find_spec(
        self, fullname: str, path: Sequence[str] | None = None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        spec = PathFinder.find_spec(fullname, path) if fullname in OURS else None
        if spec is None or spec.loader is None:
            return None
        loader: Any = spec.loader
        execute = loader.exec_module

        def execute_both(module: ModuleType) -> None:
            execute(module)
            _import_ours(fullname)

        loader.exec_module = execute_both
        return spec


def _import_ours(theirs: str) -> None:
    if theirs == "detectron2.modeling":
        compat.check_detectron2()
    import_module(OURS[theirs])
