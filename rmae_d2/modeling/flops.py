"""Operation counting: matrix products and convolutions, attention included."""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager

import torch
from torch import nn
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode


@contextmanager
def count_flops(model: nn.Module) -> Iterator[FlopCounterMode]:
    """Counts a model's operations inside the context, without gradients; a multiply-add is two operations.

    Compiled parts run uncompiled, and attention as matrix products, so that the counter sees them.
    """
    # Otherwise views of trainable parameters count as operation outputs whose gradients are awaited.
    trained = [p.requires_grad_(False) for p in model.parameters() if p.requires_grad]
    try:
        with (
            torch.no_grad(),
            sdpa_kernel(SDPBackend.MATH),
            torch.compiler.set_stance("force_eager"),
            FlopCounterMode(display=False) as counter,
        ):
            yield counter
    finally:
        for parameter in trained:
            parameter.requires_grad_(True)


@contextmanager
def count_by_part(model: nn.Module, parts: Mapping[str, str]) -> Iterator[dict[str, int]]:
    """Like `count_flops`, but per part of a model.

    Args:
        parts: module names by part, "" being the model: a part is everything below its module, excluding
            parts nested in it.

    Yields:
        Operations by part, complete once the computation is done.
    """
    flops = dict.fromkeys(parts, 0)
    entered: list[str] = []

    def change(part: str | None) -> None:
        """Enters or leaves a module; operations since the last change belong to the innermost part."""
        if entered:
            flops[entered[-1]] += counter.get_total_flops() - sum(flops.values())
        if part is None:
            entered.pop()
        else:
            entered.append(part)

    hooks = []
    for name, module in model.named_modules():
        part = part_of(name, parts)
        hooks.append(module.register_forward_pre_hook(lambda *_, part=part: change(part)))
        hooks.append(module.register_forward_hook(lambda *_: change(None)))
    try:
        with count_flops(model) as counter:
            yield flops
    finally:
        for hook in hooks:
            hook.remove()


def part_of(name: str, parts: Mapping[str, str]) -> str:
    """Returns the innermost part that contains a module or parameter."""
    below = [p for p, prefix in parts.items() if not prefix or f"{name}.".startswith(f"{prefix}.")]
    return max(below, key=lambda part: len(parts[part]))
