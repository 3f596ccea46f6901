"""Optimizers: learning rates scaled by batch size or depth, and which parameters decay."""

from .lars import lars_params, scaled_lars
from .muon import scaled_muon
from .optimizer import (
    LayerDecay,
    adversarial_params,
    build_optimizer,
    layer_decayed_params,
    linear_rate,
    scaled_adamw,
)

__all__ = [
    "LayerDecay",
    "adversarial_params",
    "build_optimizer",
    "lars_params",
    "layer_decayed_params",
    "linear_rate",
    "scaled_adamw",
    "scaled_lars",
    "scaled_muon",
]
