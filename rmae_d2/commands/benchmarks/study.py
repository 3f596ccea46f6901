"""Cost of a training step of each method, all measured alternately in one process."""

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import torch
from detectron2.config import instantiate
from detectron2.utils.registry import locate
from omegaconf import DictConfig

from ...config import apply_overrides, load_config
from ...modeling import RMAE, Batch
from ...modeling.analysis import analyze_config
from ...study.plan import Method, Study
from .common import device, race, synchronize

#: Images per timed step.
BATCH = 32


def measure_cost(study: Study, rounds: int = 5) -> dict[str, dict[str, float]]:
    """Measures the methods that pre-train from random weights and masks, on this machine's device.

    Methods that differ only in data or number of steps share the cost of the first of them. Methods that
    are no RMAE, or that start from another's weights, are skipped.

    Returns:
        By method name: ``parameters``; ``gmacs``, multiply-adds of a view's forward pass with its
        losses, 10^9; ``saved_mib``, activations that the backward pass keeps per view; and
        ``views_per_second`` of whole steps (forward, backward, AdamW) on random data in fp32, the best of
        ``rounds`` rounds in which all take turns.
    """
    torch.manual_seed(0)
    configs = {m.name: cfg for m in study.methods if (cfg := _config(study, m)) is not None}
    like = {
        name: next(n for n, other in configs.items() if _alike(cfg, other))
        for name, cfg in configs.items()
    }
    steps = {name: _step(configs[name]) for name in dict.fromkeys(like.values())}
    best = race(steps, rounds)
    costs = {name: _cost(configs[name], BATCH / best[name]) for name in steps}
    return {name: costs[like[name]] for name in configs}


def _config(study: Study, method: Method) -> DictConfig | None:
    if any("{" in text for text in method.overrides):
        return None
    words = [*study.overrides, *method.overrides]
    cfg = apply_overrides(load_config(method.config), words)
    target = cfg.model._target_
    return cfg if (locate(target) if isinstance(target, str) else target) is RMAE else None


def _alike(one: DictConfig, other: DictConfig) -> bool:
    same: bool = one.model == other.model
    return same and _num_regions(one) == _num_regions(other)


def _num_regions(cfg: DictConfig) -> int:
    return int(cfg.dataloader.train.mapper.num_regions)


def _step(cfg: DictConfig) -> Callable[[], None]:
    model = instantiate(cfg.model).train()
    net, K = model.backbone.net, _num_regions(cfg)
    images = torch.randint(0, 256, (BATCH, net.in_chans, *net.img_size), dtype=torch.uint8)
    planes = torch.randint(0, 256, (BATCH, -(-K // 8), *net.img_size), dtype=torch.uint8)
    facts: Sequence[dict[str, Any]] = [{"num_regions": K, "mask_seed": i} for i in range(BATCH)]
    batch = Batch(images, list(facts), planes, K, torch.arange(BATCH))
    model = model.to(device())
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-6, fused=True)
    return partial(_train_once, model, batch, optimizer)


def _train_once(model: RMAE, batch: Batch, optimizer: torch.optim.Optimizer) -> None:
    torch.stack(list(model(batch).losses.values())).sum().backward()
    optimizer.step()
    optimizer.zero_grad()
    synchronize()


def _cost(cfg: DictConfig, views_per_second: float) -> dict[str, float]:
    analysis = analyze_config(cfg)
    return {
        "parameters": sum(analysis.parameters.values()),
        "gmacs": round(sum(analysis.macs.values()) / 1e9, 4),
        "views_per_second": round(views_per_second, 1),
        "saved_mib": round(analysis.activation_bytes / 2**20, 2),
    }
