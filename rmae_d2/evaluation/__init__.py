"""Evaluators: of reconstruction, and of detection by COCO's and LVIS's rules."""

from .coco import COCOEvaluator
from .detections import EvaluationError
from .lvis import LVISEvaluator
from .reconstruction_evaluator import ReconstructionEvaluator

__all__ = ["COCOEvaluator", "EvaluationError", "LVISEvaluator", "ReconstructionEvaluator"]
