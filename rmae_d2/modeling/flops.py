"""How operations are counted: those of matrix products and convolutions, attention included."""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager

import torch
from torch import nn
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode


@contextmanager
def count_flops(model: nn.Module) -> Iterator[FlopCounterMode]:
    """Counts what a model computes inside, without gradients; a multiply-add is two operations.

    Compiled parts are run as they are written, and attention as matrix products, for the counter to see.
    """
    # Views of what is trained would be taken for the results of operations, and their gradients awaited.
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
    """As `count_flops`, by part of a model.

    Args:
        parts: names of modules by part, "" being the model: a part is what lies below its module, less the
            parts that lie below it too.

    Yields:
        operations by part, complete when all is computed.
    """
    flops = dict.fromkeys(parts, 0)
    entered: list[str] = []

    def change(part: str | None) -> None:
        """Enters a module or leaves one; what was counted since the last change is the innermost's."""
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
    """The innermost part that a module or parameter lies in."""
    below = [p for p, prefix in parts.items() if not prefix or f"{name}.".startswith(f"{prefix}.")]
    return max(below, key=lambda part: len(parts[part]))
