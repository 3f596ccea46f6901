"""Reading and writing weights, ours and other projects'."""

from .export import export_backbone
from .files import atomic_save
from .formats import CheckpointError, load_weights
from .load import LoadReport, load_pretrained
from .reference import build_from_reference

__all__ = [
    "CheckpointError",
    "LoadReport",
    "atomic_save",
    "build_from_reference",
    "export_backbone",
    "load_pretrained",
    "load_weights",
]
