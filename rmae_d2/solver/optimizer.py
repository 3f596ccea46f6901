"""Optimizers whose learning rate scales with the batch size or with a parameter's depth."""

import logging
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from detectron2.config import instantiate
from detectron2.solver.build import get_default_optimizer_params
from detectron2.utils.registry import locate
from omegaconf import DictConfig, OmegaConf
from torch import nn

from ..errors import UserError
from ..modeling import MaskDiscriminator

logger = logging.getLogger(__name__)


def build_optimizer(node: DictConfig, model: nn.Module) -> torch.optim.Optimizer:
    """Build the optimizer that a config describes for a model's parameters; the config is not changed.

    Args:
        node: ``cfg.optimizer``, whose ``params`` describe a function that maps ``model`` and other arguments
            to parameter groups.
    """
    optimizer: torch.optim.Optimizer = _call(node, params=_call(node.params, model=model))
    return optimizer


def _call(node: DictConfig, **given: Any) -> Any:
    """Like ``instantiate``, but with some arguments that are not in the config."""
    names = node.keys() - {"_target_", *given}
    others = {str(name): _plain(instantiate(node[name])) for name in names}
    target = node._target_
    return (locate(target) if isinstance(target, str) else target)(**others, **given)


def _plain(value: Any) -> Any:
    """Convert config nodes to plain lists and dicts: an optimizer would keep them, a checkpoint cannot."""
    return OmegaConf.to_container(value) if OmegaConf.is_config(value) else value


def linear_rate(base_lr: float, batch_size: int) -> float:
    """The linear scaling rule: the learning rate for a batch, given ``base_lr`` for 256 images (MAE, A.1)."""
    return base_lr * batch_size / 256


def scaled_rate(base_lr: float, batch_size: int) -> float:
    """`linear_rate`, with a line in the log."""
    lr = linear_rate(base_lr, batch_size)
    text = "learning rate: base %g per 256 images, actual %g for batches of %d"
    logger.info(text, base_lr, lr, batch_size)
    return lr


def scaled_adamw(
    params: list[dict[str, Any]],
    base_lr: float,
    batch_size: int,
    betas: tuple[float, float] = (0.9, 0.95),
    weight_decay: float = 0.05,
    eps: float = 1e-8,
) -> torch.optim.AdamW:
    """AdamW with the linear scaling rule (MAE, appendix A).

    Args:
        params: parameter groups; a group may have an ``lr_factor``, which multiplies its learning rate.
        base_lr: learning rate for 256 images.
        batch_size: images per optimizer step, over all processes and accumulation steps.
    """
    lr = scaled_rate(base_lr, batch_size)
    betas, params = (betas[0], betas[1]), with_own_rates(params, lr)
    return torch.optim.AdamW(
        params, lr=lr, betas=betas, weight_decay=weight_decay, eps=eps, fused=True
    )


def with_own_rates(params: list[dict[str, Any]], lr: float) -> list[dict[str, Any]]:
    """Replace each group's ``lr_factor``, if it has one, with a learning rate."""
    return [
        {**{k: v for k, v in group.items() if k != "lr_factor"}, "lr": lr * group["lr_factor"]}
        if "lr_factor" in group
        else group
        for group in params
    ]


