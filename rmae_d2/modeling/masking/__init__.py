"""Which patches are hidden: every policy, by one protocol."""

from .base import (
    InformedMasking,
    MaskingPolicy,
    MaskPlan,
    MaskRequest,
    RandomMasking,
    hash_noise,
    mask_from_order,
    mask_to_pixels,
    num_visible,
    plan_masks,
    random_shuffle,
    sorted_by,
    uniform_noise,
)

__all__ = [
    "InformedMasking",
    "MaskPlan",
    "MaskRequest",
    "MaskingPolicy",
    "RandomMasking",
    "hash_noise",
    "mask_from_order",
    "mask_to_pixels",
    "num_visible",
    "plan_masks",
    "random_shuffle",
    "sorted_by",
    "uniform_noise",
]
