"""Evaluation of interactive segmentation: mask IoU versus the number of given patches or clicks.

The R-MAE paper shows such masks only in pictures (figure 6). Letters: H W pixels, P patch side, Gh Gw grid of
patches over the image, K objects per image, n patches or clicks.
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
    """A pixel (x, y) inside or outside the object."""

    x: int
    y: int
    positive: bool


@dataclass(frozen=True)
class Hints:
    """Known facts about one object, in both forms that methods accept."""

    visible: Mask  # (Gh, Gw), patches that are shown
    region: Mask  # (Gh*P, Gw*P), the object's map in these patches
    seeds: NDArray[np.int8]  # (H, W) on the image: 1 in the object, 0 outside it, -1 unknown

    @property
    def shown(self) -> tuple[Mask, Mask]:
        """``visible`` and ``region`` at image size, bool (H, W) each, by nearest neighbour."""
        side = self.region.shape[0] // self.visible.shape[0]
        known = self.visible.repeat(side, axis=0).repeat(side, axis=1)
        return resize_mask(known, self.seeds.shape), resize_mask(self.region, self.seeds.shape)


def patch_order(
    mask: Mask, grid: tuple[int, int], patch_size: int, rng: np.random.Generator
) -> NDArray[np.int64]:
    """Draws a random order in which patches are revealed, int64 (Gh*Gw,).

    The first one is drawn from those at least half inside the object or, if there are none, is the fullest:
    a user pointing at an object shows part of it. The others come in uniformly random order.
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
    """Reveals the true content of some patches of a mask (H, W)."""
    visible = np.zeros(grid, bool)
    visible.ravel()[ids] = True
    region = resize_mask(mask, (grid[0] * patch_size, grid[1] * patch_size))
    known = resize_mask(visible.repeat(patch_size, axis=0).repeat(patch_size, axis=1), mask.shape)
    return Hints(visible, region, np.where(known, mask, -1).astype(np.int8))


def hints_of_clicks(
    clicks: Sequence[Click], size: tuple[int, int], grid: tuple[int, int], patch_size: int
) -> Hints:
    """Uses clicked pixels as seeds and clicked patches as entirely inside or outside; later clicks win."""
    known = np.full(grid, -1, np.int8)
    seeds = np.full(size, -1, np.int8)
    for click in clicks:
        row = int((click.y + 0.5) * grid[0] / size[0])
        column = int((click.x + 0.5) * grid[1] / size[1])
        known[row, column] = seeds[click.y, click.x] = click.positive
    blocks = (known == 1).repeat(patch_size, axis=0).repeat(patch_size, axis=1)
    return Hints(known >= 0, blocks, seeds)


def next_click(truth: Mask, predicted: Mask, spent: Mask) -> Click | None:
    """Simulates a user's next click in the way usual for interactive segmentation.

    It is in the middle of the largest error: the pixel farthest from the border of the missing or the surplus
    pixels, whichever contain the larger circle (missing ones if equal, the first in raster order).
    There is no error beyond the image's border (RITM, Sofiiuk et al. 2021, and earlier work).

    None if errors remain only in ``spent`` pixels, where no further click can be made.
    """
    best: tuple[float, Click | None] = (0.0, None)
    for positive, error in ((True, truth & ~predicted), (False, predicted & ~truth)):
        wrong = (error & ~spent).astype(np.int8)
        for rows, columns in find_objects(wrong):  # their bounding box, if there are any
            distance = distance_transform_edt(np.pad(wrong[rows, columns], 1))
            y, x = np.unravel_index(distance.argmax(), distance.shape)
            if distance[y, x] > best[0]:
                click = Click(int(x + columns.start - 1), int(y + rows.start - 1), positive)
                best = (float(distance[y, x]), click)
    return best[1]


PROTOCOLS = ("patches", "clicks")


#: Maps hints for K objects of an image to their masks, bool (K, H, W).
Segmenter = Callable[[Sequence[Hints]], Mask]


@dataclass(frozen=True)
class Method:
    """A segmentation method under test."""

    start: Callable[[NDArray[np.uint8]], Segmenter]  # from an image, RGB
    by_patches: bool  # a further click in a clicked patch would be uninformative


@dataclass(frozen=True)
class Target:
    """An object to segment: its mask, bool (H, W), and its index among its image's annotations."""

    image_id: Any
    index: int
    mask: Mask


