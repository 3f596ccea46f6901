"""Region maps completed from some visible patches and an encoded image.

Letters: H W pixels of the image, P patch side, Gh Gw grid over the whole image, K prompts, L patches of a
view, X values a patch.
"""

from collections import defaultdict

import torch
from torch import Tensor

from ..modeling import patchify, unpatchify
from .region_views import ImageEmbedding, View, blend_weights

_MOST_AT_ONCE = 32  # prompts in one pass


def complete_regions(
    image: ImageEmbedding, patch_size: int, visible: Tensor, region: Tensor
) -> Tensor:
    """What is visible of K regions as given, the rest as the region branch predicts it.

    Every prompt is a batch entry of its own with one region, in a pass with those of as many visible
    patches: nothing is padded, and no prompt attends to another. Of several views those take part that
    see foreground of the region; without any visible patch, none does.

    Args:
        image: encoded.
        patch_size: P.
        visible: bool (K, Gh, Gw).
        region: float 0 or 1, (K, Gh*P, Gw*P).

    Returns:
        probabilities (K, Gh*P, Gw*P); 0 where no view takes part.
    """
    P = patch_size
    patches = patchify(region[:, None], P).unflatten(1, image.grid)
    found = visible & patches.any(dim=-1) if len(image.views) > 1 else visible
    total, weight = torch.zeros_like(region), torch.zeros_like(region)
    for view in image.views:
        seeing = view.of(found[..., None]).any(dim=(1, 2)).nonzero()[:, 0]
        if not len(seeing):
            continue
        shown = view.of(visible[..., None])[seeing, :, 0]
        logits = _logits(image, view, shown, view.of(patches)[seeing])
        own = unpatchify(logits.sigmoid(), view.grid, P)[:, 0]
        blend = blend_weights(view.grid, P).to(own)
        rows = slice(view.top * P, (view.top + view.grid[0]) * P)
        columns = slice(view.left * P, (view.left + view.grid[1]) * P)
        total[seeing, rows, columns] += own * blend
        weight[seeing, rows, columns] += blend
    known = visible.repeat_interleave(P, 1).repeat_interleave(P, 2)
    # A weight is 1/4 or more wherever a view takes part.
    return torch.where(known, region, total / weight.clamp(min=0.1))


def _logits(image: ImageEmbedding, view: View, visible_KL: Tensor, patches_KLX: Tensor) -> Tensor:
    """Logits of the hidden patches of a view, (K, L, X); 0 in the visible ones."""
    logits = torch.zeros_like(patches_KLX)
    groups: dict[int, list[int]] = defaultdict(list)
    for k, count in enumerate(visible_KL.sum(dim=1).tolist()):
        groups[count].append(k)
    groups.pop(visible_KL.shape[1], None)  # nothing is hidden
    for count, members in groups.items():
        for start in range(0, len(members), _MOST_AT_ONCE):
            chosen = torch.tensor(members[start : start + _MOST_AT_ONCE], device=logits.device)
            order = visible_KL[chosen].int().argsort(dim=1, descending=True, stable=True)
            predicted, _ = image.branch(
                view.tokens.expand(len(chosen), -1, -1),
                view.ids_visible.expand(len(chosen), -1),
                patches_KLX[chosen][:, None],
                order[:, :count],
                order[:, count:],
            )
            logits[chosen[:, None], order[:, count:]] = predicted[:, 0].float()
    return logits


def mask_confidence(probabilities: Tensor, masks: Tensor) -> Tensor:
    """Expected intersection over expected union, (K,), of masks (K, H, W) under the probabilities.

    A mask's size plus what is probable outside it is the expected size of its union with a region whose
    pixels are drawn independently. 0 for an empty mask.
    """
    inside = (probabilities * masks).sum(dim=(1, 2))
    union = masks.sum(dim=(1, 2)) + (probabilities * ~masks).sum(dim=(1, 2))
    return inside / union.clamp(min=1e-6)
