"""Repeat-factor sampling (LVIS, appendix B.2) for a stream addressed by position.

Images with rare classes appear more than once per epoch. Detectron2's sampler rounds every image's
factor at random, so its epochs differ in length and a position has no epoch. Here, every epoch has
the same length, and an image still appears as often as its factor says on average.
"""

import logging
from collections.abc import Sequence
from typing import Any

import numpy as np
from detectron2.data.samplers import RepeatFactorTrainingSampler
from numpy.typing import NDArray

from ..errors import UserError

logger = logging.getLogger(__name__)


def category_repeat_factors(
    dataset_dicts: Sequence[dict[str, Any]], threshold: float
) -> NDArray[np.float64]:
    """How often each of N images should appear per epoch: max(1, sqrt(threshold / f)), float64 (N,).

    f is the fraction of images with the image's rarest class, as in Detectron2 (threshold 0.001 for LVIS).
    """
    if threshold <= 0:
        raise UserError(f"repeat_threshold={threshold} must be positive; for no repeats, null")
    noisy = logging.getLogger("detectron2.data.samplers.distributed_sampler")
    level = noisy.level
    noisy.setLevel(logging.WARNING)  # it logs one line per class, 1,203 of them for LVIS
    try:
        factors = RepeatFactorTrainingSampler.repeat_factors_from_category_frequency(
            dataset_dicts, threshold
        )
    finally:
        noisy.setLevel(level)
    return factors.numpy().astype(np.float64)


class RepeatedOrder:
    """Epoch orders in which image i appears factor[i] times on average.

    The integer part of a factor always counts. Fractional parts are drawn by systematic sampling: with one
    random offset u, image i is added once more if its cumulated fraction plus u passes an integer. So each
    image's probability is its fraction, and the number drawn, and with it an epoch's ``length``, is constant.

    Factors (N,) are 0 or more; their fractions are scaled, by less than 1 / their sum, to add up to an
    integer.
    """

    def __init__(self, factors: NDArray[np.float64]) -> None:
        self._whole = np.floor(factors).astype(np.int64)
        self._fractions = factors - self._whole
        total = float(self._fractions.sum())
        self._extra = round(total)
        self._fractions *= self._extra / total if total else 0.0
        self.length = int(self._whole.sum()) + self._extra
        if self.length == 0:
            raise UserError("the repeat factors leave no image in an epoch")

    def draw(self, generator: np.random.Generator) -> NDArray[np.int64]:
        """The shuffled image indices of one epoch, int64 (length,)."""
        # Cumulated in random order, otherwise neighbours in the data set would exclude each other.
        images = generator.permutation(len(self._whole))
        cumulated = np.cumsum(self._fractions[images])
        cumulated[-1] = self._extra  # exactly, despite rounding errors
        steps = np.floor(cumulated + generator.random())
        counts = self._whole.copy()
        counts[images] += np.diff(steps, prepend=0.0).astype(np.int64)
        return generator.permutation(np.repeat(np.arange(len(counts)), counts))
