"""The pixel encoder: a plain ViT that sees only the visible patches (MAE; R-MAE section 3.1).

Letters: B images, L patches, V visible patches, D width, C channels, H W pixels.
"""

from collections.abc import Sequence
from functools import partial
from typing import Any

import torch
from timm.layers import to_2tuple
from timm.models.vision_transformer import Block
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from ..errors import UserError
from .patches import PatchEmbed, grid_of, patchify, sincos_position_embedding, window_of_patches

# Width, depth and heads of the standard plain ViTs (ViT and DeiT papers; H is used with patch 14).
VIT_SIZES: dict[str, dict[str, int]] = {
    "tiny": {"embed_dim": 192, "depth": 12, "num_heads": 3},
    "small": {"embed_dim": 384, "depth": 12, "num_heads": 6},
    "base": {"embed_dim": 768, "depth": 12, "num_heads": 12},
    "large": {"embed_dim": 1024, "depth": 24, "num_heads": 16},
    "huge": {"embed_dim": 1280, "depth": 32, "num_heads": 16},
}

LayerNorm = partial(nn.LayerNorm, eps=1e-6)


def make_blocks(
    dim: int,
    depth: int,
    num_heads: int,
    mlp_ratio: float = 4.0,
    drop_path_rate: float = 0.0,
    kind: type[Block] = Block,
) -> nn.ModuleList:
    """Builds ``depth`` pre-norm transformer blocks with MAE's initialisation (xavier-uniform Linears)."""
    rates = [drop_path_rate * i / max(depth - 1, 1) for i in range(depth)]
    blocks = nn.ModuleList(
        kind(
            dim,
            num_heads,
            mlp_ratio=mlp_ratio,
            qkv_bias=True,
            norm_layer=LayerNorm,
            drop_path=rate,
        )
        for rate in rates
    )
    blocks.apply(init_linear)
    return blocks


def run_blocks(blocks: nn.ModuleList, x_BLD: Tensor, recompute: bool, *more: Any) -> Tensor:
    """Runs the blocks in sequence; ``recompute``: recompute activations in the backward pass.

    ``more``: further arguments of every block.
    """
    recompute = recompute and torch.is_grad_enabled()
    for block in blocks:
        if recompute:
            x_BLD = checkpoint(block, x_BLD, *more, use_reentrant=False)
        else:
            x_BLD = block(x_BLD, *more)
    return x_BLD


def init_linear(module: nn.Module) -> None:
    """Initialises a Linear with xavier-uniform weight and zero bias; leaves other modules alone."""
    if isinstance(module, nn.Linear):
        nn.init.xavier_uniform_(module.weight)
        if module.bias is not None:
            nn.init.zeros_(module.bias)


class WindowedBlock(Block):
    """A transformer block for tokens that are sorted by window, after a cls token; parameters as in `Block`.

    Attributes:
        window_size: side of the windows in patches; 0 for attention of all tokens to all.
    """

    window_size = 0

    def forward(self, x_BTD: Tensor, num_windows: int) -> Tensor:
        """(B, 1 + V, D) -> (B, 1 + V, D); the cls token lies in no window and passes through unchanged."""
        if not self.window_size:
            return super().forward(x_BTD)
        cls_token, patches = x_BTD[:, :1], x_BTD[:, 1:]
        inside = super().forward(patches.unflatten(1, (num_windows, -1)).flatten(0, 1))
        return torch.cat([cls_token, inside.reshape(patches.shape)], dim=1)


