"""What the blocks of a plain ViT give, for images of any size of whole patches, nothing hidden.

Letters: B images, T tokens (the cls token, where there is one, then the patches), L patches, D width,
C channels, H W pixels, Gh Gw grid.
"""

from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import torch
from timm.layers import resample_abs_pos_embed
from torch import Tensor, nn

from ..errors import UserError
from .patches import grid_of, patchify
from .pixel_encoder import MaskedViT
from .transfer.vit import ViT


class BlockFeatures(NamedTuple):
    """What one block gives."""

    patches: Tensor  #: (B, D, Gh, Gw), or (B, L, D) in raster order
    cls_token: Tensor | None  #: (B, D); None for a net without one


def encoder_of(model: nn.Module) -> MaskedViT | ViT:
    """The ViT of a model: itself, or what it holds as ``net`` or ``backbone.net``.

    Raises:
        UserError: there is none of our two kinds.
    """
    backbone = getattr(model, "backbone", model)
    net = getattr(backbone, "net", backbone)
    if not isinstance(net, MaskedViT | ViT):
        raise UserError(
            f"a {type(model).__name__} without a plain ViT of rmae_d2 as its backbone.net: give an RMAE, a "
            "classifier, a detector or segmentor on a ViT, or the ViT itself"
        )
    return net


def block_features(
    net: MaskedViT | ViT,
    images_BCHW: Tensor,
    layers: int | Sequence[int] = 1,
    *,
    norm: bool = True,
    reshape: bool = True,
) -> list[BlockFeatures]:
    """Features behind chosen blocks; position embeddings are resampled to the images' grid.

    As timm's ``VisionTransformer.get_intermediate_layers`` and DINOv2's, in the net's present mode.

    Args:
        images_BCHW: normalised, sides multiples of the patch side.
        layers: so many of the last blocks, or numbers of blocks, from 0 or from the end with -1.
        norm: with the final norm on each, where the net has one: ViTDet's has none.
        reshape: patches as maps (B, D, Gh, Gw), else as sequences (B, L, D).

    Raises:
        UserError: a block that is not there, or sides that are not multiples.
    """
    wanted = block_numbers(layers, len(net.blocks))
    grid = grid_of((images_BCHW.shape[2], images_BCHW.shape[3]), int(net.patch_size))
    found = {i: x for i, x in enumerate(block_states(net, images_BCHW), -1) if i in wanted}
    return [_split(net, found[i], grid, norm, reshape) for i in wanted]


def block_numbers(layers: int | Sequence[int], depth: int) -> list[int]:
    """Numbers from 0 of chosen blocks of a net, see `block_features`."""
    last = range(depth - layers, depth) if isinstance(layers, int) else None
    wanted = list(layers if last is None else last)  # type: ignore[arg-type]
    if not wanted or not all(-depth <= i < depth for i in wanted) or (last and last[0] < 0):
        raise UserError(
            f"layers={layers}: a number of last blocks, 1 to {depth}, or a list of blocks, 0 to {depth - 1}"
        )
    return [i % depth for i in wanted]


def _split(
    net: MaskedViT | ViT, x: Tensor, grid: tuple[int, int], norm: bool, reshape: bool
) -> BlockFeatures:
    if norm and isinstance(net, MaskedViT):
        x = net.norm(x)
    x = x if x.dim() == 3 else x.flatten(1, 2)
    prefix = int(net.cls_token is not None)
    patches = x[:, prefix:]
    if reshape:
        patches = patches.transpose(1, 2).unflatten(2, grid).contiguous()
    return BlockFeatures(patches, x[:, 0] if prefix else None)


def block_states(net: MaskedViT | ViT, images_BCHW: Tensor) -> Iterator[Tensor]:
    """The input of each block, then the last one's output: (B, T, D), or (B, Gh, Gw, D) of the backbone."""
    x, *size = _embed(net, images_BCHW)
    yield x
    for block in net.blocks:
        x = block(x, *size)
        yield x


def _embed(net: MaskedViT | ViT, images_BCHW: Tensor) -> tuple[Any, ...]:
    """What the net's blocks take."""
    if not isinstance(net, MaskedViT):
        return net.embed(images_BCHW)
    grid = grid_of((images_BCHW.shape[2], images_BCHW.shape[3]), net.patch_size)
    positions = net.pos_embed[:, 1:]
    if grid != net.grid:
        positions = resample_abs_pos_embed(
            positions, new_size=list(grid), old_size=list(net.grid), num_prefix_tokens=0
        )
    x = net.patch_embed(patchify(images_BCHW, net.patch_size)) + positions
    token: Any = net.cls_token
    cls_token = (token + net.pos_embed[:, :1]).to(x.dtype)
    return (torch.cat([cls_token.expand(len(x), -1, -1), x], dim=1),)
