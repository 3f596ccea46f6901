"""Images as patches: cutting, reassembling, and position embeddings.

Letters: B images, K regions, L patches, P patch side, C channels, D width, H W pixels, Gh Gw grid,
X values per patch.
"""

import math

import torch
import torch.nn.functional as F
from timm.layers import to_2tuple
from torch import Tensor, nn

from ..errors import UserError


def grid_of(image_size: int | tuple[int, int], patch_size: int) -> tuple[int, int]:
    """Returns the (Gh, Gw) patch grid of an image, whose sides must be multiples of the patch size."""
    height, width = to_2tuple(image_size)
    if height % patch_size or width % patch_size or not height or not width:
        raise UserError(
            f"image size {height}x{width} is not a positive multiple of the patch size {patch_size}"
        )
    return height // patch_size, width // patch_size


def patchify(images_BCHW: Tensor, patch_size: int) -> Tensor:
    """Cuts images into patches, in raster order.

    Returns:
        (B, L, P*P*C); within a patch ordered by row, then column, then channel, as in MAE.
    """
    B, C, H, W = images_BCHW.shape
    Gh, Gw = grid_of((H, W), patch_size)
    x = images_BCHW.reshape(B, C, Gh, patch_size, Gw, patch_size)
    return x.permute(0, 2, 4, 3, 5, 1).reshape(B, Gh * Gw, patch_size * patch_size * C)


def patchify_regions(regions_BKHW: Tensor, patch_size: int) -> Tensor:
    """Cuts every region map into patches, in raster order: (B, K, H, W) -> (B, K, L, P*P)."""
    B, K = regions_BKHW.shape[:2]
    return patchify(regions_BKHW.flatten(0, 1)[:, None], patch_size).unflatten(0, (B, K))


def unpatchify(patches_BLX: Tensor, grid: tuple[int, int], patch_size: int) -> Tensor:
    """Inverts `patchify`: (B, L, P*P*C), with Gh * Gw = L -> (B, C, H, W)."""
    B, L, X = patches_BLX.shape
    Gh, Gw = grid
    if Gh * Gw != L:
        raise UserError(f"{L} patches do not fill a {Gh}x{Gw} grid")
    C = X // (patch_size * patch_size)
    x = patches_BLX.reshape(B, Gh, Gw, patch_size, patch_size, C)
    return x.permute(0, 5, 1, 3, 2, 4).reshape(B, C, Gh * patch_size, Gw * patch_size)


def place_patches(pred: Tensor, ids_hidden_BN: Tensor, num_patches: int) -> Tensor:
    """Scatters predictions (B, ..., N, X) to their patches: (B, ..., L, X), 0 elsewhere."""
    *lead, _, X = pred.shape
    B, N = ids_hidden_BN.shape
    ids = ids_hidden_BN.view(B, *(1,) * (len(lead) - 1), N, 1).expand_as(pred)
    return pred.new_zeros(*lead, num_patches, X).scatter(-2, ids, pred)


def sincos_position_embedding(dim: int, grid: tuple[int, int], cls_token: bool = True) -> Tensor:
    """Computes the fixed 2-D sine-cosine position embedding (MAE, section 3 and its appendix).

    The first half of the width encodes the column, the second half the row; each consists of sines, then
    cosines, of frequencies 10000^(-i / (dim / 4)).

    Returns:
        (1, L, dim) float32, or (1, 1 + L, dim) with a zero row for the cls token in front.
    """
    if dim % 4:
        raise UserError(f"a 2-D sine-cosine embedding needs a width divisible by 4, not {dim}")
    Gh, Gw = grid
    omega = 10000.0 ** -(torch.arange(dim // 4, dtype=torch.float64) / (dim // 4))
    row_phase = torch.arange(Gh, dtype=torch.float64)[:, None] * omega
    column_phase = torch.arange(Gw, dtype=torch.float64)[:, None] * omega
    rows = torch.cat([row_phase.sin(), row_phase.cos()], dim=1)[:, None].expand(Gh, Gw, -1)
    columns = torch.cat([column_phase.sin(), column_phase.cos()], dim=1)[None].expand(Gh, Gw, -1)
    table = torch.cat([columns, rows], dim=2).reshape(1, Gh * Gw, dim)
    if cls_token:
        table = torch.cat([table.new_zeros(1, 1, dim), table], dim=1)
    return table.float()


class PatchEmbed(nn.Module):
    """Linear patch embedding, stored as the convolution found in every ViT checkpoint.

    Embedding gathered patches costs only the visible ones: with 75 % hidden, a quarter of the convolution.
    """

    def __init__(self, patch_size: int, in_chans: int, embed_dim: int) -> None:
        super().__init__()
        self.proj = nn.Conv2d(in_chans, embed_dim, kernel_size=patch_size, stride=patch_size)
        nn.init.xavier_uniform_(self.proj.weight.view(embed_dim, -1))

    def forward(self, patches_BVX: Tensor) -> Tensor:
        """Embeds patches cut by `patchify`: (B, V, P*P*C) -> (B, V, D)."""
        weight = self.proj.weight.permute(0, 2, 3, 1).flatten(1)
        return F.linear(patches_BVX, weight, self.proj.bias)


def window_of_patches(grid: tuple[int, int], window_size: int) -> Tensor:
    """The window of each patch, row by row, int64 (L,).

    Raises:
        UserError: windows do not divide the grid.
    """
    if window_size < 1 or any(side % window_size for side in grid):
        raise UserError(
            f"windows of {window_size} x {window_size} patches do not divide a grid of {grid[0]} x "
            f"{grid[1]}: set model.backbone.net.window_size to a divisor of {math.gcd(*grid)}, or another "
            "img_size"
        )
    rows, columns = (torch.arange(side) // window_size for side in grid)
    return (rows[:, None] * (grid[1] // window_size) + columns).flatten()
