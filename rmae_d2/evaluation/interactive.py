"""Interactive segmentation measured: mask IoU against the number of patches or clicks that are given.

The R-MAE paper shows such masks in pictures only (figure 6). Letters: H W pixels, P patch side, Gh Gw grid of
patches over the image, K objects of an image, n patches or clicks.
"""

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pycocotools.mask as mask_util
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from scipy.ndimage import distance_transform_edt, find_objects
from skimage.segmentation import random_walker
from skimage.transform import resize

from ..annotations.segmentation import compressed
from ..errors import UserError
from ..regions.record.record import resize_mask
from ..regions.segment_walk import (
    UNINFORMED,
    SegmentGraph,
    divide,
    place_seeds,
    segment_graph,
    walk,
)
from ..regions.sources.felzenszwalb import felzenszwalb
from ..tables import table

Mask = NDArray[np.bool_]


@dataclass(frozen=True)
class Click:
    """A pixel (x, y) that is in the object, or not."""

    x: int
    y: int
    positive: bool


@dataclass(frozen=True)
class Hints:
    """What is known of one object, in both forms that methods take."""

    visible: Mask  # (Gh, Gw), patches that are shown
    region: Mask  # (Gh*P, Gw*P), the object's map there
    seeds: NDArray[np.int8]  # (H, W) on the image: 1 in the object, 0 outside it, -1 not known

    @property
    def shown(self) -> tuple[Mask, Mask]:
        """``visible`` and ``region`` on the image, bool (H, W) each, by nearest neighbour."""
        side = self.region.shape[0] // self.visible.shape[0]
        known = self.visible.repeat(side, axis=0).repeat(side, axis=1)
        return resize_mask(known, self.seeds.shape), resize_mask(self.region, self.seeds.shape)


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

    None where no error is left but in ``spent`` pixels, where no further click can be made.
    """
    best: tuple[float, Click | None] = (0.0, None)
    for positive, error in ((True, truth & ~predicted), (False, predicted & ~truth)):
        wrong = (error & ~spent).astype(np.int8)
        for rows, columns in find_objects(wrong):  # the box around them, if there are any
            distance = distance_transform_edt(np.pad(wrong[rows, columns], 1))
            y, x = np.unravel_index(distance.argmax(), distance.shape)
            if distance[y, x] > best[0]:
                click = Click(int(x + columns.start - 1), int(y + rows.start - 1), positive)
                best = (float(distance[y, x]), click)
    return best[1]


PROTOCOLS = ("patches", "clicks")


#: Masks of K objects, bool (K, H, W), of an image, by what is known of each.
Segmenter = Callable[[Sequence[Hints]], Mask]


@dataclass(frozen=True)
class Method:
    """A way to segment that is under test."""

    start: Callable[[NDArray[np.uint8]], Segmenter]  # from an image, RGB
    by_patches: bool  # a further click in a patch that was clicked could tell it nothing new


@dataclass(frozen=True)
class Target:
    """An object to be segmented: its mask, bool (H, W), and its place among its image's annotations."""

    image_id: Any
    index: int
    mask: Mask


@dataclass(frozen=True)
class Curve:
    """IoU of one method, by number of patches or clicks: counts (n,), iou (objects, n)."""

    counts: Sequence[int]
    iou: NDArray[np.float64]

    @property
    def mean(self) -> NDArray[np.float64]:
        return self.iou.mean(axis=0)

    @property
    def standard_error(self) -> NDArray[np.float64]:
        """Of the mean, (n,); objects of one image are taken as independent. 0 for a single object."""
        if len(self.iou) < 2:
            return np.zeros(len(self.counts))
        return self.iou.std(axis=0, ddof=1) / math.sqrt(len(self.iou))


