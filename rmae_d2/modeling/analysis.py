"""What a pre-training model costs: parameters and multiply-adds by part, activation memory of an image.

Nothing is computed: operators are counted on meta tensors, memory on fake ones, so a ViT-H at 1024 pixels
takes as long as a small network and no memory. What a masking policy computes is not counted: the frozen
scorer of AutoMAE adds a forward pass of its ViT over all patches.
"""

import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from detectron2.config import instantiate
from detectron2.utils.registry import locate
from fvcore.nn import FlopCountAnalysis
from omegaconf import DictConfig
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensorMode

from ..errors import UserError
from .rmae import RMAE

# A part is what lies below its prefix, less the parts that lie below it too.
PARTS = {
    "pixel patch embed": "backbone.net.patch_embed",
    "pixel encoder": "backbone",
    "pixel decoder": "pixel_decoder",
    "neck": "region_branch.neck",
    "region patch embed": "region_branch.encoder.patch_embed",
    "region encoder": "region_branch.encoder",
    "region decoder": "region_branch",
    "other": "",
}


@dataclass(frozen=True)
class Analysis:
    """Costs of one model.

    Args:
        parameters: trainable parameters by part, names as in :data:`PARTS`.
        macs: multiply-adds by part, of one image's forward pass with its losses.
        activation_bytes: what the backward pass keeps of each image in float32, besides the weights.
    """

    parameters: dict[str, int]
    macs: dict[str, int]
    activation_bytes: int


def analyze(build: Callable[[], RMAE], num_regions: int = 8) -> Analysis:
    """Costs of the model that ``build`` makes.

    Args:
        build: called where tensors have shapes but no values.
        num_regions: K, regions an image.
    """
    with torch.device("meta"):
        model = build().train()
        macs = _macs_by_module(model, num_regions)
    trainable = {name: p.numel() for name, p in model.named_parameters() if p.requires_grad}
    parameters = {part: _below(prefix, trainable) for part, prefix in PARTS.items()}
    with FakeTensorMode():
        model = build().train()
        # What one more image adds: copies of weights are kept once, and of one image fewer transposed ones.
        saved = [_saved_bytes(model, num_regions, batch) for batch in (2, 3)]
    return Analysis(
        _without_nested(parameters),
        _without_nested({part: macs.get(prefix, 0) for part, prefix in PARTS.items()}),
        saved[1] - saved[0],
    )


def analyze_config(cfg: DictConfig) -> Analysis:
    """Analyses the model of a config, with as many regions as its loader gives.

    Raises:
        UserError: it is no pre-training model.
    """
    target = cfg.model._target_
    if (locate(target) if isinstance(target, str) else target) is not RMAE:
        raise UserError(f"{target} is no pre-training model; those of configs/pretrain are")
    return analyze(lambda: instantiate(cfg.model), cfg.dataloader.train.mapper.num_regions)


def parts_table(analysis: Analysis) -> str:
    """The parts of one model as a Markdown table."""
    total = sum(analysis.macs.values())
    rows = [
        (
            part,
            f"{analysis.parameters[part] / 1e6:.3f}",
            f"{macs / 1e9:.3f}",
            f"{100 * macs / total:.1f}",
        )
        for part, macs in analysis.macs.items()
        if macs or analysis.parameters[part]
    ]
    rows.append(
        ("all", f"{sum(analysis.parameters.values()) / 1e6:.3f}", f"{total / 1e9:.3f}", "100.0")
    )
    memory = f"Activations kept for the backward pass, float32: {_mib(analysis)} MiB an image."
    return f"{_markdown(('part', 'parameters, M', 'GMACs', '%'), rows)}\n\n{memory}"


