"""Means and paired differences over few seeds, and conclusions from them.

Letters: n seeds.
"""

import itertools
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy import stats

#: Up to this many seeds, all bootstrap samples are enumerated (5 ** 5 = 3125); above, this many are drawn.
_ALL_UP_TO = 5
_DRAWN = 10_000

LEVEL = 0.95
_FEWEST = 3


@dataclass(frozen=True)
class Difference:
    """The mean difference of a method to its baseline, over their common seeds.

    Attributes:
        n: number of seeds.
        bootstrap: interval of the mean, (low, high), see `bootstrap_interval`.
        student: Student's t interval, (low, high); infinite for one seed.
    """

    n: int
    mean: float
    bootstrap: tuple[float, float]
    student: tuple[float, float]

    @property
    def significant(self) -> bool:
        """Whether neither interval contains 0, and there are at least three seeds.

        The bootstrap is too narrow with few seeds: with three it excludes 0 whenever all have the same sign,
        which happens by chance in a quarter of cases. So both intervals must exclude it. Two seeds that
        happen to agree make Student's interval arbitrarily narrow.
        """
        low = min(self.bootstrap[0], self.student[0])
        high = max(self.bootstrap[1], self.student[1])
        return self.n >= _FEWEST and (low > 0 or high < 0)


def bootstrap_interval(values: Sequence[float], level: float = LEVEL) -> tuple[float, float]:
    """Percentile bootstrap interval of the mean; exact up to five values."""
    array = np.asarray(values, np.float64)
    if len(array) <= _ALL_UP_TO:
        draws = np.array(list(itertools.product(range(len(array)), repeat=len(array))))
    else:
        draws = np.random.default_rng(0).integers(len(array), size=(_DRAWN, len(array)))
    means: NDArray[np.float64] = array[draws].mean(axis=1)
    low, high = np.quantile(means, [(1 - level) / 2, (1 + level) / 2])
    return float(low), float(high)


def student_interval(values: Sequence[float], level: float = LEVEL) -> tuple[float, float]:
    """Student's t interval of the mean; infinite for fewer than two values."""
    if len(values) < 2:
        return -math.inf, math.inf
    error = float(np.std(values, ddof=1)) / math.sqrt(len(values))
    reach = float(stats.t.ppf((1 + level) / 2, len(values) - 1)) * error
    mean = float(np.mean(values))
    return mean - reach, mean + reach


def paired_difference(of: Mapping[int, float], to: Mapping[int, float]) -> Difference | None:
    """Computes the difference between two methods, paired by seed.

    Args:
        of, to: a metric by seed.

    Returns:
        None if they have no seed in common.
    """
    pairs = [of[seed] - to[seed] for seed in sorted(of.keys() & to.keys())]
    if not pairs:
        return None
    mean = float(np.mean(pairs))
    return Difference(len(pairs), mean, bootstrap_interval(pairs), student_interval(pairs))
