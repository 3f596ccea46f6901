"""Pictures of what a model learned, and of the regions it learns from."""

from .curves import draw_loss_curve, draw_metrics
from .palette import class_palette
from .predictions import draw_instances
from .reconstruction import draw_reconstructions
from .regions import draw_regions
from .semantic import draw_semantic
from .sheets import SheetRow, contact_sheet

__all__ = [
    "SheetRow",
    "class_palette",
    "contact_sheet",
    "draw_instances",
    "draw_loss_curve",
    "draw_metrics",
    "draw_reconstructions",
    "draw_regions",
    "draw_semantic",
]
