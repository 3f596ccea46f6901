"""Pictures of what a model learned, and of the regions it learns from."""

from .curves import draw_loss_curve, draw_metrics
from .predictions import draw_instances
from .reconstruction import draw_reconstructions
from .regions import contact_sheet, draw_regions
from .semantic import class_palette, draw_semantic

__all__ = [
    "class_palette",
    "contact_sheet",
    "draw_instances",
    "draw_loss_curve",
    "draw_metrics",
    "draw_reconstructions",
    "draw_regions",
    "draw_semantic",
]