def adversarial_params(
    model: nn.Module, discriminator: Mapping[str, Any], **options: Any
) -> list[dict[str, Any]]:
    """Parameter groups for AutoMAE, with a separate group for the mask discriminator.

    AdamW updates each parameter independently, with the settings of its group, so a group is equivalent to a
    second optimizer, and it is saved, resumed, sharded and frozen with the rest. The published discriminator
    uses Adam, i.e. AdamW without weight decay, with the autoencoder's learning rate and schedule.

    Args:
        model: without a mask discriminator, there is no such group.
        discriminator: ``betas``, ``weight_decay`` or ``eps`` of the group, and ``lr_factor``, its learning
            rate as a multiple of the others'.
        options: of Detectron2's ``get_default_optimizer_params``, for the other parameters.
    """
    parts = [module for module in model.modules() if isinstance(module, MaskDiscriminator)]
    own = [p for part in parts for p in part.parameters() if p.requires_grad]
    apart = {id(p) for p in own}
    groups: list[dict[str, Any]] = []
    for group in get_default_optimizer_params(model, **options):
        rest = [p for p in group["params"] if id(p) not in apart]
        if rest:
            groups.append({**group, "params": rest})
    if own:
        numbers = dict(discriminator)
        if "betas" in numbers:  # a list in a config
            numbers["betas"] = tuple(numbers["betas"])
        groups.append({"params": own, **numbers})
    return groups


@dataclass(frozen=True)
class LayerDecay:
    """Learning-rate factor of a parameter by its depth in the backbone (ViTDet, appendix A.2).

    Follows Detectron2's ``get_vit_lr_decay_rate`` and extends it to what its ViT lacks: tokens (cls,
    register) count with the position embedding, because that is where they enter. Everything after the
    blocks has factor 1, including a final norm, as in MAE's fine-tuning; so do residual convolutions, which
    are never pre-trained.

    Args:
        lr_decay_rate: factor from one layer to the one before.
        num_layers: number of blocks in the backbone.
    """

    lr_decay_rate: float
    num_layers: int

    def __call__(self, name: str) -> float:
        """The factor for a parameter, given its full name in the model."""
        return self.lr_decay_rate ** (self.num_layers + 1 - self.layer(name))

    def layer(self, name: str) -> int:
        """0 for embeddings, n + 1 for block n, ``num_layers`` + 1 for everything else."""
        if name.startswith("backbone."):
            block = _BLOCK.match(name)
            if block and ".residual." not in name:
                return int(block[1]) + 1
            if not block and _EMBEDDING.search(name):
                return 0
        return self.num_layers + 1


_BLOCK = re.compile(r"backbone\.(?:.*\.)?blocks\.(\d+)\.")
_EMBEDDING = re.compile(r"\.(?:(?:pos|patch)_embed|\w+_token)(?:\.|$)")


def layer_decayed_params(
    model: nn.Module,
    base_lr: float,
    lr_decay_rate: float,
    weight_decay_norm: float | None = 0.0,
    overrides: Mapping[str, Mapping[str, float]] | None = None,
) -> list[dict[str, Any]]:
    """Parameter groups for fine-tuning a pre-trained ViT, with learning rates that fall towards the input.

    ViTDet uses rate 0.7 (B), 0.8 (L) and 0.9 (H); unlike the defaults here, ViTDet-H decays norms and
    pos_embed (``weight_decay_norm=None, overrides={}``).

    Args:
        model: its ViT is ``backbone`` or part of it.
        base_lr: for the heads and the feature pyramid.
        lr_decay_rate: see `LayerDecay`.
        weight_decay_norm: for normalization layers; None for the optimizer's own value.
        overrides: learning rate or weight decay by the last part of a parameter's name; None excludes
            ``pos_embed`` from weight decay.
    """
    blocks = {int(m[1]) for name, _ in model.named_parameters() if (m := _BLOCK.match(name))}
    if not blocks:
        raise UserError(
            "layer-wise learning rates need a ViT in model.backbone; no parameter of this "
            f"{type(model).__name__} is named backbone.*.blocks.N.*"
        )
    if overrides is None:
        overrides = {"pos_embed": {"weight_decay": 0.0}}
    groups: list[dict[str, Any]] = get_default_optimizer_params(
        model,
        base_lr=base_lr,
        weight_decay_norm=weight_decay_norm,
        lr_factor_func=LayerDecay(lr_decay_rate, num_layers=max(blocks) + 1),
        # A copy, because Detectron2 modifies it.
        overrides={name: dict(values) for name, values in overrides.items()},
    )
    return groups
