"""Reconstructions as one picture: what the model was given, and what it made of it.

A row a sample: image, mask probability (of a masking policy that learned one), masked image, pixel
reconstruction; then for a few regions: region, masked region, predicted region.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ..modeling import mask_to_pixels
from ..regions import unpack_bits
from .sheets import SheetRow, contact_sheet

_GRAY = 128  # of hidden patches
_MIN_WIDTH = 112  # of a tile, for its title


def draw_reconstructions(
    samples: Sequence[dict[str, Any]], outputs: list[dict[str, Tensor]], max_regions: int = 3
) -> NDArray[np.uint8]:
    """Draws samples and an RMAE's evaluation outputs.

    Args:
        samples: as the mapper gives them, ``image`` (C, H, W) 0-255; of other than three channels the first
            is shown, in gray.
        outputs: of the model in evaluation mode, one a sample.
        max_regions: how many regions of a sample to show; the largest, which say most.

    Returns:
        an RGB picture, (height, width, 3) uint8; small images are enlarged by a whole factor.
    """
    rows = [_row(s, o, max_regions) for s, o in zip(samples, outputs, strict=True)]
    titles = ["image", "visible patches"]
    if "mask_probability" in outputs[0]:
        titles.insert(1, "mask probability")
    if "reconstruction" in outputs[0]:
        titles.append("pixels predicted")
    if "region_probability" in outputs[0]:
        shown = (len(rows[0]) - len(titles)) // 3
        for k in range(shown):
            titles += [f"region {k + 1}", "visible patches", "region predicted"]
    side = max(rows[0][0].shape[:2])
    return contact_sheet([SheetRow("", row) for row in rows], titles, side=side)


def _row(sample: dict[str, Any], output: dict[str, Tensor], max_regions: int) -> list[NDArray[Any]]:
    image = _rgb(sample["image"])
    hidden = _pixel_mask(output["mask"], sample["image"].shape[1:])
    tiles = [image, np.where(hidden, _GRAY, image)]
    if "mask_probability" in output:
        tiles.insert(1, _heat(output["mask_probability"], sample["image"].shape[1:]))
    if "reconstruction" in output:
        tiles.append(_rgb(output["reconstruction"]))
    if "region_probability" in output:
        probability = output["region_probability"].float().cpu().numpy()
        hidden = _pixel_mask(output["region_mask"], sample["image"].shape[1:])
        truths = unpack_bits(sample["regions"].cpu().numpy(), len(probability))
        largest = sorted(range(len(truths)), key=lambda k: int(truths[k].sum()), reverse=True)
        # A region that no scale splits is found at every scale: repeats come last.
        first = set({truths[k].tobytes(): k for k in reversed(largest)}.values())
        for k in sorted(largest, key=lambda k: k not in first)[:max_regions]:
            truth = truths[k]
            region = np.repeat(np.where(truth, 255, 0)[:, :, None], 3, axis=2)
            predicted = np.repeat((probability[k] * 255)[:, :, None], 3, axis=2)
            tiles += [region, np.where(hidden, _GRAY, region), predicted]
    enlarge = -(-_MIN_WIDTH // tiles[0].shape[1])
    return [tile.astype(np.uint8).repeat(enlarge, 0).repeat(enlarge, 1) for tile in tiles]


def _rgb(image_CHW: Tensor) -> NDArray[Any]:
    image = image_CHW.float().cpu().round().numpy().transpose(1, 2, 0)
    return image if image.shape[2] == 3 else np.repeat(image[:, :, :1], 3, axis=2)


def _pixel_mask(mask_L: Tensor, size: torch.Size) -> NDArray[np.bool_]:
    """(H, W, 1), to choose between pictures."""
    return mask_to_pixels(mask_L.cpu(), (size[0], size[1])).numpy()[:, :, None]


def _heat(probability_L: Tensor, size: torch.Size) -> NDArray[Any]:
    """Black for 0, through red and yellow to white for the highest, (H, W, 3)."""
    from matplotlib import colormaps

    share = mask_to_pixels((probability_L / probability_L.max()).float().cpu(), (size[0], size[1]))
    return (colormaps["hot"](share.numpy())[:, :, :3] * 255).round()
