"""What a pre-trained model has to beat at interactive segmentation: three ways that learn nothing.

Letters: H W pixels of the image, K objects.
"""

from collections.abc import Sequence

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from scipy.ndimage import distance_transform_edt
from skimage.segmentation import random_walker
from skimage.transform import resize

from ..regions.sources.felzenszwalb import felzenszwalb
from .interactive_hints import Hints, Mask


class GivenPatches:
    """What is shown of the object and nothing else: the floor of every method that keeps it."""

    def start(self, image_HWC: NDArray[np.uint8]) -> None:
        """The image is not looked at."""

    def segment(self, hints: Sequence[Hints]) -> Mask:
        """Bool (K, H, W)."""
        return np.stack([np.logical_and(*h.shown) for h in hints])

    def spent(self, hints: Hints) -> Mask:
        """Bool (H, W): the shown patches."""
        return hints.shown[0]


class FHSegments:
    """The Felzenszwalb-Huttenlocher segments in which seeds of the object lie.

    A segment with seeds of both kinds is divided: each of its pixels goes with the nearest seed in it.

    Args:
        scale: of the partition, the finest of the paper's; the minimum size of a segment equals it.
    """

    def __init__(self, scale: int = 500) -> None:
        self.scale = scale
        self._labels: NDArray[np.int64] | None = None

    def start(self, image_HWC: NDArray[np.uint8]) -> None:
        """Computes the partition."""
        self._labels = felzenszwalb(image_HWC, [self.scale])[0].astype(np.int64)

    def segment(self, hints: Sequence[Hints]) -> Mask:
        """Bool (K, H, W)."""
        assert self._labels is not None, "start comes first"
        return np.stack([_join(self._labels, h.seeds) for h in hints])

    def spent(self, hints: Hints) -> Mask:
        """Bool (H, W): the seeds."""
        return hints.seeds >= 0


class RandomWalker:
    """scikit-image's random walker from the seeds (Grady, PAMI 2006), on a smaller image.

    Without a seed outside the object, the image's rim counts as outside; without one inside, nothing is in.

    Args:
        longest_side: of the image that it works on; its probabilities are enlarged bilinearly.
    """

    def __init__(self, longest_side: int = 96) -> None:
        self.longest_side = longest_side
        self._image: NDArray[np.float64] | None = None

    def start(self, image_HWC: NDArray[np.uint8]) -> None:
        """Makes the image smaller."""
        height, width = image_HWC.shape[:2]
        factor = min(self.longest_side / max(height, width), 1)
        size = (max(round(height * factor), 1), max(round(width * factor), 1))
        self._image = resize(image_HWC / 255.0, size, anti_aliasing=factor < 1)

    def segment(self, hints: Sequence[Hints]) -> Mask:
        """Bool (K, H, W)."""
        return np.stack([self._walk(h.seeds) for h in hints])

    def spent(self, hints: Hints) -> Mask:
        """Bool (H, W): the seeds."""
        return hints.seeds >= 0

    def _walk(self, seeds: NDArray[np.int8]) -> Mask:
        assert self._image is not None, "start comes first"
        labels = _smaller(seeds, self._image.shape[:2])
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
            inside = random_walker(
                self._image, labels, mode="bf", return_full_prob=True, channel_axis=-1
            )[0]
        mask = _enlarged(inside, seeds.shape) > 0.5
        return np.where(seeds < 0, mask, seeds == 1)


def _join(labels: NDArray[np.int64], seeds: NDArray[np.int8]) -> Mask:
    """The segments with seeds in the object; see :class:`FHSegments`."""
    inside = np.bincount(labels[seeds == 1], minlength=labels.max() + 1) > 0
    outside = np.bincount(labels[seeds == 0], minlength=labels.max() + 1) > 0
    mask = (inside & ~outside)[labels]
    for label in np.flatnonzero(inside & outside):
        segment = labels == label
        rows, columns = np.flatnonzero(segment.any(axis=1)), np.flatnonzero(segment.any(axis=0))
        box = np.s_[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1]
        own = np.where(segment[box], seeds[box], -1)
        nearest = distance_transform_edt(own < 0, return_distances=False, return_indices=True)
        mask[box] |= segment[box] & (own[tuple(nearest)] == 1)
    return mask


def _enlarged(values: NDArray[np.float64], size: tuple[int, ...]) -> NDArray[np.float64]:
    tensor = torch.from_numpy(values)[None, None]
    enlarged: NDArray[np.float64] = F.interpolate(tensor, size, mode="bilinear")[0, 0].numpy()
    return enlarged


def _smaller(seeds: NDArray[np.int8], size: tuple[int, ...]) -> NDArray[np.int64]:
    """Seeds on a smaller image, none lost: 1 in the object (it wins), 2 outside, 0 not known."""
    labels = np.zeros(size, np.int64)
    for value, label in ((0, 2), (1, 1)):
        rows, columns = np.nonzero(seeds == value)
        labels[rows * size[0] // seeds.shape[0], columns * size[1] // seeds.shape[1]] = label
    return labels
