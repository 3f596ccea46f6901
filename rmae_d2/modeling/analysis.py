"""What a pre-training model costs: parameters and multiply-adds by part, activation memory of an image.

Nothing is computed: operators are counted on meta tensors, memory on fake ones, so a ViT-H at 1024 pixels
takes as long as a small network and no memory. What a masking policy computes is not counted: the frozen
scorer of AutoMAE adds a forward pass of its ViT over all patches.
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

#: A part is what lies below its prefix, less the parts that lie below it too.
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
        parameters: trainable parameters by part, names as in `PARTS`.
        macs: multiply-adds by part, of one image's forward pass with its losses.
        activation_bytes: what the backward pass keeps of each image in float32, besides the weights.
    """

    parameters: dict[str, int]
    macs: dict[str, int]
    activation_bytes: int


def analyze(build: Callable[[], RMAE], num_regions: int = 8) -> Analysis:
    """Costs of the model that ``build`` makes, called where tensors have no values; K regions per image."""
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
        # What one more image adds: copies of weights are kept once, and of one image fewer transposed ones.
        saved = [saved_bytes(model, partial(_loss, model, num_regions, n)) for n in (2, 3)]
    macs = {part: n // 2 for part, n in flops.items()}
    return Analysis(parameters, macs, saved[1] - saved[0])


def analyze_config(cfg: DictConfig) -> Analysis:
    """Analyses the pre-training model of a config, with as many regions as its loader gives."""
    target = cfg.model._target_
    if (locate(target) if isinstance(target, str) else target) is not RMAE:
        raise UserError(f"{target} is not a pre-training model; those of configs/pretrain are")
    return analyze(lambda: instantiate(cfg.model), cfg.dataloader.train.mapper.num_regions)


def parts_table(analysis: Analysis) -> str:
    """The parts of one model as a Markdown table."""
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
    """Several models as a Markdown table, the first of which the others are compared with."""
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
    """The loss of black images and empty regions."""
    net = model.backbone.net
    images = torch.zeros(batch, net.in_chans, *net.img_size)
    regions = torch.zeros(batch, num_regions, *net.img_size, dtype=torch.bool)
    ids = torch.arange(net.num_patches).repeat(batch, 1)
    return model.forward_tensors(images, regions, ids)["loss"]


def saved_bytes(model: nn.Module, loss_of: Callable[[], Tensor]) -> int:
    """What a forward pass keeps for the backward one, the model's own tensors left out, each memory once."""
    own = {x.untyped_storage()._cdata for x in (*model.parameters(), *model.buffers())}
    kept: dict[int, int] = {}

    def pack(tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        if storage._cdata not in own:
            kept[storage._cdata] = storage.nbytes()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        # The loss holds on to all that was kept, so no address is used twice.
        loss = loss_of()
    del loss
    return sum(kept.values())


def _mib(analysis: Analysis) -> str:
    return f"{analysis.activation_bytes / 2**20:.1f}"
