"""Networks of the size that weights imply: tensor names and shapes, and building and loading a ViT."""

import re
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from ..errors import CheckpointError
from ..modeling import MaskedViT, PixelDecoder, RegionBranch
from ..modeling.pixel_encoder import VIT_SIZES, LayerNorm
from ..modeling.transfer.vit import ViT
from .containers import StateDict
from .formats import load_weights
from .names import DECODER, ENCODER, REGIONS
from .positions import grid_of_table

Shapes = dict[str, tuple[int, ...]]

_NORM = ("norm.weight", "norm.bias")
_REL_POS = re.compile(r"blocks\.(\d+)\.attn\.rel_pos_h$")
_HEADS = {size["embed_dim"]: size["num_heads"] for size in VIT_SIZES.values()}
# MoCo v3's ViT-S has heads with 32 instead of 64 channels.
_MOCO_SMALL = (384, 12)


@dataclass(frozen=True)
class EncoderSize:
    """Everything needed to build a ViT."""

    grid: tuple[int, int]  #: (Gh, Gw) of the position embedding
    patch_size: int
    in_chans: int
    embed_dim: int
    depth: int
    num_heads: int
    mlp_ratio: float
    cls_token: bool  #: without one, or with relative positions, the net is the transfer backbone
    cls_row: bool  #: whether the position embedding has a row for it regardless
    norm: bool  #: whether there is a final norm
    window: int  #: side, in patches, of the windows of ``windowed`` blocks
    windowed: tuple[int, ...]
    rel_grid: int  #: side, in patches, of the grid of the relative positions; 0 for none

    @property
    def img_size(self) -> tuple[int, int]:
        """(H, W) in pixels of the position embedding's grid."""
        return self.grid[0] * self.patch_size, self.grid[1] * self.patch_size

    def __str__(self) -> str:
        return f"ViT of {self.depth} blocks, width {self.embed_dim}, patches of {self.patch_size}"

    def build(self, seed: int = 0) -> MaskedViT | ViT:
        """Build the network with random weights, without changing torch's global generator."""
        names = ("patch_size", "in_chans", "embed_dim", "depth", "num_heads", "mlp_ratio")
        sizes: dict[str, Any] = {name: getattr(self, name) for name in names}
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            if self.rel_grid or not self.cls_token:
                return ViT(
                    img_size=(self.rel_grid or self.grid[0]) * self.patch_size,
                    norm_layer=LayerNorm,
                    use_rel_pos=self.rel_grid > 0,
                    window_size=self.window,
                    window_block_indexes=self.windowed,
                    pretrain_img_size=self.img_size[0],
                    pretrain_use_cls_token=self.cls_row,
                    keep_cls_token=self.cls_token,
                    **sizes,
                ).eval()
            net = MaskedViT(self.img_size, **sizes)
        if not self.norm:
            net.norm = nn.Identity()  # type: ignore[assignment]
        return net.eval()


def load_encoder(
    weights: str | Mapping[str, Any],
    num_heads: int | None = None,
    window: tuple[int, Collection[int]] | None = None,
) -> tuple[EncoderSize, MaskedViT | ViT, str]:
    """Build the ViT that a file holds, with its size derived from its tensors.

    With a cls token, this is the encoder from pre-training (or of a classifier, without its head) or, with
    relative positions, a segmentation backbone. Otherwise it is Detectron2's backbone, in which blocks whose
    relative positions cover a smaller grid attend within windows of that size.

    Args:
        weights: anything that `load_weights` accepts.
        num_heads: cannot be derived from tensors; None for that of the plain ViT of this width, 64 channels
            per head.
        window: side in patches, and the blocks with windows; None to derive both from the file.

    Returns:
        the size, the net in evaluation mode, and the kind of file as named by `load_weights`.

    Raises:
        CheckpointError: the file is missing or incomplete, or its ViT is not plain: layer scale, register
            tokens, convolutions.
    """
    kind, ours = load_weights(weights)
    source = weights if isinstance(weights, str) else "the given state dict"
    own = {k.removeprefix(ENCODER): v.float() for k, v in ours.items() if k.startswith(ENCODER)}
    try:
        size = _size(kind, encoder_sizes(ours), own, num_heads, window)
    except CheckpointError as error:
        raise CheckpointError(f"{source}: {error}") from error
    net = size.build()
    left_out = {"cls_token", *_NORM} - net.state_dict().keys()
    try:  # anything else left over or missing would silently change the features
        net.load_state_dict({name: own[name] for name in own if name not in left_out})
    except RuntimeError as error:
        raise CheckpointError(f"{source}: not a plain ViT, or incomplete: {error}") from error
    return size, net, kind


