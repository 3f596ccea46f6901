"""What an interactive segmenter is shown of an object: random patches of its true mask, or simulated clicks.

Letters: H W pixels of the image, P patch side, Gh Gw grid of patches over the image.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.ndimage import distance_transform_edt

from ..regions.record.record import nearest_indices

Mask = NDArray[np.bool_]


@dataclass(frozen=True)
class Click:
    """A pixel (x, y) that is in the object, or not."""

    x: int
    y: int
    positive: bool


@dataclass(frozen=True)
class Hints:
    """What is known of one object, in both forms that methods take.

    Args:
        visible: bool (Gh, Gw), patches that are shown.
        region: bool (Gh*P, Gw*P), the object's map there.
        seeds: int8 (H, W) on the image: 1 in the object, 0 outside it, -1 not known.
    """

    visible: Mask
    region: Mask
    seeds: NDArray[np.int8]

    @property
    def shown(self) -> tuple[Mask, Mask]:
        """``visible`` and ``region`` on the image, bool (H, W) each, by nearest neighbour."""
        side = self.region.shape[0] // self.visible.shape[0]
        known = self.visible.repeat(side, axis=0).repeat(side, axis=1)
        return resize_mask(known, self.seeds.shape), resize_mask(self.region, self.seeds.shape)


def resize_mask(mask: Mask, size: tuple[int, ...]) -> Mask:
    """A mask at another size, by nearest neighbour, as pre-training resizes region maps."""
    rows, columns = (nearest_indices(old, new) for old, new in zip(mask.shape, size, strict=True))
    return mask[rows].take(columns, axis=1)


def patch_order(
    mask: Mask, grid: tuple[int, int], patch_size: int, rng: np.random.Generator
) -> NDArray[np.int64]:
    """A random order in which patches are revealed, int64 (Gh*Gw,).

    The first one is drawn among those that lie at least half in the object, or is the fullest where none
    does: whoever points at an object shows some of it. The others come in uniformly random order.
    """
    (Gh, Gw), P = grid, patch_size
    map_ = resize_mask(mask, (Gh * P, Gw * P))
    share = map_.reshape(Gh, P, Gw, P).mean(axis=(1, 3)).ravel()
    first = rng.choice(np.flatnonzero(share >= min(0.5, share.max())))
    others = rng.permutation(Gh * Gw)
    return np.concatenate([[first], others[others != first]])


def hints_of_patches(
    mask: Mask, ids: NDArray[np.int64], grid: tuple[int, int], patch_size: int
) -> Hints:
    """The true content of some patches of a mask (H, W)."""
    visible = np.zeros(grid, bool)
    visible.ravel()[ids] = True
    region = resize_mask(mask, (grid[0] * patch_size, grid[1] * patch_size))
    known = resize_mask(visible.repeat(patch_size, axis=0).repeat(patch_size, axis=1), mask.shape)
    return Hints(visible, region, np.where(known, mask, -1).astype(np.int8))


def hints_of_clicks(
    clicks: Sequence[Click], size: tuple[int, int], grid: tuple[int, int], patch_size: int
) -> Hints:
    """Clicked pixels are seeds, clicked patches lie wholly in the object or outside; later clicks win."""
    known = np.full(grid, -1, np.int8)
    seeds = np.full(size, -1, np.int8)
    for click in clicks:
        row = int((click.y + 0.5) * grid[0] / size[0])
        column = int((click.x + 0.5) * grid[1] / size[1])
        known[row, column] = seeds[click.y, click.x] = click.positive
    blocks = (known == 1).repeat(patch_size, axis=0).repeat(patch_size, axis=1)
    return Hints(known >= 0, blocks, seeds)


def next_click(truth: Mask, predicted: Mask, spent: Mask) -> Click | None:
    """The click that a person would make next, as interactive segmentation is usually simulated.

    In the middle of the largest error: the pixel farthest from the border of the missing or the surplus
    pixels, whichever holds the larger circle (missing ones where equal, the first in raster order).
    Beyond the image's border there is no error (RITM, Sofiiuk et al. 2021, and earlier work).

    Args:
        truth, predicted: bool (H, W).
        spent: pixels where no further click can be made.

    Returns:
        None where no error is left.
    """
    best: tuple[float, Click | None] = (0.0, None)
    for positive, wrong in ((True, truth & ~predicted), (False, predicted & ~truth)):
        distance, (y, x) = _deepest(wrong & ~spent)
        if distance > best[0]:
            best = (distance, Click(x, y, positive))
    return best[1]


def _deepest(wrong: Mask) -> tuple[float, tuple[int, int]]:
    """The pixel farthest from everything that is not ``wrong``, and how far; 0 where nothing is wrong."""
    rows, columns = np.flatnonzero(wrong.any(axis=1)), np.flatnonzero(wrong.any(axis=0))
    if not len(rows):
        return 0.0, (0, 0)
    top, left = rows[0], columns[0]
    box = np.pad(wrong[top : rows[-1] + 1, left : columns[-1] + 1], 1)
    distance = distance_transform_edt(box)
    y, x = np.unravel_index(distance.argmax(), box.shape)
    return float(distance[y, x]), (int(y + top - 1), int(x + left - 1))
