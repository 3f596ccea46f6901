"""Muon (Jordan et al., 2024) for matrices and AdamW for everything else, based on timm's."""

import inspect
from typing import Any

import timm
import timm.optim
import torch

from ..errors import UserError
from .optimizer import scaled_rate, with_own_rates


def scaled_muon(
    params: list[dict[str, Any]],
    base_lr: float,
    batch_size: int,
    betas: tuple[float, float] = (0.9, 0.95),
    weight_decay: float = 0.05,
    momentum: float = 0.95,
) -> torch.optim.Optimizer:
    """Muon as a replacement for `scaled_adamw` at the same learning rates.

        rmae-d2 train --config-file pretrain/rmae_vitb.py optimizer._target_=rmae_d2.solver.scaled_muon

    Matrices take orthogonalized steps with the same length as AdamW's (Liu et al., 2025, section 2.2), so
    learning rate and weight decay need no retuning. Patch and position embeddings, tokens, biases and norms
    use AdamW, as does any group with its own ``betas``, such as AutoMAE's discriminator.

    Args:
        params: parameter groups; a group may have an ``lr_factor``, which multiplies its learning rate.
        base_lr: learning rate for 256 images.
        batch_size: images per optimizer step, over all processes and accumulation steps.
        betas: AdamW's betas.
        weight_decay: for both optimizers.
        momentum: Muon's Nesterov momentum.

    Raises:
        UserError: the installed timm has no Muon whose AdamW part follows the schedule.
    """
    muon = getattr(timm.optim, "Muon", None)
    # Before 1.0.27, no schedule reached the learning rate of the AdamW part.
    if muon is None or "fallback_lr_scale" not in inspect.signature(muon).parameters:
        raise UserError(
            f"scaled_muon needs timm 1.0.27 or later, here is {timm.__version__}: pip install -U timm"
        )
    lr = scaled_rate(base_lr, batch_size)
    groups = [part for group in with_own_rates(params, lr) for part in _divided(group)]
    numbers = {"betas": (betas[0], betas[1]), "weight_decay": weight_decay, "momentum": momentum}
    # The authors' coefficients, as in torch.optim.Muon; timm's defaults differ.
    optimizer: torch.optim.Optimizer = muon(groups, lr=lr, ns_coefficients="original", **numbers)
    return optimizer


def _divided(group: dict[str, Any]) -> list[dict[str, Any]]:
    """Split a group into one for Muon and one for AdamW."""
    parts: dict[bool, list[torch.Tensor]] = {True: [], False: []}
    for p in group["params"]:
        parts[p.ndim == 2 and "betas" not in group].append(p)
    matrices = {**group, "params": parts[True], "nesterov": True}
    others = {**group, "params": parts[False], "use_fallback": True, "eps": 1e-8}
    return [part for part in (matrices, others) if part["params"]]
