"""Pictures of what a model learned."""

from .curves import draw_loss_curve
from .reconstruction import draw_reconstructions

__all__ = ["draw_loss_curve", "draw_reconstructions"]
