"""A trained model used as a library: prediction, and regions completed from a few patches."""

from .predictor import Predictor
from .region_prompt import RegionPrediction, RegionPrompt, RegionPromptPredictor
from .region_views import ImageEmbedding

__all__ = [
    "ImageEmbedding",
    "Predictor",
    "RegionPrediction",
    "RegionPrompt",
    "RegionPromptPredictor",
]
