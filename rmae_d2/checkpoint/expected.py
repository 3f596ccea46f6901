"""Names and shapes that the networks have for given weights, asked of the networks themselves."""

import re
from collections.abc import Iterable

import torch
from torch import nn

from ..errors import CheckpointError
from ..modeling import MaskedViT, PixelDecoder, RegionBranch
from .formats import StateDict
from .targets import DECODER, ENCODER, REGIONS

Shapes = dict[str, tuple[int, ...]]


def expected_encoder(weights: StateDict, num_patches: int) -> Shapes:
    """The pixel encoder's tensors; its table is given with one cls row.

    Args:
        weights: under our names; width, patch size, channels, depth and MLP width are read off them.
        num_patches: L.

    Raises:
        CheckpointError: where they hold no pixel encoder.
    """
    dim, in_chans, patch_size = encoder_size(weights)
    depth = _count(weights, ENCODER + "blocks")
    hidden = weights.get(ENCODER + "blocks.0.mlp.fc1.weight")
    # Half a unit more, for int(dim * ratio) must not round down.
    ratio = (len(hidden) + 0.5) / dim if hidden is not None else 4.0
    with torch.device("meta"):
        net = MaskedViT(
            (patch_size, patch_size * num_patches), patch_size, in_chans, dim, depth, 1, ratio
        )
    return _shapes(net, ENCODER)


def expected_decoder(weights: StateDict, num_patches: int) -> Shapes:
    """The pixel decoder's tensors, or none where the weights hold no decoder."""
    mask_token = weights.get(DECODER + "mask_token")
    if mask_token is None:
        return {}
    dim, in_chans, patch_size = encoder_size(weights)
    depth = _count(weights, DECODER + "blocks")
    with torch.device("meta"):
        decoder = PixelDecoder(
            dim, (1, num_patches), patch_size, in_chans, mask_token.shape[-1], depth, num_heads=1
        )
    return _shapes(decoder, DECODER)


def expected_regions(weights: StateDict, num_patches: int) -> Shapes:
    """The region branch's tensors (length variant), or none where the weights hold none."""
    mask_token = weights.get(REGIONS + "neck.mask_token")
    patch_embed = weights.get(REGIONS + "encoder.patch_embed.proj.weight")
    if mask_token is None or patch_embed is None:
        return {}
    dim, _, patch_size = encoder_size(weights)
    with torch.device("meta"):
        branch = RegionBranch(
            dim,
            (1, num_patches),
            patch_size,
            neck_depth=_count(weights, REGIONS + "neck.blocks"),
            encoder_dim=len(patch_embed),
            encoder_depth=_count(weights, REGIONS + "encoder.blocks"),
            encoder_num_heads=1,
            decoder_dim=mask_token.shape[-1],
            decoder_depth=1 + _count(weights, REGIONS + "decoder"),
            decoder_num_heads=1,
        )
    return _shapes(branch, REGIONS)


def encoder_size(weights: StateDict) -> tuple[int, int, int]:
    """Width, channels and patch side of the pixel encoder.

    Raises:
        CheckpointError: where there is none, or it embeds no square patches.
    """
    kernel = weights.get(ENCODER + "patch_embed.proj.weight")
    if kernel is None:
        raise CheckpointError("no pixel encoder in these weights: nothing to convert")
    if kernel.dim() != 4 or kernel.shape[2] != kernel.shape[3]:
        raise CheckpointError(
            f"patch_embed.proj.weight is {tuple(kernel.shape)}, not (width, channels, patch, patch)"
        )
    if len(kernel) % 4:
        raise CheckpointError(f"an encoder of width {len(kernel)}: not a multiple of 4")
    return len(kernel), kernel.shape[1], kernel.shape[2]


def _count(names: Iterable[str], stem: str) -> int:
    """One more than the highest number after ``stem.``, so that a gap shows as missing tensors."""
    found = (re.match(rf"{re.escape(stem)}\.(\d+)\.", name) for name in names)
    return max((int(match[1]) + 1 for match in found if match), default=0)


def _shapes(module: nn.Module, prefix: str) -> Shapes:
    return {prefix + name: tuple(value.shape) for name, value in module.state_dict().items()}
