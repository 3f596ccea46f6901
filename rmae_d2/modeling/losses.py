"""The two reconstruction losses, over hidden patches only (R-MAE, section 3; MAE, section 3).

Letters: B images, K regions, N hidden patches, X values per patch.
"""

import torch
import torch.nn.functional as F
from torch import Tensor

REGION_CRITERIA = ("bce", "l2")
_EPS = 1e-6


def patch_statistics(target_BNX: Tensor) -> tuple[Tensor, Tensor]:
    """Computes mean and standard deviation per patch, (B, N, 1) each; unbiased variance, eps 1e-6."""
    mean = target_BNX.mean(dim=-1, keepdim=True)
    return mean, (target_BNX.var(dim=-1, keepdim=True) + _EPS).sqrt()


def pixel_loss(pred_BNX: Tensor, target_BNX: Tensor, normalize: bool = True) -> Tensor:
    """Computes the mean squared error per image, (B,) float32.

    Args:
        target_BNX: the image's hidden patches, normalised with the dataset's mean and deviation.
        normalize: normalise the target per patch before comparing (MAE's ``norm_pix_loss``).
    """
    target = target_BNX.float()
    if normalize:
        mean, std = patch_statistics(target)
        target = (target - mean) / std
    return (pred_BNX.float() - target).square().mean(dim=(1, 2))


def region_loss(
    logits_BKNX: Tensor,
    target_BKNX: Tensor,
    background_weight: float = 1.0,
    criterion: str = "bce",
    region_weights_BK: Tensor | None = None,
) -> Tensor:
    """Computes the error of predicted region maps per image, (B,) float32; 0 if no patch is hidden.

    Averages over a patch's pixels, over regions, then over hidden patches. Background pixels are
    multiplied by ``background_weight``; the sum is not renormalised.

    Args:
        target_BKNX: the ground-truth region maps, 0 or 1.
        criterion: one of `REGION_CRITERIA`: ``bce``, binary cross-entropy, the paper's; ``l2``, the
            squared error of the probability. The paper's summaries say only that its l2 is worse; here the
            error is taken after the sigmoid, so that predictions are logits for both criteria.
        region_weights_BK: factors of the regions' losses; None for 1 each.
    """
    logits, target = logits_BKNX.float(), target_BKNX.float()
    if criterion == "bce":
        loss = F.binary_cross_entropy_with_logits(logits, target, reduction="none")
    else:
        loss = (logits.sigmoid() - target).square()
    if background_weight != 1.0:
        loss = loss * torch.where(target > 0.5, 1.0, background_weight)
    if region_weights_BK is not None:
        loss = loss * region_weights_BK[:, :, None, None]
    # If empty, a sum over nothing, so that every parameter gets a gradient of 0.
    return loss.mean(dim=(1, 2, 3)) if loss.shape[2] else loss.sum(dim=(1, 2, 3))