def _size(
    kind: str,
    sizes: dict[str, Any],
    own: Mapping[str, Tensor],
    num_heads: int | None,
    window: tuple[int, Collection[int]] | None,
) -> EncoderSize:
    if "pos_embed" not in own:
        raise CheckpointError("its ViT has no position embedding (pos_embed): not a plain ViT")
    cls_token = "cls_token" in own
    grid, cls_rows = grid_of_table(own["pos_embed"], (1,) if cls_token else (1, 0))
    if not cls_token and grid[0] != grid[1]:
        raise CheckpointError(
            f"a ViT without cls token on a grid of {grid}: Detectron2's is square"
        )
    dim = sizes["embed_dim"]
    heads = num_heads or _heads(kind, dim)
    if dim % heads:
        raise CheckpointError(f"{heads} heads do not divide its width {dim}: set --num-heads")
    side, windowed, rel_grid = _windows(own)
    if window is not None:
        side, windowed = window[0], tuple(sorted(window[1]))
    if cls_token and rel_grid and windowed:
        raise CheckpointError("a cls token beside windows: not a plain ViT")
    return EncoderSize(
        **sizes,
        grid=grid,
        num_heads=heads,
        cls_token=cls_token,
        cls_row=cls_rows == 1,
        norm=any(name in own for name in _NORM),
        window=side,
        windowed=windowed,
        rel_grid=rel_grid,
    )


def _heads(kind: str, dim: int) -> int:
    if kind == "moco_v3" and dim == _MOCO_SMALL[0]:
        return _MOCO_SMALL[1]
    if dim not in _HEADS and dim % 64:
        raise CheckpointError(f"no tensor tells the heads of a ViT of width {dim}: set --num-heads")
    return _HEADS.get(dim, dim // 64)


def _windows(own: Mapping[str, Tensor]) -> tuple[int, tuple[int, ...], int]:
    """Window side, windowed blocks and side of the whole grid, derived from the relative positions."""
    found = {name: _REL_POS.match(name) for name in own}
    sides = {int(m[1]): (len(own[name]) + 1) // 2 for name, m in found.items() if m}
    if not sides:
        return 0, (), 0
    smallest, largest = min(sides.values()), max(sides.values())
    if smallest == largest:
        return 0, (), largest
    return smallest, tuple(i for i, side in sorted(sides.items()) if side == smallest), largest


def expected_shapes(weights: StateDict, num_patches: int, regions: bool) -> Shapes:
    """Expected shapes: the pixel encoder, its table with one cls row; decoder and region branch, if present.

    Args:
        weights: under our names; all sizes are derived from them.
        num_patches: L.
        regions: whether the region branch is the reference's (length variant); if not, it is left out.

    Raises:
        CheckpointError: the weights contain no pixel encoder.
    """
    sizes = encoder_sizes(weights)
    patch = sizes["patch_size"]
    facts = (sizes["embed_dim"], (1, num_patches), patch)
    with torch.device("meta"):
        shapes = _shapes(MaskedViT((patch, patch * num_patches), **sizes, num_heads=1), ENCODER)
        mask_token = weights.get(DECODER + "mask_token")
        if mask_token is not None:
            size = (mask_token.shape[-1], _count(weights, DECODER + "blocks"), 1)
            shapes |= _shapes(PixelDecoder(*facts, sizes["in_chans"], *size), DECODER)
        mask_token = weights.get(REGIONS + "neck.mask_token")
        patch_embed = weights.get(REGIONS + "encoder.patch_embed.proj.weight")
        if regions and mask_token is not None and patch_embed is not None:
            branch = RegionBranch(
                *facts,
                neck_depth=_count(weights, REGIONS + "neck.blocks"),
                encoder_dim=len(patch_embed),
                encoder_depth=_count(weights, REGIONS + "encoder.blocks"),
                encoder_num_heads=1,
                decoder_dim=mask_token.shape[-1],
                decoder_depth=1 + _count(weights, REGIONS + "decoder"),
                decoder_num_heads=1,
            )
            shapes |= _shapes(branch, REGIONS)
    return shapes


def encoder_sizes(weights: StateDict) -> dict[str, Any]:
    """Arguments of the pixel encoder's `MaskedViT` that its tensors reveal: all but the number of heads.

    Raises:
        CheckpointError: there is no encoder, or its patches are not square.
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
    dim = len(kernel)
    hidden = weights.get(ENCODER + "blocks.0.mlp.fc1.weight")
    return {
        "patch_size": kernel.shape[2],
        "in_chans": kernel.shape[1],
        "embed_dim": dim,
        "depth": _count(weights, ENCODER + "blocks"),
        # Half a unit more, because int(dim * ratio) must not round down.
        "mlp_ratio": (len(hidden) + 0.5) / dim if hidden is not None else 4.0,
    }


def _count(names: Iterable[str], stem: str) -> int:
    """One more than the highest index after ``stem.``, so that gaps show up as missing tensors."""
    found = (re.match(rf"{re.escape(stem)}\.(\d+)\.", name) for name in names)
    return max((int(match[1]) + 1 for match in found if match), default=0)


def _shapes(module: nn.Module, prefix: str) -> Shapes:
    return {prefix + name: tuple(value.shape) for name, value in module.state_dict().items()}
