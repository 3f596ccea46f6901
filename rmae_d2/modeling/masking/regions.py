"""Masking policies for regions: hiding whole regions, and a separate order for region patches.

Letters: B images, K regions, L patches, V visible patches, H W pixels.
"""

import torch
from torch import Tensor

from ...errors import UserError
from ...noise import hash_noise, region_shuffle
from ..patches import patchify_regions
from .base import MaskingPolicy, MaskPlan, MaskRequest, RandomMasking, sorted_by


class IndependentMasking(MaskingPolicy):
    """Hides different patches in the two branches, region patches at random; see R-MAE, section 3.2.

    Args:
        pixels: policy for the pixel patches; None for uniformly random.
    """

    order_by_seed = staticmethod(region_shuffle)

    def __init__(self, pixels: MaskingPolicy | None = None) -> None:
        super().__init__()
        self.pixels = pixels or RandomMasking()

    @property
    def needs_regions(self) -> bool:  # type: ignore[override]
        return self.pixels.needs_regions

    def forward(self, request: MaskRequest) -> MaskPlan:
        plan: MaskPlan = self.pixels(request)
        own = region_shuffle(request.seeds, request.num_patches)
        return plan._replace(region_ids_shuffle=own)


class RegionGuidedMasking(MaskingPolicy):
    """Hides whole regions, one after another in random order, until enough patches are hidden.

    Not in the paper; the counterpart of AutoMAE's prior that objects should be hidden. A region covers every
    patch that it touches. The last region in turn is hidden partially, at random; if all
    regions do not suffice, patches outside them are hidden too.

    With one order for both branches, a hidden region's query knows nothing about it: use a lower mask ratio
    for the region branch, a lower ``share``, or wrap this in `IndependentMasking`.

    Args:
        share: fraction of the hidden patches that is hidden region by region, in [0, 1]; the rest are
            uniformly random. 0 is `RandomMasking`.
    """

    needs_regions = True

    def __init__(self, share: float = 1.0) -> None:
        super().__init__()
        if not 0 <= share <= 1:
            raise UserError(f"share={share} of RegionGuidedMasking must be from 0 to 1")
        self.share = share

    def forward(self, request: MaskRequest) -> MaskPlan:
        regions = needed_regions(
            request,
            "RegionGuidedMasking",
            "a region source (dataloader.train.mapper.regions) or set model.masking=null",
        )
        L, K = request.num_patches, regions.shape[1]
        noise = hash_noise(request.seeds, L + K)
        random_BL = noise[:, :L].argsort(dim=1)
        turn_BL = _turns(regions, request.grid, noise[:, L:].argsort(dim=1))
        by_turn_BL = sorted_by(-turn_BL, random_BL)
        guided = round(self.share * (L - request.visible))
        hidden_BG = by_turn_BL[:, L - guided :]
        taken_BL = torch.zeros_like(random_BL).scatter(1, hidden_BG, 1)
        others_BL = sorted_by(taken_BL, random_BL)
        return MaskPlan(torch.cat([others_BL[:, : L - guided], hidden_BG], dim=1))


def needed_regions(request: MaskRequest, who: str, source: str) -> Tensor:
    """Returns the batch's region maps; if it has none, raises an error naming what the mapper needs."""
    if request.regions is None:
        raise UserError(f"{who} was given no regions: give the mapper {source}")
    return request.regions


def _turns(regions_BKHW: Tensor, grid: tuple[int, int], order_BK: Tensor) -> Tensor:
    """Turn at which each patch is hidden, int64 (B, L): that of its first region, K if it is in none."""
    patch_size = regions_BKHW.shape[2] // grid[0]
    touched_BKL = (patchify_regions(regions_BKHW, patch_size) > 0).any(dim=3)
    turn_BK1 = order_BK.argsort(dim=1)[:, :, None]
    return torch.where(touched_BKL, turn_BK1, order_BK.shape[1]).amin(dim=1)