def choose_objects(
    samples: Sequence[Mapping[str, Any]],
    least_share: float,
    most_share: float,
    max_objects: int,
    seed: int,
) -> dict[int, list[Target]]:
    """Draws objects with a mask of an area between two shares of the image's; crowds are left out.

    Returns:
        number of the sample -> its objects, samples without any left out.
    """
    found = [
        (i, j)
        for i, sample in enumerate(samples)
        for j, annotation in enumerate(sample["annotations"])
        if not annotation.get("iscrowd") and "segmentation" in annotation
    ]
    targets: dict[tuple[int, int], Target] = {}
    for k in np.random.default_rng(seed).permutation(len(found)):
        if len(targets) == max_objects:
            break
        i, j = found[k]
        mask = decode(samples[i]["annotations"][j], samples[i])
        if least_share <= mask.mean() <= most_share:
            targets[i, j] = Target(samples[i].get("image_id", i), j, mask)
    if not targets:
        share = f"{least_share:.1%} to {most_share:.1%}"
        raise UserError(f"none of {len(found)} objects covers {share} of its image")
    by_sample: dict[int, list[Target]] = {}
    for i, j in sorted(targets):
        by_sample.setdefault(i, []).append(targets[i, j])
    return by_sample


def decode(annotation: Mapping[str, Any], sample: Mapping[str, Any]) -> Mask:
    """An annotation's mask, bool (H, W), as pycocotools has it."""
    rle = compressed(annotation["segmentation"], (sample["height"], sample["width"]))
    mask: Mask = mask_util.decode(rle).astype(bool)
    return mask


def iou(one: Mask, other: Mask) -> float:
    """Intersection over union of two masks; 1 where both are empty."""
    union = np.count_nonzero(one | other)
    return float(np.count_nonzero(one & other) / union) if union else 1.0


def patches_protocol(
    segment: Segmenter,
    targets: Sequence[Target],
    grid: tuple[int, int],
    patch_size: int,
    counts: Sequence[int],
    seed: int,
) -> NDArray[np.float64]:
    """IoU (K, n) with the true content of random patches, see `patch_order`.

    Patches are nested: those of a smaller count are among those of a larger one. An object's order is a
    function of the seed and its ids, so all methods see the same patches.
    """
    rows = []
    for target in targets:
        rng = np.random.default_rng([seed, *f"{target.image_id}/{target.index}".encode()])
        order = patch_order(target.mask, grid, patch_size, rng)
        hints = [hints_of_patches(target.mask, order[:n], grid, patch_size) for n in counts]
        rows.append([iou(mask, target.mask) for mask in segment(hints)])
    return np.array(rows)


def clicks_protocol(
    segment: Segmenter,
    targets: Sequence[Target],
    grid: tuple[int, int],
    patch_size: int,
    counts: Sequence[int],
    by_patches: bool,
) -> NDArray[np.float64]:
    """IoU (K, n) with simulated clicks, each in the middle of the method's largest error so far.

    The first click is the same for all methods; later ones differ, for they answer to a method's own
    errors. Where no error is left that a click could mend, the mask stays as it is.
    """
    size = (targets[0].mask.shape[0], targets[0].mask.shape[1])
    clicks: list[list[Click]] = [[] for _ in targets]
    result = np.zeros((len(targets), max(counts) + 1))
    for n in range(max(counts) + 1):
        hints = [hints_of_clicks(made, size, grid, patch_size) for made in clicks]
        masks = segment(hints)
        for k, target in enumerate(targets):
            result[k, n] = iou(masks[k], target.mask)
            spent = hints[k].seeds >= 0
            if by_patches:
                spent |= hints[k].shown[0]
            click = next_click(target.mask, masks[k], spent)
            if click is not None:
                clicks[k].append(click)
    return result[:, list(counts)]


def summary(curves: Mapping[str, Curve], targets: Iterable[Target]) -> dict[str, Any]:
    """Curves as json holds them: means, standard errors, and every object's own."""
    return {
        "counts": list(next(iter(curves.values())).counts),
        "methods": {
            name: {"mean_iou": _rounded(c.mean), "standard_error": _rounded(c.standard_error)}
            for name, c in curves.items()
        },
        "per_object": [
            {
                "image_id": target.image_id,
                "index": target.index,
                "area_share": round(float(target.mask.mean()), 4),
                "iou": {name: _rounded(curve.iou[k]) for name, curve in curves.items()},
            }
            for k, target in enumerate(targets)
        ],
    }


def iou_table(curves: Mapping[str, Curve], counts: Sequence[int]) -> str:
    """Mean IoU in percent, a row a method and a column a count."""
    rows = [
        [name, *(100 * curve.mean[list(curve.counts).index(n)] for n in counts)]
        for name, curve in curves.items()
    ]
    return table(["method", *counts], rows, digits=1)


