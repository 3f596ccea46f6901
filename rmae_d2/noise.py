"""Randomness as a pure function of seeds: masks can be derived wherever the seed is known.

Uses integer arithmetic only, so a seed gives the same result on every device, in every batch and process: a
resumed run hides the same patches of the same images, and the loader knows what the model will show.

Letters: B images, L patches, V visible patches.
"""

import torch
from torch import Tensor

from .errors import UserError

# Multipliers of splitmix64's finaliser (Steele, Lea and Flood, OOPSLA 2014), as signed int64.
_GOLDEN = -7046029254386353131
_MIX_1 = -4658895280553007687
_MIX_2 = -7723592293110705685

# "regions" in ASCII: switches an image's seed to another noise stream.
_REGION_STREAM = 0x726567696F6E73


def hash_noise(seeds_B: Tensor, number: int) -> Tensor:
    """Generates pseudo-random int64 noise of shape (B, number), one splitmix64 stream per seed (int64)."""
    counter = torch.arange(1, number + 1, device=seeds_B.device, dtype=torch.int64)
    return _mix(_mix(seeds_B)[:, None] + counter * _GOLDEN)


def _mix(x: Tensor) -> Tensor:
    # int64 tensors shift arithmetically; the masks clear the sign-extended bits.
    x = (x ^ ((x >> 30) & (2**34 - 1))) * _MIX_1
    x = (x ^ ((x >> 27) & (2**37 - 1))) * _MIX_2
    return x ^ ((x >> 31) & (2**33 - 1))


def uniform_noise(seeds_B: Tensor, number: int) -> Tensor:
    """Generates float64 (B, number) noise in the open interval (0, 1), in the order of `hash_noise`."""
    # 52 bits plus one half: rounding can reach neither end.
    return ((hash_noise(seeds_B, number) >> 12).double() + (2**51 + 0.5)) * 2.0**-52


def random_shuffle(seeds_B: Tensor, num_patches: int) -> Tensor:
    """Draws a uniformly random patch order, MAE's masking (section 3 of MAE, 3.2 of R-MAE).

    Args:
        seeds_B: int64, one seed per image.
        num_patches: L.

    Returns:
        ids_shuffle_BL, int64; the first V entries of each row are the visible patches.
    """
    return hash_noise(seeds_B, num_patches).argsort(dim=1)


def region_shuffle(seeds_B: Tensor, num_patches: int) -> Tensor:
    """Like `random_shuffle`, but with a separate order for region patches."""
    return random_shuffle(seeds_B ^ _REGION_STREAM, num_patches)


def num_visible(num_patches: int, mask_ratio: float, ends: bool = False) -> int:
    """Computes V, the number of visible patches: int(L * (1 - ratio)), as in MAE.

    Args:
        ends: also accept the ratios 0 and 1, as for regions.

    Raises:
        UserError: if no patch would be visible or none hidden.
    """
    if ends and mask_ratio in (0, 1):
        return num_patches * (1 - int(mask_ratio))
    visible = int(num_patches * (1 - mask_ratio))
    if not 0 < visible < num_patches:
        raise UserError(
            f"mask_ratio={mask_ratio} leaves {visible} of {num_patches} patches visible: "
            f"at least one must be visible and one hidden"
        )
    return visible
