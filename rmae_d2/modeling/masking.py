"""Who hides which patch.

A masking policy is a callable ``(seeds_B, num_patches) -> ids_shuffle_BL``: for each image a permutation of
its patches, of which the first V stay visible. One permutation serves both branches (R-MAE, section 3.2);
a branch with another mask ratio keeps a prefix of another length. One mask sense everywhere: True = hidden.

The permutation is a pure function of the seed, computed with integer arithmetic, so it is the same on every
device, in every batch and process: a resumed run hides the same patches of the same images.
"""

import torch
from torch import Tensor

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


class RandomMasking:
    """Uniformly random masking as an object, the default of :class:`~rmae_d2.modeling.RMAE`."""

    def __call__(self, seeds_B: Tensor, num_patches: int) -> Tensor:
        """See :func:`random_shuffle`."""
        return random_shuffle(seeds_B, num_patches)


def num_visible(num_patches: int, mask_ratio: float) -> int:
    """V, the number of visible patches: int(L * (1 - ratio)), as MAE has it.

    Raises:
        ValueError: where no patch would be visible or none hidden.
    """
    visible = int(num_patches * (1 - mask_ratio))
    if not 0 < visible < num_patches:
        raise ValueError(
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
