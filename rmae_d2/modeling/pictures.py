"""What a person looks at: the visible patches as given, the hidden ones as predicted.

Letters: B images, K regions, C channels, L patches, P patch side, H W pixels, X values a patch.
"""

import torch
from torch import Tensor

from .losses import patch_statistics
from .patches import patchify, unpatchify
from .region_branch import patchify_regions


def completed_images(
    images_BCHW: Tensor,
    pred_BLX: Tensor,
    mask_BL: Tensor,
    grid: tuple[int, int],
    patch_size: int,
    norm_pix_loss: bool,
) -> Tensor:
    """Normalised images, hidden patches replaced by the predicted: (B, C, H, W) float32.

    Args:
        images_BCHW: normalised, as the model takes them.
        pred_BLX: predicted patches; of a model with ``norm_pix_loss`` normalised patch by patch.
        mask_BL: True = hidden.
    """
    patches_BLX = patchify(images_BCHW, patch_size)
    pred_BLX = pred_BLX.float()
    if norm_pix_loss:
        # Patch statistics are not predicted: they are taken from the image, for display only.
        mean, std = patch_statistics(patches_BLX)
        pred_BLX = pred_BLX * std + mean
    merged = torch.where(mask_BL[:, :, None], pred_BLX, patches_BLX)
    return unpatchify(merged, grid, patch_size)


def completed_regions(
    regions_BKHW: Tensor,
    logits_BKLX: Tensor,
    mask_BL: Tensor,
    grid: tuple[int, int],
    patch_size: int,
) -> Tensor:
    """Region probabilities, the visible patches 0 or 1: (B, K, H, W) float32."""
    patches_BKLX = patchify_regions(regions_BKHW, patch_size).float()
    hidden = mask_BL[:, None, :, None]
    merged = torch.where(hidden, logits_BKLX.float().sigmoid(), patches_BKLX)
    B, K = merged.shape[:2]
    return unpatchify(merged.flatten(0, 1), grid, patch_size)[:, 0].unflatten(0, (B, K))
