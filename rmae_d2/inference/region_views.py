"""Fits an image to a pixel encoder of fixed size, and completes region maps from its visible patches.

Letters: H W pixels of the image, P patch side, Gh Gw grid over the whole image, K prompts, L patches of a
view, V visible ones, D width, N views, X values per patch.
"""

import copy
import math
from collections import defaultdict
from dataclasses import dataclass
from typing import TypeVar

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from ..checkpoint.positions import resample_table
from ..data.images import CropResizeTransform
from ..modeling import RMAE, MaskedViT, RegionBranch, patchify, random_shuffle, unpatchify
from ..modeling.region_variants import SpatialRegionBranch
from ..regions.segment_walk import SegmentGraph

RESOLUTIONS = ("resize", "interpolate", "window")
Grid = tuple[int, int]
_Network = TypeVar("_Network", bound=nn.Module)


@dataclass(frozen=True)
class View:
    """An encoded part of the grid that the model sees at once."""

    top: int  # first row and column of its patches
    left: int
    grid: Grid  # its own (rows, columns) of patches
    tokens: Tensor  # (1 + V, D), of the cls token and its visible patches
    ids_visible: Tensor  # int64 (V,), their positions in the view's raster order

    def of(self, grid_of_values: Tensor) -> Tensor:
        return _part(grid_of_values, self.top, self.left, self.grid)


@dataclass(frozen=True)
class ImageEmbedding:
    """An encoded image with everything needed to predict regions."""

    image_size: tuple[int, int]  # (H, W) of the photo
    grid: Grid  # (Gh, Gw), patches over the whole photo
    hidden: NDArray[np.bool_]  # (Gh, Gw), patches hidden from the pixel encoder
    views: tuple[View, ...]  # one, or overlapping windows that cover the grid
    branch: RegionBranch | SpatialRegionBranch  # for the views' grid, with the model's weights
    segments: SegmentGraph | None = None  # draw the masks' edges; None: the model does


def embed_views(
    model: RMAE,
    image_HWC: NDArray[np.uint8],
    resolution: str,
    mask_ratio: float,
    seed: int,
    max_patches: int,
) -> ImageEmbedding:
    """Encodes an image's pixels; see `RegionPromptPredictor` for the arguments."""
    net, branch = model.backbone.net, model.region_branch
    assert branch is not None
    grid = view_grid = net.grid
    size = (image_HWC.shape[0], image_HWC.shape[1])
    if resolution == "interpolate":
        grid = view_grid = near_grid(size, net.patch_size, net.num_patches, max_patches)
        net, branch = at_grid(net, net.grid, grid), at_grid(branch, net.grid, grid)
    elif resolution == "window":
        grid = window_grid(size, net.patch_size, net.grid, max_patches)
    L = grid[0] * grid[1]
    order = random_shuffle(torch.tensor([seed]), L)[0]
    hidden = torch.ones(L, dtype=torch.bool)
    hidden[order[: max(int(L * (1 - mask_ratio)), 1)]] = False
    hidden = hidden.view(grid)
    P, (height, width) = net.patch_size, size
    resize = CropResizeTransform(0, 0, width, height, grid[0] * P, grid[1] * P, width, height)
    image_CHW = torch.from_numpy(resize.apply_image(image_HWC).transpose(2, 0, 1).copy())
    images = model.normalize(image_CHW[None].to(model.device))
    patches = patchify(images, P)[0].unflatten(0, grid)  # (Gh, Gw, P*P*C)
    views = tuple(
        _encode(net, patches, hidden, top, left)
        for top in window_starts(grid[0], view_grid[0])
        for left in window_starts(grid[1], view_grid[1])
    )
    return ImageEmbedding(size, grid, hidden.numpy(), views, branch)


def near_grid(size: tuple[int, int], patch_size: int, least: int, most: int) -> Grid:
    """Chooses a grid of the image's shape with its own number of patches, kept between two bounds.

    ``most`` is never exceeded; a very elongated image may have fewer than ``least`` patches, because a side
    is at least one patch.
    """
    rows, columns = size[0] / patch_size, size[1] / patch_size
    scale = math.sqrt(min(max(rows * columns, least), most) / (rows * columns))
    return _bounded(max(round(rows * scale), 1), max(round(columns * scale), 1), (1, 1), most)


def window_grid(size: tuple[int, int], patch_size: int, window: Grid, most: int) -> Grid:
    """Like `near_grid`, with sides that fit a window; a shorter image side is stretched."""
    most = max(most, window[0] * window[1])
    rows, columns = near_grid(size, patch_size, window[0] * window[1], most)
    return _bounded(max(rows, window[0]), max(columns, window[1]), window, most)