@dataclass(frozen=True)
class Curve:
    """IoU of one method by number of patches or clicks: counts (n,), iou (objects, n)."""

    counts: Sequence[int]
    iou: NDArray[np.float64]

    @property
    def mean(self) -> NDArray[np.float64]:
        return self.iou.mean(axis=0)

    @property
    def standard_error(self) -> NDArray[np.float64]:
        """Standard error of the mean, (n,), treating all objects as independent. 0 for a single object."""
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
    """Draws objects with a mask area between two fractions of the image's; skips crowds.

    Returns:
        Sample index -> its objects, omitting samples without any.
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
    """Decodes an annotation's mask, bool (H, W), as pycocotools does."""
    rle = compressed(annotation["segmentation"], (sample["height"], sample["width"]))
    mask: Mask = mask_util.decode(rle).astype(bool)
    return mask


def iou(one: Mask, other: Mask) -> float:
    """Intersection over union of two masks; 1 if both are empty."""
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
    """IoU (K, n) given the true content of random patches, see `patch_order`.

    Patches are nested: a larger count includes those of a smaller one. An object's order is a
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

    The first click is the same for all methods; later ones differ because they respond to a method's own
    errors. If no correctable error is left, the mask stays unchanged.
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
    """Summarises curves for JSON: means, standard errors, and each object's own values."""
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
    """Tabulates mean IoU in percent, one row per method and one column per count."""
    rows = [
        [name, *(100 * curve.mean[list(curve.counts).index(n)] for n in counts)]
        for name, curve in curves.items()
    ]
    return table(["method", *counts], rows, digits=1)


def _rounded(values: NDArray[np.float64]) -> list[float]:
    return [round(float(value), 4) for value in values]


def given_patches(image_HWC: NDArray[np.uint8]) -> Segmenter:
    """Returns only what is shown of the object: a lower bound for every method that keeps it."""
    return lambda hints: np.stack([np.logical_and(*h.shown) for h in hints])


def fh_segments(image_HWC: NDArray[np.uint8], scale: int = 500) -> Segmenter:
    """Returns the Felzenszwalb-Huttenlocher segments that contain seeds of the object.

    A segment with seeds of both kinds is divided: each of its pixels follows the nearest seed in it.

    Args:
        scale: scale of the segmentation, the finest of the paper's; also the minimum segment size.
    """
    labels = felzenszwalb(image_HWC, [scale])[0].astype(np.int64)
    return lambda hints: np.stack([_join(labels, h.seeds) for h in hints])


def edges_alone(image_HWC: NDArray[np.uint8]) -> Segmenter:
    """Uses only the edges of predictions, see `rmae_d2.regions.segment_walk`, without a model."""
    graph = segment_graph(image_HWC)
    prior = np.full(len(graph.areas), UNINFORMED)
    return lambda hints: np.stack([_walk_segments(graph, prior, h.seeds) for h in hints])


def random_walk(image_HWC: NDArray[np.uint8], longest_side: int = 96) -> Segmenter:
    """Runs scikit-image's random walker from the seeds (Grady, PAMI 2006), on a smaller image.

    Without a seed outside the object, the image's rim counts as outside; without one inside, the mask is
    empty.


    Args:
        longest_side: of the working image; its probabilities are enlarged bilinearly.
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
    labels = np.select([placed == 1, placed == 0], [1, 2])  # 0: unknown
    if not (labels == 1).any():
        return np.zeros(seeds.shape, bool)
    if not (labels == 2).any():
        rim = np.ones_like(labels, bool)
        rim[1:-1, 1:-1] = False
        labels[rim & (labels == 0)] = 2
    if not (labels == 0).any() or not (labels == 2).any():
        inside = (labels == 1).astype(np.float64)
    else:
        # "bf" solves directly: the iterative modes took 2 to 80 times as long with few seeds.
        inside, _ = random_walker(image, labels, mode="bf", return_full_prob=True, channel_axis=-1)
    mask = _enlarged(inside, seeds.shape) > 0.5
    return np.where(seeds < 0, mask, seeds == 1)


def _join(labels: NDArray[np.int64], seeds: NDArray[np.int8]) -> Mask:
    """Joins the segments with seeds in the object; see `fh_segments`."""
    inside = np.bincount(labels[seeds == 1], minlength=labels.max() + 1) > 0
    outside = np.bincount(labels[seeds == 0], minlength=labels.max() + 1) > 0
    mask = (inside & ~outside)[labels]
    for label in np.flatnonzero(inside & outside):
        divide(mask, labels == label, seeds)
    return mask
