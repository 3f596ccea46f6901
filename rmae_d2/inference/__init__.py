"""Using a trained model as a library: prediction, and completing regions from a few patches."""

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
