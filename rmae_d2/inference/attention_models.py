"""ViTs whose attention is compared: loaded from files of any kind, and fed with photos."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from omegaconf import OmegaConf
from torch import Tensor

from ..checkpoint.encoder import EncoderSize, load_encoder
from ..config import load_config
from ..data import CropResizeTransform
from ..errors import UserError
from ..modeling.attention_maps import AttentionViT

Image = NDArray[np.uint8]

#: Mean and standard deviation of RGB pixels, 0-255, that networks want: those of ImageNet (ours, MAE, MoCo
#: v3, DINO, most of timm), and a half (timm's augreg and other Inception-style weights).
NORMALIZATIONS = {
    "imagenet": ((123.675, 116.28, 103.53), (58.395, 57.12, 57.375)),
    "half": ((127.5, 127.5, 127.5), (127.5, 127.5, 127.5)),
}


@dataclass(frozen=True)
class NamedViT:
    """One model of a comparison.

    Attributes:
        name: title of its column.
        kind: of its file; "random" for none.
        normalization: key of :data:`NORMALIZATIONS`.
    """

    name: str
    kind: str
    size: EncoderSize
    vit: AttentionViT
    normalization: str = "imagenet"

    def prepare(self, image_HWC: Image, side: int | None = None) -> Tensor:
        """The photo as the model takes it: whole, resized, normalised; (1, 3, h, w) on the model's device.

        Args:
            image_HWC: uint8 RGB.
            side: of the shorter side, pixels; None for that of the images the position embedding is for. Both
                sides are rounded to whole patches.
        """
        height, width = image_HWC.shape[:2]
        patch = self.size.patch_size
        scale = (side or min(self.size.img_size)) / min(height, width) / patch
        high, wide = (max(1, round(length * scale)) * patch for length in (height, width))
        transform = CropResizeTransform(0, 0, width, height, high, wide, width, height)
        resized = transform.apply_image(image_HWC)
        mean, std = (torch.tensor(x).view(3, 1, 1) for x in NORMALIZATIONS[self.normalization])
        pixels = torch.from_numpy(np.ascontiguousarray(resized.transpose(2, 0, 1))).float()
        device = next(self.vit.net.parameters()).device
        return ((pixels - mean) / std)[None].to(device)

    def with_random_weights(self, name: str, seed: int = 0) -> "NamedViT":
        """A net of the same size as it is before training."""
        device = next(self.vit.net.parameters()).device
        net = AttentionViT(self.size.build(seed).to(device))
        return replace(self, name=name, kind="random", vit=net)


def load_models(
    weights: Sequence[str],
    names: Sequence[str] = (),
    *,
    num_heads: int | None = None,
    normalizations: Sequence[str] = (),
    device: torch.device | None = None,
) -> list[NamedViT]:
    """Loads the files of a comparison.

    A run's config.yaml beside its weights tells the number of heads and windows, which tensors do not.

    Args:
        weights: files of any kind that :func:`rmae_d2.checkpoint.load_weights` takes.
        names: one a file; by default as the files and their folders are called.
        num_heads: of all of them; None for what config.yaml says, else 64 channels a head.
        normalizations: keys of :data:`NORMALIZATIONS`, one a file, or one for all.

    Raises:
        CheckpointError: for a file that is missing, no plain ViT, or does not tell its number of heads.
        UserError: another number of names than of files, an unknown normalization, or images that are not
            RGB.
    """
    for option, given in (("--names", names), ("--normalize", normalizations)):
        if (
            given
            and len(given) != len(weights)
            and not (option == "--normalize" and len(given) == 1)
        ):
            raise UserError(f"{option}: {len(given)} given for {len(weights)} weight files")
    unknown = [name for name in normalizations if name not in NORMALIZATIONS]
    if unknown:
        raise UserError(f"--normalize {unknown[0]}: one of {', '.join(NORMALIZATIONS)}")
    wanted = [*normalizations] or ["imagenet"]
    wanted = wanted * len(weights) if len(wanted) == 1 else wanted
    titles = [*names] or _short_names(weights)
    models = []
    for path, name, normalization in zip(weights, titles, wanted, strict=True):
        size, net, kind = load_encoder(path, *_hints(path, num_heads))
        if size.in_chans != 3:
            raise UserError(f"{path}: a ViT for images of {size.in_chans} channels, not RGB")
        vit = AttentionViT(net if device is None else net.to(device))
        models.append(NamedViT(name, kind, size, vit, normalization))
    return models


def _hints(weights: str, num_heads: int | None) -> tuple[int | None, Any]:
    """Heads, and side and blocks of windows, as the config beside the weights says; None where none does."""
    config = Path(weights).parent / "config.yaml"
    if "://" in weights or not config.is_file():
        return num_heads, None
    net = OmegaConf.select(load_config(config), "model.backbone.net")
    if net is None:
        return num_heads, None
    blocks = net.get("window_block_indexes") or ()
    window = (int(net.get("window_size") or 0), [int(i) for i in blocks])
    return num_heads or net.get("num_heads"), window if window[0] and window[1] else None


def _short_names(weights: Sequence[str]) -> list[str]:
    """File names without ending; where they repeat, with their folder."""
    paths = [Path(path) for path in weights]
    stems = [path.name.split(".")[0] for path in paths]
    return [
        stem if stems.count(stem) == 1 else f"{path.parent.name}/{stem}"
        for path, stem in zip(paths, stems, strict=True)
    ]


def patch_attention(
    model: NamedViT, images_1CHW: Tensor, layer: str = "-1", head: int | None = None
) -> Tensor:
    """What the tokens of one photo attend to.

    Args:
        layer: number of a block, "-1" for the last, or "rollout".
        head: number of one; None for the mean of all.

    Returns:
        float32 (T, T) on the CPU, the cls token first where ``model.vit.prefix`` is 1.

    Raises:
        UserError: for a layer or head that the model has not.
    """
    check_layer(layer, head)
    if head is not None and not 0 <= head < model.vit.num_heads:
        raise UserError(
            f"{model.name} has {model.vit.num_heads} heads, numbered from 0: no --head {head}"
        )
    try:
        if layer == "rollout":
            return model.vit.rollout(images_1CHW)[0].cpu()
        weights = model.vit.attention(images_1CHW, int(layer))[0]
    except UserError as error:
        raise UserError(f"{model.name}: --layer {layer}: {error}") from error
    return (weights.mean(dim=0) if head is None else weights[head]).cpu()


def check_layer(layer: str, head: int | None) -> None:
    """Refuses what no model could have.

    Raises:
        UserError: naming it.
    """
    if layer == "rollout":
        if head is not None:
            raise UserError("--head with --layer rollout, which is of the mean over the heads")
        return
    try:
        int(layer)
    except ValueError as error:
        raise UserError(f"--layer {layer}: the number of a block, -1, or rollout") from error


def describe_layer(model: NamedViT, layer: str, head: int | None) -> str:
    """For titles: "block 11, mean of 12 heads"."""
    if layer == "rollout":
        return "rollout"
    heads = f"mean of {model.vit.num_heads} heads" if head is None else f"head {head}"
    return f"block {int(layer) % model.vit.depth}, {heads}"
