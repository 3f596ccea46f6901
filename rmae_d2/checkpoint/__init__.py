"""Reading and writing weights, our own and those of other projects."""

from typing import Any

from ..moved import moved_name
from .convert import Conversion, convert
from .export import check_output, export_backbone, save_conversion
from .formats import load_weights
from .load import LoadReport, load_pretrained
from .names import TARGETS
from .reference import build_from_reference
from .scorer import load_generator, load_scorer
from .source import local_path
from .weight_file import atomic_save

__all__ = [
    "TARGETS",
    "Conversion",
    "LoadReport",
    "atomic_save",
    "build_from_reference",
    "check_output",
    "convert",
    "export_backbone",
    "load_generator",
    "load_pretrained",
    "load_scorer",
    "load_weights",
    "local_path",
    "save_conversion",
]


def __getattr__(name: str) -> Any:
    return moved_name(__name__, name)
