"""The two reconstruction losses, over hidden patches only (R-MAE, section 3; MAE, section 3).

Letters: B images, K regions, N hidden patches, X values per patch.
"""

import torch
import torch.nn.functional as F
from torch import Tensor

REGION_CRITERIA = ("bce", "l2")
_EPS = 1e-6


def patch_statistics(target_BNX: Tensor) -> tuple[Tensor, Tensor]:
    """Mean and standard deviation of each patch, (B, N, 1) each; unbiased variance, eps 1e-6."""
    mean = target_BNX.mean(dim=-1, keepdim=True)
    return mean, (target_BNX.var(dim=-1, keepdim=True) + _EPS).sqrt()


def pixel_loss(pred_BNX: Tensor, target_BNX: Tensor, normalize: bool = True) -> Tensor:
    """Mean squared error of each image, (B,) float32.

    Args:
        target_BNX: the image's own hidden patches, normalised with the dataset's mean and deviation.
        normalize: compare with the target normalised patch by patch (MAE's ``norm_pix_loss``).
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
) -> Tensor:
    """The error of predicted region maps, of each image, (B,) float32; 0 where no patch is hidden.

    The mean over a patch's pixels, over regions, then over hidden patches. Background pixels are
    multiplied by ``background_weight``; the sum is not renormalised.

    Args:
        target_BKNX: the region maps' own, 0 or 1.
        criterion: one of `REGION_CRITERIA`: ``bce``, binary cross-entropy, the paper's; ``l2``, the
            squared error of the probability. Of its l2 the paper's summaries say no more than that it is
            worse; the error is taken after the sigmoid, so that predictions are logits in both.
    """
    logits, target = logits_BKNX.float(), target_BKNX.float()
    if criterion == "bce":
        loss = F.binary_cross_entropy_with_logits(logits, target, reduction="none")
    else:
        loss = (logits.sigmoid() - target).square()
    if background_weight != 1.0:
        loss = loss * torch.where(target > 0.5, 1.0, background_weight)
    # A sum over nothing, so that every parameter has a gradient, of 0.
    return loss.mean(dim=(1, 2, 3)) if loss.shape[2] else loss.sum(dim=(1, 2, 3))
