"""Interactive segmentation measured: mask IoU against the number of patches or clicks that are given.

The R-MAE paper shows such masks in pictures only (figure 6). Letters: H W pixels, P patch side, K objects
of an image, n patches or clicks.
"""

import logging
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
import pycocotools.mask as mask_util
from numpy.typing import NDArray

from ..annotations.coco_json import mask_of
from ..errors import UserError
from .interactive_hints import (
    Click,
    Hints,
    Mask,
    hints_of_clicks,
    hints_of_patches,
    next_click,
    patch_order,
)

logger = logging.getLogger(__name__)

PROTOCOLS = ("patches", "clicks")


class InteractiveMethod(Protocol):
    """A segmenter under test."""

    def start(self, image_HWC: NDArray[np.uint8]) -> None:
        """Takes the image, uint8 RGB, that the next calls are about."""

    def segment(self, hints: Sequence[Hints]) -> Mask:
        """Masks of K objects, bool (K, H, W)."""

    def spent(self, hints: Hints) -> Mask:
        """Where a further click could tell it nothing new, bool (H, W)."""


@dataclass(frozen=True)
class Target:
    """An object to be segmented.

    Args:
        image_id: of its image.
        index: its place among the annotations of the image's dataset dict.
        mask: bool (H, W).
    """

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
        """Over objects, (n,)."""
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

    Args:
        samples: Detectron2's dataset dicts with ``annotations``, ``height`` and ``width``.
        least_share, most_share: bounds of mask area / image area, both included.
        max_objects: how many at most, a random choice of all.
        seed: of the choice.

    Returns:
        number of the sample -> its objects, samples without any left out.

    Raises:
        UserError: no object is of such an area.
    """
    found = [
        (i, j)
        for i, sample in enumerate(samples)
        for j, annotation in enumerate(sample["annotations"])
        if not annotation.get("iscrowd") and mask_of(annotation) is not None
    ]
    chosen: list[tuple[int, int]] = []
    targets: dict[tuple[int, int], Target] = {}
    for k in np.random.default_rng(seed).permutation(len(found)):
        if len(chosen) == max_objects:
            break
        i, j = found[k]
        mask = decode(samples[i]["annotations"][j], samples[i])
        if least_share <= mask.mean() <= most_share:
            chosen.append((i, j))
            targets[i, j] = Target(samples[i].get("image_id", i), j, mask)
    if not chosen:
        raise UserError(
            f"none of {len(found)} objects covers {least_share:.1%} to {most_share:.1%} of its image"
        )
    by_sample: dict[int, list[Target]] = {}
    for i, j in sorted(chosen):
        by_sample.setdefault(i, []).append(targets[i, j])
    return by_sample


def decode(annotation: Mapping[str, Any], sample: Mapping[str, Any]) -> Mask:
    """An annotation's mask, bool (H, W), as pycocotools has it."""
    size = (sample["height"], sample["width"])
    segmentation = mask_of(dict(annotation))
    if isinstance(segmentation, list):
        segmentation = mask_util.merge(mask_util.frPyObjects(segmentation, *size))
    elif isinstance(segmentation, dict) and isinstance(segmentation["counts"], list):
        segmentation = mask_util.frPyObjects(segmentation, *size)
    mask: Mask = mask_util.decode(segmentation).astype(bool)
    return mask


def iou(one: Mask, other: Mask) -> float:
    """Intersection over union of two masks; 1 where both are empty."""
    union = np.count_nonzero(one | other)
    return float(np.count_nonzero(one & other) / union) if union else 1.0


def patches_protocol(
    method: InteractiveMethod,
    targets: Sequence[Target],
    grid: tuple[int, int],
    patch_size: int,
    counts: Sequence[int],
    seed: int,
) -> NDArray[np.float64]:
    """IoU (K, n) with the true content of random patches, see :func:`.interactive_hints.patch_order`.

    Patches are nested: those of a smaller count are among those of a larger one. An object's order is a
    function of the seed and its ids, so all methods see the same patches.
    """
    rows = []
    for target in targets:
        rng = np.random.default_rng([seed, *f"{target.image_id}/{target.index}".encode()])
        order = patch_order(target.mask, grid, patch_size, rng)
        hints = [hints_of_patches(target.mask, order[:n], grid, patch_size) for n in counts]
        rows.append([iou(mask, target.mask) for mask in method.segment(hints)])
    return np.array(rows)


def clicks_protocol(
    method: InteractiveMethod,
    targets: Sequence[Target],
    grid: tuple[int, int],
    patch_size: int,
    counts: Sequence[int],
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
        masks = method.segment(hints)
        for k, target in enumerate(targets):
            result[k, n] = iou(masks[k], target.mask)
            spent = method.spent(hints[k]) | (hints[k].seeds >= 0)
            click = next_click(target.mask, masks[k], spent)
            if click is not None:
                clicks[k].append(click)
    return result[:, list(counts)]


def summary(curves: Mapping[str, Curve], targets: Iterable[Target]) -> dict[str, Any]:
    """Curves as json holds them: means, standard errors, and every object's own."""
    return {
        "counts": list(next(iter(curves.values())).counts),
        "methods": {
            name: {
                "mean_iou": _rounded(curve.mean),
                "standard_error": _rounded(curve.standard_error),
            }
            for name, curve in curves.items()
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


def table(curves: Mapping[str, Curve], counts: Sequence[int]) -> str:
    """Mean IoU in percent as a Markdown table, a row a method and a column a count."""
    lines = ["| method | " + " | ".join(map(str, counts)) + " |", "|---" * (len(counts) + 1) + "|"]
    for name, curve in curves.items():
        places = [list(curve.counts).index(n) for n in counts]
        values = " | ".join(f"{100 * curve.mean[i]:.1f}" for i in places)
        lines.append(f"| {name} | {values} |")
    return "\n".join(lines)


def _rounded(values: NDArray[np.float64]) -> list[float]:
    return [round(float(value), 4) for value in values]
