"""Position embeddings of unrecorded grids: infer the grid, and resample to another.

A table is (1, [1 +] Gh * Gw, D): a row for the cls token, if there is one, then the patches in raster
order.
"""

from collections.abc import Sequence

import torch
from timm.layers import resample_abs_pos_embed
from torch import Tensor

from ..errors import CheckpointError
from ..modeling.patches import sincos_position_embedding

Grid = tuple[int, int]


def grid_of_table(table: Tensor, cls_rows: Sequence[int] = (1, 0)) -> tuple[Grid, int]:
    """Infer the grid and number of cls rows of a position embedding.

    A sine-cosine table determines its own grid (3x5 patches and a cls token are 16 rows, but not 4x4); a
    learned one is assumed to be square.

    Args:
        table: (1, rows, D).
        cls_rows: possible numbers of cls rows, the likelier first.
    """
    known = sincos_grid(table, cls_rows) or square_grid(table, cls_rows)
    if known is None:
        raise CheckpointError(
            f"a position embedding of {table.shape[1]} rows in the file: neither a square grid nor a "
            "sine-cosine table, so its height and width are unknown"
        )
    return known


def square_grid(table: Tensor, cls_rows: Sequence[int] = (1, 0)) -> tuple[Grid, int] | None:
    """Grid and cls rows of a table for square images, or None."""
    for prefix in cls_rows:
        length = table.shape[1] - prefix
        side = round(max(length, 0) ** 0.5)
        if side and side * side == length:
            return (side, side), prefix
    return None


def sincos_grid(table: Tensor, cls_rows: Sequence[int] = (1, 0)) -> tuple[Grid, int] | None:
    """Grid and cls rows of a fixed sine-cosine table, or None if it is not one."""
    if table.dim() != 3:  # Hiera's is a map, for any grid
        return None
    _, rows, dim = table.shape
    if dim % 4:
        return None
    for prefix in cls_rows:
        patches = table[:, prefix:].float()
        length = rows - prefix
        for height in range(1, length + 1):
            if length % height == 0:
                grid = (height, length // height)
                expected = sincos_position_embedding(dim, grid, cls_token=False).to(patches.device)
                # Half-precision files are off by up to 2e-3, other grids by 0.1 and more.
                if torch.allclose(patches, expected, rtol=0, atol=5e-3):
                    return grid, prefix
    return None


def resample_table(
    table: Tensor, old: tuple[Grid, int], new: tuple[Grid, int], antialias: bool = True
) -> Tensor:
    """Resample a table bicubically from one grid and number of cls rows to others; a new cls row is zeros.

    If the grids are equal, the rows are unchanged bit for bit. ``antialias`` is that of torch's
    ``interpolate``, which uses a different cubic without it.
    """
    (old_grid, old_prefix), (new_grid, new_prefix) = old, new
    out = table[:, old_prefix:]
    if old_grid != new_grid:
        out = resample_abs_pos_embed(
            out,
            new_size=list(new_grid),
            old_size=list(old_grid),
            num_prefix_tokens=0,
            antialias=antialias,
        )
    if new_prefix:
        cls_row = table[:, :1] if old_prefix else torch.zeros_like(table[:, :1])
        out = torch.cat([cls_row, out], dim=1)
    return out
