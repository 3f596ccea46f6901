"""Who hides which patch.

A masking policy is a callable ``(seeds_B, num_patches) -> ids_shuffle_BL``: for each image a permutation of
its patches, of which the first V stay visible. One permutation serves both branches (R-MAE, section 3.2);
a branch with another mask ratio keeps a prefix of another length. One mask sense everywhere: True = hidden.

A policy that needs more than seeds, or gives more than one order, is an :class:`InformedMasking`: a module
from a :class:`MaskRequest` to a :class:`MaskPlan`. It may have parameters and add losses.

The permutation is a pure function of the seed, computed with integer arithmetic, so it is the same on every
device, in every batch and process: a resumed run hides the same patches of the same images.

Letters: B images, K regions, L patches, V visible patches, H W pixels, Gh Gw grid.
"""

from collections.abc import Callable
from dataclasses import dataclass, field

import torch
from torch import Tensor, nn

from ...errors import UserError

# Multipliers and shifts of splitmix64's finaliser (Steele, Lea and Flood, OOPSLA 2014), as signed int64.
_GOLDEN = -7046029254386353131
_MIX_1 = -4658895280553007687
_MIX_2 = -7723592293110705685


def _logical_shift_right(x: Tensor, bits: int) -> Tensor:
    """int64 tensors shift arithmetically; this clears the copies of the sign."""
    return (x >> bits) & ((1 << (64 - bits)) - 1)


def hash_noise(seeds_B: Tensor, num_patches: int) -> Tensor:
    """Pseudo-random int64 noise of shape (B, L), one stream of splitmix64 for each seed (int64)."""
    counter = torch.arange(1, num_patches + 1, device=seeds_B.device, dtype=torch.int64)
    x = _mix(seeds_B)[:, None] + counter * _GOLDEN
    return _mix(x)


def uniform_noise(seeds_B: Tensor, number: int) -> Tensor:
    """Pseudo-random float64 (B, number) in the open interval (0, 1), in the order of :func:`hash_noise`."""
    # 52 bits and a half: neither end can be reached by rounding.
    return ((hash_noise(seeds_B, number) >> 12).double() + (2**51 + 0.5)) * 2.0**-52


def _mix(x: Tensor) -> Tensor:
    x = (x ^ _logical_shift_right(x, 30)) * _MIX_1
    x = (x ^ _logical_shift_right(x, 27)) * _MIX_2
    return x ^ _logical_shift_right(x, 31)


def random_shuffle(seeds_B: Tensor, num_patches: int) -> Tensor:
    """Uniformly random patch order, MAE's masking (section 3 of MAE, 3.2 of R-MAE).

    Args:
        seeds_B: int64, one seed an image.
        num_patches: L.

    Returns:
        ids_shuffle_BL, int64; the first V entries of a row are the visible patches.
    """
    return hash_noise(seeds_B, num_patches).argsort(dim=1)


def sorted_by(key_BL: Tensor, ids_BL: Tensor) -> Tensor:
    """The patches ``ids_BL`` in ascending order of their keys, equal ones as they were."""
    return ids_BL.gather(1, key_BL.gather(1, ids_BL).argsort(dim=1, stable=True))


class RandomMasking:
    """Uniformly random masking as an object, the default of :class:`~rmae_d2.modeling.RMAE`."""

    def __call__(self, seeds_B: Tensor, num_patches: int) -> Tensor:
        """See :func:`random_shuffle`."""
        return random_shuffle(seeds_B, num_patches)


@dataclass(frozen=True)
class MaskRequest:
    """What a policy may look at.

    Args:
        seeds: int64 (B,), one an image; all chance comes from them.
        grid: (Gh, Gw).
        visible: V, patches that the pixel encoder will see.
        images: normalised, (B, C, H, W).
        regions: region maps, bool or float 0/1, (B, K, H, W); None where the batch has none.
        progress: the share of the training run that is done, in [0, 1].
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


@dataclass(frozen=True)
class MaskPlan:
    """What a policy decided.

    Args:
        ids_shuffle: int64 patch orders (B, L), the first V of a row are visible.
        region_ids_shuffle: those of the region branch, where they are others.
        losses: the policy's own, each (B,) and weighted; they join the model's under their names, which
            begin with ``loss_``.
        gates: float (B, L), factors of the visible tokens behind patch and position embedding, through
            which the model's losses reach the policy; None for none.
        probability: what a policy that has one draws from, (B, L) of sum 1; to look at.
        scalars: 0-d tensors to log.
    """

    ids_shuffle: Tensor
    region_ids_shuffle: Tensor | None = None
    losses: dict[str, Tensor] = field(default_factory=dict)
    gates: Tensor | None = None
    probability: Tensor | None = None
    scalars: dict[str, Tensor] = field(default_factory=dict)

    @property
    def region_order(self) -> Tensor:
        """The order of the region branch's patches, its own or the shared one."""
        own = self.region_ids_shuffle
        return self.ids_shuffle if own is None else own


class InformedMasking(nn.Module):
    """Base of the policies that see the batch: ``forward(request: MaskRequest) -> MaskPlan``."""

    # Whether region maps are read off the batch also for a model without a region branch.
    needs_regions = False


MaskingPolicy = InformedMasking | Callable[[Tensor, int], Tensor]


def plan_masks(policy: MaskingPolicy, request: MaskRequest) -> MaskPlan:
    """Asks a policy of either kind."""
    if isinstance(policy, InformedMasking):
        plan: MaskPlan = policy(request)
        return plan
    return MaskPlan(policy(request.seeds, request.num_patches))


def num_visible(num_patches: int, mask_ratio: float) -> int:
    """V, the number of visible patches: int(L * (1 - ratio)), as MAE has it.

    Raises:
        UserError: where no patch would be visible or none hidden.
    """
    visible = int(num_patches * (1 - mask_ratio))
    if not 0 < visible < num_patches:
        raise UserError(
            f"mask_ratio={mask_ratio} leaves {visible} of {num_patches} patches visible: "
            f"at least one must be visible and one hidden"
        )
    return visible


def mask_from_order(ids_shuffle_BL: Tensor, visible: int) -> Tensor:
    """The mask of a patch order: bool (B, L), True = hidden."""
    mask_BL = torch.ones_like(ids_shuffle_BL, dtype=torch.bool)
    # 0, not False: the tracer behind FLOP counts knows no scatter of a bool.
    return mask_BL.scatter(1, ids_shuffle_BL[:, :visible], 0)


def mask_to_pixels(mask_L: Tensor, size: tuple[int, int]) -> Tensor:
    """A patch mask at full size: bool (L,) -> bool (H, W), for L equal square patches filling (H, W)."""
    height, width = size
    side = round((height * width / len(mask_L)) ** 0.5)
    mask = mask_L.view(height // side, width // side)
    return mask.repeat_interleave(side, 0).repeat_interleave(side, 1)
