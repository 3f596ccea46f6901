"""Several region sources in one training run, one of them drawn for each sample."""

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ...errors import UserError
from ..record.record import EncodedRecord, RegionRecord
from .blind import is_blind, regions_of

Source = Callable[[Mapping[str, Any], NDArray[np.uint8]], RegionRecord | EncodedRecord]


class MixtureOfSources:
    """Region source that asks one of several sources, each as often as its weight says.

    One number of numpy's global generator decides, which the loaders seed from (seed, position). An error
    of the chosen source is not hidden by asking the next, which would shift the weights unnoticed: where
    one source is to stand in for another, that is `StoredRegions` with a fallback.
    It is no source for a store: make one of each source and mix those.

    Attributes:
        probabilities: of the sources, float64, sum 1.
        params: of all sources, and their probabilities.
        blind: whether all of them are.
    """

    def __init__(self, sources: Sequence[Source], weights: Sequence[float] | None = None) -> None:
        """`weights`: one a source, 0 or more, of a positive sum (else UserError); None for equal ones."""
        self.sources = list(sources)
        given = [1.0] * len(self.sources) if weights is None else [float(w) for w in weights]
        if not self.sources or len(given) != len(self.sources):
            raise UserError(
                f"a mixture of {len(self.sources)} region sources was given {len(given)} weights: "
                "one per source is needed, and at least one source"
            )
        if not all(math.isfinite(w) and w >= 0 for w in given) or sum(given) <= 0:
            raise UserError(f"weights={given} of a mixture must be 0 or more, one of them positive")
        self.probabilities = np.array(given) / sum(given)
        self.blind = all(is_blind(source) for source in self.sources)
        self.params: dict[str, Any] = {
            "source": "mixture",
            "sources": [dict(getattr(source, "params", {})) for source in self.sources],
            "probabilities": self.probabilities.tolist(),
        }

    def __repr__(self) -> str:
        parts = zip(self.probabilities, self.sources, strict=True)
        return "one of: " + "; ".join(f"{p:.1%} {source!r}" for p, source in parts)

    def __call__(
        self, dataset_dict: Mapping[str, Any], image_HWC: NDArray[np.uint8]
    ) -> RegionRecord | EncodedRecord:
        """Record of the whole image, uint8 (H, W, C), by a source drawn at each call; its errors pass."""
        bounds = self.probabilities.cumsum()
        drawn = int(np.searchsorted(bounds, np.random.random_sample() * bounds[-1], side="right"))
        return regions_of(self.sources[drawn], dataset_dict, image_HWC)
