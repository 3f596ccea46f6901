"""Evaluators of reconstruction, and of detection by COCO's and LVIS's rules."""

from typing import Any

from ..moved import moved_name
from .classes import Classes, classes_of
from .classification import ClassificationEvaluator
from .detection import DetectionEvaluator
from .knn import KNNEvaluation, KNNEvaluator
from .knn_segmentation import KNNSegmentation
from .masking import ForegroundEvaluator
from .reconstruction_evaluator import ReconstructionEvaluator, nearest_visible
from .semantic import SemSegEvaluator
from .sentences import result_sentence

__all__ = [
    "Classes",
    "DetectionEvaluator",
    "ForegroundEvaluator",
    "ReconstructionEvaluator",
    "classes_of",
    "nearest_visible",
    "result_sentence",
    "ClassificationEvaluator",
    "KNNEvaluation",
    "KNNEvaluator",
    "KNNSegmentation",
    "SemSegEvaluator",
]


def __getattr__(name: str) -> Any:
    return moved_name(__name__, name)
