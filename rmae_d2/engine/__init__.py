"""Training: the loop, its hooks, and what the command line runs."""

from .checkpointer import Checkpointer
from .hooks import (
    EMA,
    EMAHook,
    Evaluate,
    LRSchedule,
    PeriodicCheckpoint,
    Pictures,
    SaveOnSignal,
    WriteMetrics,
)
from .lars import lars_params, scaled_lars
from .launch import launch_training
from .optimizer import (
    LayerDecay,
    adversarial_params,
    layer_decayed_params,
    linear_rate,
    scaled_adamw,
)
from .parallel import parallelize, unwrap
from .predictor import Predictor
from .prompt_patches import PromptError
from .region_prompt import RegionPrediction, RegionPrompt, RegionPromptPredictor
from .region_views import ImageEmbedding
from .train import main
from .trainer import NonFiniteError, Trainer

__all__ = [
    "EMA",
    "Checkpointer",
    "EMAHook",
    "Evaluate",
    "ImageEmbedding",
    "LRSchedule",
    "LayerDecay",
    "NonFiniteError",
    "PeriodicCheckpoint",
    "Pictures",
    "Predictor",
    "PromptError",
    "RegionPrediction",
    "RegionPrompt",
    "RegionPromptPredictor",
    "SaveOnSignal",
    "Trainer",
    "WriteMetrics",
    "adversarial_params",
    "launch_training",
    "layer_decayed_params",
    "main",
    "parallelize",
    "scaled_adamw",
    "lars_params",
    "linear_rate",
    "scaled_lars",
    "unwrap",
]