def _rounded(values: NDArray[np.float64]) -> list[float]:
    return [round(float(value), 4) for value in values]


def given_patches(image_HWC: NDArray[np.uint8]) -> Segmenter:
    """What is shown of the object and nothing else: the floor of every method that keeps it."""
    return lambda hints: np.stack([np.logical_and(*h.shown) for h in hints])


def fh_segments(image_HWC: NDArray[np.uint8], scale: int = 500) -> Segmenter:
    """The Felzenszwalb-Huttenlocher segments in which seeds of the object lie.

    A segment with seeds of both kinds is divided: each of its pixels goes with the nearest seed in it.

    Args:
        scale: of the partition, the finest of the paper's; the minimum size of a segment equals it.
    """
    labels = felzenszwalb(image_HWC, [scale])[0].astype(np.int64)
    return lambda hints: np.stack([_join(labels, h.seeds) for h in hints])


def edges_alone(image_HWC: NDArray[np.uint8]) -> Segmenter:
    """What draws a prediction's edges, see `rmae_d2.regions.segment_walk`, with no model behind it."""
    graph = segment_graph(image_HWC)
    prior = np.full(len(graph.areas), UNINFORMED)
    return lambda hints: np.stack([_walk_segments(graph, prior, h.seeds) for h in hints])


def random_walk(image_HWC: NDArray[np.uint8], longest_side: int = 96) -> Segmenter:
    """scikit-image's random walker from the seeds (Grady, PAMI 2006), on a smaller image.

    Without a seed outside the object, the image's rim counts as outside; without one inside, nothing is in.

    Args:
        longest_side: of the image that it works on; its probabilities are enlarged bilinearly.
    """
    height, width = image_HWC.shape[:2]
    factor = min(longest_side / max(height, width), 1)
    size = (max(round(height * factor), 1), max(round(width * factor), 1))
    image = resize(image_HWC / 255.0, size, anti_aliasing=factor < 1)
    return lambda hints: np.stack([_walk(image, h.seeds) for h in hints])


def _walk_segments(
    graph: SegmentGraph, prior: NDArray[np.float64], seeds: NDArray[np.int8]
) -> Mask:
    if not (seeds >= 0).any():
        return np.zeros(seeds.shape, bool)
    map_ = walk(graph, prior, place_seeds(seeds, graph.labels.shape))
    mask: Mask = _enlarged(map_, seeds.shape) > 0.5
    return mask


def _enlarged(map_: NDArray[np.float64], size: tuple[int, ...]) -> NDArray[np.float64]:
    tensor = torch.from_numpy(map_)[None, None]
    return F.interpolate(tensor, size, mode="bilinear")[0, 0].numpy()


def _walk(image: NDArray[np.float64], seeds: NDArray[np.int8]) -> Mask:
    placed = place_seeds(seeds, image.shape[:2])
    labels = np.select([placed == 1, placed == 0], [1, 2])  # 0: not known
    if not (labels == 1).any():
        return np.zeros(seeds.shape, bool)
    if not (labels == 2).any():
        rim = np.ones_like(labels, bool)
        rim[1:-1, 1:-1] = False
        labels[rim & (labels == 0)] = 2
    if not (labels == 0).any() or not (labels == 2).any():
        inside = (labels == 1).astype(np.float64)
    else:
        # "bf" solves directly: the iterative modes took 2 to 80 times as long where seeds are few.
        inside, _ = random_walker(image, labels, mode="bf", return_full_prob=True, channel_axis=-1)
    mask = _enlarged(inside, seeds.shape) > 0.5
    return np.where(seeds < 0, mask, seeds == 1)


def _join(labels: NDArray[np.int64], seeds: NDArray[np.int8]) -> Mask:
    """The segments with seeds in the object; see `fh_segments`."""
    inside = np.bincount(labels[seeds == 1], minlength=labels.max() + 1) > 0
    outside = np.bincount(labels[seeds == 0], minlength=labels.max() + 1) > 0
    mask = (inside & ~outside)[labels]
    for label in np.flatnonzero(inside & outside):
        divide(mask, labels == label, seeds)
    return mask
