"""Which patches are hidden: every policy, by one protocol."""

from .base import (
    MaskingPolicy,
    MaskPlan,
    MaskRequest,
    RandomMasking,
    mask_from_order,
    mask_to_pixels,
    sorted_by,
)

__all__ = [
    "MaskPlan",
    "MaskRequest",
    "MaskingPolicy",
    "RandomMasking",
    "mask_from_order",
    "mask_to_pixels",
    "sorted_by",
]
