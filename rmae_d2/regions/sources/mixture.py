"""Several region sources in one training run, with one drawn for each sample."""

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
    """Region source that delegates to one of several sources, chosen with given probabilities.

    The choice uses one number from numpy's global generator, which the loaders seed from (seed, position). An
    error of the chosen source is not hidden by trying the next one, which would silently shift the weights;
    to let one source stand in for another, use `StoredRegions` with a fallback.
    It is not a source for a store: make one store per source and mix those.

    Attributes:
        probabilities: of the sources, float64, sum 1.
        params: of all sources, and their probabilities.
        blind: whether all of them are.
    """

    def __init__(self, sources: Sequence[Source], weights: Sequence[float] | None = None) -> None:
        """Takes a weight of 0 or more per source, not all 0 (else UserError); None for equal weights."""
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
        """Make the record of the whole image, uint8 (H, W, C), with a source drawn at each call."""
        bounds = self.probabilities.cumsum()
        drawn = int(np.searchsorted(bounds, np.random.random_sample() * bounds[-1], side="right"))
        return regions_of(self.sources[drawn], dataset_dict, image_HWC)