def window_starts(length: int, window: int) -> list[int]:
    """Start positions of windows along a side, the first flush with its start and the last with its end.

    Neighbours overlap by half a window or more, so that everything except the image's rim is well
    inside one of them.
    """
    steps = math.ceil((length - window) / max(window // 2, 1))
    return [round(i * (length - window) / steps) for i in range(steps + 1)] if steps else [0]


def blend_weights(grid: Grid, patch_size: int) -> Tensor:
    """Pixel weights of a view for blending overlaps: a pyramid, highest in the middle, nowhere 0."""
    sides = []
    for length in (grid[0] * patch_size, grid[1] * patch_size):
        ramp = torch.arange(length, dtype=torch.float32) + 0.5
        sides.append(torch.minimum(ramp, length - ramp))
    return sides[0][:, None] * sides[1]


def _bounded(rows: int, columns: int, least: Grid, most: int) -> Grid:
    """Shortens the longer side as needed to have at most ``most`` patches."""
    if rows * columns > most:
        if rows > columns:
            rows = max(most // columns, least[0])
        else:
            columns = max(most // rows, least[1])
    return rows, columns


def _part(grid_of_values: Tensor, top: int, left: int, grid: Grid) -> Tensor:
    """Cuts out a view: (..., Gh, Gw, X) -> (..., L, X), its patches in raster order."""
    rows, columns = grid
    return grid_of_values[..., top : top + rows, left : left + columns, :].flatten(-3, -2)


def _encode(net: MaskedViT, patches: Tensor, hidden: Tensor, top: int, left: int) -> View:
    mask = _part(hidden[..., None], top, left, net.grid)[:, 0]
    ids_visible = (~mask).nonzero()[:, 0].to(patches.device)
    patches_LX = _part(patches, top, left, net.grid)
    return View(top, left, net.grid, net(patches_LX[None], ids_visible[None])[0], ids_visible)


def at_grid(network: _Network, old: Grid, new: Grid) -> _Network:
    """Copies a network for another grid: weights shared, position embeddings resampled (bicubic).

    The sine-cosine tables are resampled rather than recomputed, so that positions stay within the
    range on which the network was trained.
    """
    shared = {id(tensor): tensor for tensor in (*network.parameters(), *network.buffers())}
    twin = copy.deepcopy(network, shared)
    for module in twin.modules():
        if hasattr(module, "grid"):
            module.grid = new  # type: ignore[assignment]
        table = module._parameters.get("pos_embed")
        if table is not None:
            prefix = table.shape[1] - old[0] * old[1]
            resampled = resample_table(table, (old, prefix), (new, prefix))
            module.pos_embed = nn.Parameter(resampled, requires_grad=False)
    return twin


_MOST_AT_ONCE = 32  # prompts per forward pass


def complete_regions(
    image: ImageEmbedding, patch_size: int, visible: Tensor, region: Tensor
) -> Tensor:
    """Completes K regions: visible patches as given, the rest as predicted by the region branch.

    Every prompt is a batch entry of its own with one region, in a pass with prompts of equally many visible
    patches: nothing is padded, and no prompt attends to another. With several views, those that see
    foreground of the region are used; without any visible patch, none is.

    Args:
        visible: bool (K, Gh, Gw).
        region: float 0 or 1, (K, Gh*P, Gw*P).

    Returns:
        Probabilities (K, Gh*P, Gw*P); 0 where no view is used.
    """
    P = patch_size
    patches = patchify(region[:, None], P).unflatten(1, image.grid)
    found = visible & patches.any(dim=-1) if len(image.views) > 1 else visible
    total, weight = torch.zeros_like(region), torch.zeros_like(region)
    for view in image.views:
        seeing = view.of(found[..., None]).any(dim=(1, 2)).nonzero()[:, 0]
        if not len(seeing):
            continue
        shown = view.of(visible[..., None])[seeing, :, 0]
        logits = _logits(image, view, shown, view.of(patches)[seeing])
        own = unpatchify(logits.sigmoid(), view.grid, P)[:, 0]
        blend = blend_weights(view.grid, P).to(own)
        rows = slice(view.top * P, (view.top + view.grid[0]) * P)
        columns = slice(view.left * P, (view.left + view.grid[1]) * P)
        total[seeing, rows, columns] += own * blend
        weight[seeing, rows, columns] += blend
    known = visible.repeat_interleave(P, 1).repeat_interleave(P, 2)
    # The weight is at least 1/4 wherever a view is used.
    return torch.where(known, region, total / weight.clamp(min=0.1))


def _logits(image: ImageEmbedding, view: View, visible_KL: Tensor, patches_KLX: Tensor) -> Tensor:
    """Computes logits of a view's hidden patches, (K, L, X); 0 in the visible ones."""
    logits = torch.zeros_like(patches_KLX)
    groups: dict[int, list[int]] = defaultdict(list)
    for k, count in enumerate(visible_KL.sum(dim=1).tolist()):
        groups[count].append(k)
    groups.pop(visible_KL.shape[1], None)  # nothing is hidden
    for count, members in groups.items():
        for start in range(0, len(members), _MOST_AT_ONCE):
            chosen = torch.tensor(members[start : start + _MOST_AT_ONCE], device=logits.device)
            order = visible_KL[chosen].int().argsort(dim=1, descending=True, stable=True)
            predicted, _ = image.branch(
                view.tokens.expand(len(chosen), -1, -1),
                view.ids_visible.expand(len(chosen), -1),
                patches_KLX[chosen][:, None],
                order[:, :count],
                order[:, count:],
            )
            logits[chosen[:, None], order[:, count:]] = predicted[:, 0].float()
    return logits


def mask_confidence(probabilities: Tensor, masks: Tensor) -> Tensor:
    """Computes expected intersection over expected union, (K,), of masks (K, H, W) under the probabilities.

    A mask's area plus the probability mass outside it is the expected area of its union with a region whose
    pixels are drawn independently. 0 for an empty mask.
    """
    inside = (probabilities * masks).sum(dim=(1, 2))
    union = masks.sum(dim=(1, 2)) + (probabilities * ~masks).sum(dim=(1, 2))
    return inside / union.clamp(min=1e-6)
