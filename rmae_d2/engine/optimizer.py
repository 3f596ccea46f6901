"""Optimizers whose learning rate follows the batch."""

import logging
from typing import Any

import torch

logger = logging.getLogger(__name__)


def scaled_adamw(
    params: list[dict[str, Any]],
    base_lr: float,
    batch_size: int,
    betas: tuple[float, float] = (0.9, 0.95),
    weight_decay: float = 0.05,
    eps: float = 1e-8,
) -> torch.optim.AdamW:
    """AdamW under the linear rule: learning rate = base_lr * batch_size / 256 (MAE, appendix A).

    Args:
        params: parameter groups.
        base_lr: learning rate for 256 images.
        batch_size: images per optimizer step, over all processes and accumulation steps.
    """
    lr = base_lr * batch_size / 256
    logger.info(
        "learning rate: base %g per 256 images, actual %g for batches of %d",
        base_lr,
        lr,
        batch_size,
    )
    return torch.optim.AdamW(
        params, lr=lr, betas=(betas[0], betas[1]), weight_decay=weight_decay, eps=eps, fused=True
    )
