"""Features from the blocks of a plain ViT, for images of any size in whole patches, with nothing hidden.

Letters: B images, T tokens (the cls token, if present, then the patches), L patches, D width,
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
    """Output of one block."""

    patches: Tensor  #: (B, D, Gh, Gw), or (B, L, D) in raster order
    cls_token: Tensor | None  #: (B, D); None for a net without one


def encoder_of(model: nn.Module) -> MaskedViT | ViT:
    """Returns the ViT of a model: the model itself, its ``net`` or its ``backbone.net``.

    Raises:
        UserError: if it is neither of our two ViT classes.
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
    """Returns the outputs of chosen blocks; position embeddings are resampled to the images' grid.

    Like ``get_intermediate_layers`` of timm's ``VisionTransformer`` and of DINOv2, in the net's current mode.

    Args:
        images_BCHW: normalised; sides are multiples of the patch size.
        layers: number of last blocks, or a list of block indices, counted from 0 or from the end with -1.
        norm: apply the final norm to each, if the net has one (ViTDet's has none).
        reshape: return patches as maps (B, D, Gh, Gw), else as sequences (B, L, D).

    Raises:
        UserError: for a block that does not exist, or sides that are not multiples of the patch size.
    """
    wanted = block_numbers(layers, len(net.blocks))
    grid = grid_of((images_BCHW.shape[2], images_BCHW.shape[3]), int(net.patch_size))
    found = {i: x for i, x in enumerate(block_states(net, images_BCHW), -1) if i in wanted}
    return [_split(net, found[i], grid, norm, reshape) for i in wanted]


def block_numbers(layers: int | Sequence[int], depth: int) -> list[int]:
    """Resolves ``layers`` of `block_features` to block indices counted from 0."""
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
    """Yields each block's input, then the last output: (B, T, D), or (B, Gh, Gw, D) for the backbone."""
    x, *size = _embed(net, images_BCHW)
    if isinstance(net, MaskedViT) and net.window_size:
        yield from _windowed_states(net, x, images_BCHW)
        return
    yield x
    for block in net.blocks:
        x = block(x, *size)
        yield x


def _windowed_states(net: MaskedViT, x: Tensor, images_BCHW: Tensor) -> Iterator[Tensor]:
    """As `block_states`, for an encoder that takes tokens by window."""
    grid = grid_of((images_BCHW.shape[2], images_BCHW.shape[3]), net.patch_size)
    tokens, num_windows = net.by_window(None, grid)
    back = tokens[0].argsort()
    x = x[:, tokens[0]]
    yield x[:, back]
    for block in net.blocks:
        x = block(x, num_windows)
        yield x[:, back]


def _embed(net: MaskedViT | ViT, images_BCHW: Tensor) -> tuple[Any, ...]:
    """Computes the input of the net's blocks."""
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