def comparison_table(models: dict[str, Analysis]) -> str:
    """Several models as a Markdown table, the first of which the others are compared with."""
    first = sum(next(iter(models.values())).macs.values())
    parts = [part for part in PARTS if any(analysis.macs[part] for analysis in models.values())]
    header = ("model", "parameters, M", "GMACs", "against the first", *parts, "MiB an image")
    rows = []
    for name, analysis in models.items():
        total = sum(analysis.macs.values())
        rows.append(
            (
                name,
                f"{sum(analysis.parameters.values()) / 1e6:.2f}",
                f"{total / 1e9:.3f}",
                f"{100 * (total / first - 1):+.2f} %",
                *(f"{analysis.macs[part] / 1e9:.3f}" for part in parts),
                _mib(analysis),
            )
        )
    return _markdown(header, rows)


class _Loss(nn.Module):
    """The model from tensors to its loss, as the tracer wants it."""

    def __init__(self, model: RMAE) -> None:
        super().__init__()
        self.model = model

    def forward(self, images_BCHW: Tensor, regions_BKHW: Tensor) -> Tensor:
        L = self.model.backbone.net.num_patches
        ids_BL = torch.arange(L, device=images_BCHW.device).repeat(len(images_BCHW), 1)
        return self.model.forward_tensors(images_BCHW, regions_BKHW, ids_BL)["loss"]


def _inputs(model: RMAE, num_regions: int, batch: int) -> tuple[Tensor, Tensor]:
    net = model.backbone.net
    return (
        torch.zeros(batch, net.in_chans, *net.img_size),
        torch.zeros(batch, num_regions, *net.img_size, dtype=torch.bool),
    )


def _macs_by_module(model: RMAE, num_regions: int) -> dict[str, int]:
    """Counts of fvcore, nested, "" being all; with those of fused attention, which it does not know."""
    logging.getLogger("fvcore.nn.jit_analysis").setLevel(logging.ERROR)
    counter = FlopCountAnalysis(_Loss(model), _inputs(model, num_regions, 1))
    counter.unsupported_ops_warnings(False).uncalled_modules_warnings(False)
    counter.set_op_handle("aten::scaled_dot_product_attention", _attention_macs)
    with torch.no_grad():
        counts = counter.by_module()
    return {name.removeprefix("model").removeprefix("."): int(n) for name, n in counts.items()}


def _attention_macs(inputs: Sequence[Any], outputs: Sequence[Any]) -> int:
    """Two matrix products: queries by keys, weights by values."""
    (batch, heads, queries, dim), keys = (x.type().sizes() for x in inputs[:2])
    return 2 * batch * heads * queries * keys[2] * dim


def _saved_bytes(model: RMAE, num_regions: int, batch: int) -> int:
    """Bytes of all storages that autograd keeps, each once, without the model's own."""
    own = {x.untyped_storage()._cdata for x in (*model.parameters(), *model.buffers())}
    kept: dict[int, int] = {}

    def pack(tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        if storage._cdata not in own:
            kept[storage._cdata] = storage.nbytes()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        # The loss holds on to all that was kept, so no address is used twice.
        loss = _Loss(model)(*_inputs(model, num_regions, batch))
    del loss
    return sum(kept.values())


def _below(prefix: str, counts: dict[str, int]) -> int:
    return sum(n for name, n in counts.items() if not prefix or f"{name}.".startswith(f"{prefix}."))


def _without_nested(counts: dict[str, int]) -> dict[str, int]:
    """By part, each less the parts directly below it."""
    out = dict(counts)
    for part, prefix in PARTS.items():
        holders = [
            other
            for other, outer in PARTS.items()
            if other != part and (not outer or prefix.startswith(f"{outer}."))
        ]
        if holders:
            out[max(holders, key=lambda other: len(PARTS[other]))] -= counts[part]
    return out


def _mib(analysis: Analysis) -> str:
    return f"{analysis.activation_bytes / 2**20:.1f}"


def _markdown(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    lines = [header, ["---", *["---:"] * (len(header) - 1)], *rows]
    return "\n".join(f"| {' | '.join(cells)} |" for cells in lines)
