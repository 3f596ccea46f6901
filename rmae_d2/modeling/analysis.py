"""Cost of a pre-training model: parameters and multiply-adds by part, activation memory per image.

Nothing is computed: operators are counted on meta tensors, memory on fake ones, so a ViT-H at 1024 pixels
takes no longer than a small network and no memory. The cost of a masking policy is not counted: AutoMAE's
frozen scorer adds a forward pass of its ViT over all patches.
"""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

import torch
from detectron2.config import instantiate
from detectron2.utils.registry import locate
from omegaconf import DictConfig
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensorMode

from ..errors import UserError
from ..tables import table
from .flops import count_by_part, part_of
from .rmae import RMAE

#: A part is everything below its prefix, excluding parts nested in it.
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
    """Cost of one model.

    Args:
        parameters: trainable parameters by part, named as in `PARTS`.
        macs: multiply-adds by part for one image's forward pass including its losses.
        activation_bytes: memory kept for the backward pass per image in float32, excluding the weights.
    """

    parameters: dict[str, int]
    macs: dict[str, int]
    activation_bytes: int


def analyze(build: Callable[[], RMAE], num_regions: int = 8) -> Analysis:
    """Measures the model that ``build`` creates without allocating values; ``num_regions`` is per image."""
    with torch.device("meta"):
        model = build().train()
        with count_by_part(model, PARTS) as flops:
            _loss(model, num_regions, 1)
    parameters = dict.fromkeys(PARTS, 0)
    for name, parameter in model.named_parameters():
        if parameter.requires_grad:
            parameters[part_of(name, PARTS)] += parameter.numel()
    with FakeTensorMode():
        model = build().train()
        # Cost of one more image, 2 to 3: weight copies are kept once; 1 image keeps fewer transposed ones.
        saved = [saved_bytes(model, partial(_loss, model, num_regions, n)) for n in (2, 3)]
    macs = {part: n // 2 for part, n in flops.items()}
    return Analysis(parameters, macs, saved[1] - saved[0])


def analyze_config(cfg: DictConfig) -> Analysis:
    """Analyses the pre-training model of a config with as many regions as its loader provides."""
    target = cfg.model._target_
    if (locate(target) if isinstance(target, str) else target) is not RMAE:
        raise UserError(f"{target} is not a pre-training model; those of configs/pretrain are")
    return analyze(lambda: instantiate(cfg.model), cfg.dataloader.train.mapper.num_regions)


def parts_table(analysis: Analysis) -> str:
    """Formats the parts of one model as a Markdown table."""
    total = sum(analysis.macs.values())
    costs = {part: (analysis.parameters[part], macs) for part, macs in analysis.macs.items()}
    costs["all"] = (sum(analysis.parameters.values()), total)
    rows = [
        (part, f"{parameters / 1e6:.3f}", f"{macs / 1e9:.3f}", f"{100 * macs / total:.1f}")
        for part, (parameters, macs) in costs.items()
        if parameters or macs
    ]
    memory = f"Activations kept for the backward pass, float32: {_mib(analysis)} MiB per image."
    return f"{table(('part', 'parameters, M', 'GMACs', '%'), rows)}\n\n{memory}"


def comparison_table(models: dict[str, Analysis]) -> str:
    """Formats several models as a Markdown table, comparing them with the first."""
    first = sum(next(iter(models.values())).macs.values())
    parts = [part for part in PARTS if any(analysis.macs[part] for analysis in models.values())]
    header = ("model", "parameters, M", "GMACs", "against the first", *parts, "MiB per image")
    rows = [
        (
            name,
            f"{sum(analysis.parameters.values()) / 1e6:.2f}",
            f"{sum(analysis.macs.values()) / 1e9:.3f}",
            f"{100 * (sum(analysis.macs.values()) / first - 1):+.2f} %",
            *(f"{analysis.macs[part] / 1e9:.3f}" for part in parts),
            _mib(analysis),
        )
        for name, analysis in models.items()
    ]
    return table(header, rows)


def _loss(model: RMAE, num_regions: int, batch: int) -> Tensor:
    """Computes the loss on black images with empty regions."""
    net = model.backbone.net
    images = torch.zeros(batch, net.in_chans, *net.img_size)
    regions = torch.zeros(batch, num_regions, *net.img_size, dtype=torch.bool)
    ids = torch.arange(net.num_patches).repeat(batch, 1)
    visible = model.visible_patches()
    found = model.reconstruct(
        images, regions, (ids, ids), None, visible, model.num_predicted(visible)
    )
    return torch.stack([loss.mean() for name, loss in found.items() if "loss" in name]).sum()


def saved_bytes(model: nn.Module, loss_of: Callable[[], Tensor]) -> int:
    """Bytes a forward pass saves for the backward one, each storage once, without the model's own tensors."""
    own = {x.untyped_storage()._cdata for x in (*model.parameters(), *model.buffers())}
    kept: dict[int, int] = {}

    def pack(tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        if storage._cdata not in own:
            kept[storage._cdata] = storage.nbytes()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        # The loss keeps everything saved alive, so no address is reused.
        loss = loss_of()
    del loss
    return sum(kept.values())


def _mib(analysis: Analysis) -> str:
    return f"{analysis.activation_bytes / 2**20:.1f}"
