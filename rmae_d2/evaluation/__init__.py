"""Evaluators beside Detectron2's own."""

from .reconstruction_evaluator import ReconstructionEvaluator

__all__ = ["ReconstructionEvaluator"]
