"""Training: the loop, its hooks, and what the command line runs."""

from typing import Any

from ..moved import moved_name
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
from .launch import launch_training
from .parallel import parallelize, unwrap
from .train import main
from .trainer import Trainer

__all__ = [
    "EMA",
    "Checkpointer",
    "EMAHook",
    "Evaluate",
    "LRSchedule",
    "PeriodicCheckpoint",
    "Pictures",
    "SaveOnSignal",
    "Trainer",
    "WriteMetrics",
    "launch_training",
    "main",
    "parallelize",
    "unwrap",
]


def __getattr__(name: str) -> Any:
    return moved_name(__name__, name)
