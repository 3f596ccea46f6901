"""Masking protocol: a policy is a module that maps a `MaskRequest` to a `MaskPlan`.

A plan holds one permutation of the patches per image, of which the first V stay visible. One permutation
serves both branches (R-MAE, section 3.2); a branch with a different mask ratio keeps a prefix of a different
length. Masks: True = hidden. All randomness comes from the request's seeds, see `rmae_d2.noise`.

Letters: B images, K regions, L patches, V visible patches, H W pixels, Gh Gw grid.
"""

from collections.abc import Callable, Mapping
from typing import NamedTuple

import torch
from torch import Tensor, nn

from ...noise import random_shuffle


class MaskRequest(NamedTuple):
    """Input of a masking policy.

    Args:
        seeds: int64 (B,), one per image.
        grid: (Gh, Gw).
        visible: V, number of patches that the pixel encoder will see.
        images: normalised, (B, C, H, W).
        regions: region maps, bool or float 0/1, (B, K, H, W); None if the batch has none.
        progress: completed fraction of the training run, in [0, 1].
    """

    seeds: Tensor
    grid: tuple[int, int]
    visible: int
    images: Tensor
    regions: Tensor | None = None
    progress: float = 0.0

    @property
    def num_patches(self) -> int:
        """L."""
        return self.grid[0] * self.grid[1]


class MaskPlan(NamedTuple):
    """Decision of a masking policy.

    Args:
        ids_shuffle: int64 patch orders (B, L); the first V of each row are visible.
        region_ids_shuffle: patch orders of the region branch, if different.
        losses: the policy's own losses, each (B,) and already weighted, with names starting with ``loss_``.
        gates: float (B, L), factors applied to the visible tokens after patch and position embedding, through
            which the model's losses reach the policy; None for none.
        probability: distribution the policy draws from, if it has one, (B, L), sums to 1; for display.
        scalars: 0-d tensors to log.
    """

    ids_shuffle: Tensor
    region_ids_shuffle: Tensor | None = None
    losses: Mapping[str, Tensor] = {}
    gates: Tensor | None = None
    probability: Tensor | None = None
    scalars: Mapping[str, Tensor] = {}

    @property
    def region_order(self) -> Tensor:
        """Patch order of the region branch, its own or the shared one."""
        own = self.region_ids_shuffle
        return self.ids_shuffle if own is None else own


class MaskingPolicy(nn.Module):
    """Base class of all policies: ``forward(request: MaskRequest) -> MaskPlan``. It may have parameters.

    Attributes:
        needs_regions: whether to read region maps from the batch even for a model without a region branch.
        order_by_seed: maps seeds and L to the order of region patches (B, L), for policies whose order
            depends on these alone, so that a loader can predict it.
    """

    needs_regions: bool = False
    order_by_seed: Callable[[Tensor, int], Tensor] | None = None


class RandomMasking(MaskingPolicy):
    """Uniformly random masking, the default of `RMAE`."""

    order_by_seed = staticmethod(random_shuffle)

    def forward(self, request: MaskRequest) -> MaskPlan:
        return MaskPlan(random_shuffle(request.seeds, request.num_patches))


def sorted_by(key_BL: Tensor, ids_BL: Tensor) -> Tensor:
    """Sorts the patches ``ids_BL`` by ascending key, keeping the order of equal ones."""
    return ids_BL.gather(1, key_BL.gather(1, ids_BL).argsort(dim=1, stable=True))


def mask_from_order(ids_shuffle_BL: Tensor, visible: int) -> Tensor:
    """Converts a patch order to a mask: bool (B, L), True = hidden."""
    mask_BL = torch.ones_like(ids_shuffle_BL, dtype=torch.bool)
    return mask_BL.scatter(1, ids_shuffle_BL[:, :visible], False)


def mask_to_pixels(mask_L: Tensor, size: tuple[int, int]) -> Tensor:
    """Enlarges a patch mask: bool (L,) -> bool (H, W), for L equal square patches filling (H, W)."""
    height, width = size
    side = round((height * width / len(mask_L)) ** 0.5)
    mask = mask_L.view(height // side, width // side)
    return mask.repeat_interleave(side, 0).repeat_interleave(side, 1)
