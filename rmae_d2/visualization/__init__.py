"""Pictures of what a model has learned, and of the regions it learns from."""

from importlib import import_module
from typing import Any

#: Home module of each name, imported on demand because only some need Detectron2.
_HOMES = {
    "SheetRow": "sheets",
    "class_palette": "palette",
    "contact_sheet": "sheets",
    "draw_instances": "predictions",
    "draw_loss_curve": "curves",
    "draw_metrics": "curves",
    "draw_reconstructions": "reconstruction",
    "draw_regions": "regions",
    "draw_semantic": "semantic",
}

__all__ = list(_HOMES)


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f".{_HOMES[name]}", __name__), name)
