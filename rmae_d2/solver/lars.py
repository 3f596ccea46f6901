"""LARS as in MAE's linear probing (MAE, table 10; You, Gitman, Ginsburg, 2017), based on timm's."""

from typing import Any

from timm.optim import Lars
from torch import nn

from .optimizer import scaled_rate


def lars_params(model: nn.Module) -> list[dict[str, Any]]:
    """Trainable parameters in two groups for `scaled_lars`.

    Matrices take steps proportional to their own norm; biases and norms take plain momentum steps without
    weight decay.
    """
    trained = [p for p in model.parameters() if p.requires_grad]
    matrices, vectors = ([p for p in trained if (p.ndim > 1) == many] for many in (True, False))
    groups: list[dict[str, Any]] = [
        {"params": matrices, "always_adapt": True},
        {"params": vectors, "always_adapt": False, "weight_decay": 0.0},
    ]
    return [group for group in groups if group["params"]]


def scaled_lars(
    params: list[dict[str, Any]],
    base_lr: float,
    batch_size: int,
    momentum: float = 0.9,
    weight_decay: float = 0.0,
    trust_coefficient: float = 0.001,
) -> Lars:
    """LARS with the linear scaling rule.

    Args:
        params: parameter groups from `lars_params`.
        base_lr: learning rate for 256 images.
        batch_size: images per optimizer step, over all processes and accumulation steps.
        trust_coefficient: eta, the length of a step at rate 1 as a fraction of the norm of the weights.
    """
    lr = scaled_rate(base_lr, batch_size)
    # No eps: a gradient of zero has a trust ratio of 1 anyway.
    options = {"weight_decay": weight_decay, "trust_coeff": trust_coefficient, "eps": 0.0}
    return Lars(params, lr=lr, momentum=momentum, **options)
