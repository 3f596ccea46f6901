"""Evaluators: of reconstruction, and of detection by COCO's and LVIS's rules."""

from .classes import Classes, classes_of
from .coco import COCOEvaluator
from .detections import EvaluationError
from .lvis import LVISEvaluator
from .reconstruction_evaluator import ReconstructionEvaluator

__all__ = [
    "COCOEvaluator",
    "Classes",
    "EvaluationError",
    "LVISEvaluator",
    "ReconstructionEvaluator",
    "classes_of",
]