class MaskedViT(nn.Module):
    """A ViT over a subset of patches; parameter names match those of Detectron2's ViT and timm's.

    Args:
        img_size: side or (H, W) in pixels.
        window_size: side in patches of the windows of ``window_block_indexes``, as in ViTDet. It divides the
            grid, and equally many patches are visible in each window (`WindowMasking`). 0 for none.
        window_block_indexes: blocks in which patches attend within their window.
        drop_path_rate: stochastic depth rate of the last block, increasing linearly from 0.
        use_act_checkpoint: trade time for memory, see `run_blocks`.
    """

    def __init__(
        self,
        img_size: int | tuple[int, int] = 224,
        patch_size: int = 16,
        in_chans: int = 3,
        embed_dim: int = 768,
        depth: int = 12,
        num_heads: int = 12,
        mlp_ratio: float = 4.0,
        drop_path_rate: float = 0.0,
        use_act_checkpoint: bool = False,
        window_size: int = 0,
        window_block_indexes: Sequence[int] = (),
    ) -> None:
        super().__init__()
        _check_windows(window_size, window_block_indexes, depth)
        self.use_act_checkpoint = use_act_checkpoint
        self.img_size = to_2tuple(img_size)
        self.patch_size = patch_size
        self.in_chans = in_chans
        self.embed_dim = embed_dim
        self.grid = grid_of(img_size, patch_size)
        self.patch_embed = PatchEmbed(patch_size, in_chans, embed_dim)
        self.cls_token = nn.Parameter(torch.empty(1, 1, embed_dim).normal_(std=0.02))
        # A parameter rather than a buffer: Detectron2's ViT trains it during transfer, under this name.
        self.pos_embed = nn.Parameter(
            sincos_position_embedding(embed_dim, self.grid), requires_grad=False
        )
        kind = WindowedBlock if window_size else Block
        self.blocks = make_blocks(embed_dim, depth, num_heads, mlp_ratio, drop_path_rate, kind)
        self.window_size = window_size
        for i in window_block_indexes:
            setattr(self.blocks[i], "window_size", window_size)  # noqa: B010  (typed as any module)
        self.norm = LayerNorm(embed_dim)
        if window_size:
            window_of_patches(self.grid, window_size)  # or refuses

    @property
    def num_patches(self) -> int:
        """L."""
        return self.grid[0] * self.grid[1]

    def forward(
        self,
        patches_BLX: Tensor,
        ids_visible_BV: Tensor | None = None,
        gates_BV: Tensor | None = None,
    ) -> Tensor:
        """Encodes the visible patches.

        Args:
            patches_BLX: all patches, as cut by `patchify`, (B, L, P*P*C).
            ids_visible_BV: int64 indices of the visible patches; None for all, in raster order.
            gates_BV: factors applied to the visible patches' tokens before the first block; None for none.

        Returns:
            (B, 1 + V, D): cls token, then the visible patches in the given order, after the final norm.
        """
        pos_embed = self.pos_embed[:, 1:]
        if ids_visible_BV is not None:
            B, _, X = patches_BLX.shape
            ids_BV1 = ids_visible_BV[:, :, None]
            patches_BLX = patches_BLX.gather(1, ids_BV1.expand(-1, -1, X))
            ids_BVD = ids_BV1.expand(-1, -1, self.embed_dim)
            pos_embed = pos_embed.expand(B, -1, -1).gather(1, ids_BVD)
        x = self.patch_embed(patches_BLX) + pos_embed
        if gates_BV is not None:
            x = x * gates_BV[:, :, None]
        cls_token = (self.cls_token + self.pos_embed[:, :1]).to(x.dtype)
        x = torch.cat([cls_token.expand(x.shape[0], -1, -1), x], dim=1)
        if not self.window_size:
            return self.norm(run_blocks(self.blocks, x, self.use_act_checkpoint))
        tokens_BT, num_windows = self.by_window(ids_visible_BV, self.grid)
        x = x.gather(1, tokens_BT[:, :, None].expand(x.shape))
        x = run_blocks(self.blocks, x, self.use_act_checkpoint, num_windows)
        return self.norm(torch.empty_like(x).scatter(1, tokens_BT[:, :, None].expand(x.shape), x))

    def by_window(self, ids_visible_BV: Tensor | None, grid: tuple[int, int]) -> tuple[Tensor, int]:
        """Sorts tokens by window: their indices (B or 1, 1 + V), cls token first, and the number of windows.

        Raises:
            UserError: windows do not divide the grid, or the number of visible patches.
        """
        window = window_of_patches(grid, self.window_size).to(self.pos_embed.device)
        num_windows = (grid[0] // self.window_size) * (grid[1] // self.window_size)
        found = window[None] if ids_visible_BV is None else window[ids_visible_BV]
        if found.shape[1] % num_windows:
            raise UserError(
                f"{found.shape[1]} visible patches in {num_windows} windows: not equally many in each"
            )
        order = found.argsort(dim=1, stable=True) + 1
        return torch.cat([torch.zeros_like(order[:, :1]), order], dim=1), num_windows


class PixelEncoder(nn.Module):
    """Holds the ViT as ``net``, like ViTDet's pyramid, so that ``backbone.net.*`` loads by exact names."""

    def __init__(self, net: MaskedViT) -> None:
        super().__init__()
        self.net = net

    def forward(
        self,
        patches_BLX: Tensor,
        ids_visible_BV: Tensor | None = None,
        gates_BV: Tensor | None = None,
    ) -> Tensor:
        """See `MaskedViT.forward`."""
        return self.net(patches_BLX, ids_visible_BV, gates_BV)

    def encode_image(self, images_BCHW: Tensor) -> Tensor:
        """Encodes whole images with nothing hidden: (B, C, H, W) -> (B, 1 + L, D)."""
        return self.net(patchify(images_BCHW, self.net.patch_size))


def _check_windows(window_size: int, blocks: Sequence[int], depth: int) -> None:
    if bool(window_size) != bool(blocks) or window_size < 0:
        raise UserError(
            f"window_size={window_size} with window_block_indexes={list(blocks)}: give both, or neither"
        )
    if unknown := [i for i in blocks if i not in range(depth)]:
        raise UserError(f"window_block_indexes {unknown}: the ViT has blocks 0 to {depth - 1}")


def vit_kwargs(size: str) -> dict[str, Any]:
    """Returns ``embed_dim``, ``depth`` and ``num_heads`` of a named size."""
    if size not in VIT_SIZES:
        raise UserError(f"unknown ViT size {size!r}: one of {', '.join(VIT_SIZES)}")
    return dict(VIT_SIZES[size])
