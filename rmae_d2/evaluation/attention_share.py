"""Measures how much of a patch's attention stays on the object that the patch belongs to.

The paper shows attention maps and calls R-MAE's more instance-aware (figure 3); this quantifies it.

For an instance, w(j) in [0, 1] is the fraction of patch j's area that its mask covers. Its queries are the
patches with w >= 1/2; an instance without any is skipped and counted. a(q, j) is the attention of query q to
patch j, averaged over the heads (or for one head), without the cls token, normalised to sum 1 over patches.

    share  = mean over the queries of the sum over j of a(q, j) w(j)
    area   = mean over all patches of w: what uniform attention would give

Two kinds of attention unaware of objects also have a large share. The first goes from all patches to
whatever stands out, whichever patch is the query:

    elsewhere = mean over the patches p with w(p) = 0 of the sum over j of a(p, j) w(j)

The second is merely local and stays on the object whatever the image shows. To remove the content,
a'(q, j) is the mean over all queries of the dataset of the attention at the displacement j - q, normalised
to sum 1 over the patches:

    position = mean over the queries of the sum over j of a'(q, j) w(j)

Letters: K instances, L patches, Gh Gw grid, H W pixels.
"""

from collections import defaultdict
from collections.abc import Hashable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..errors import UserError

Floats = NDArray[np.float64]
Bools = NDArray[np.bool_]

#: Fraction of a patch's area that an instance must cover for it to be a query.
QUERY_COVERAGE = 0.5


@dataclass(frozen=True)
class _Instance:
    key: tuple[Hashable, int]  # image and index
    share: float
    elsewhere: float  # NaN if the instance touches every patch
    coverage: NDArray[np.float32]
    queries: NDArray[np.int64]


class AttentionShare:
    """Collects the attention of one model, image by image.

    Attributes:
        too_small: number of instances without a query.
    """

    def __init__(self) -> None:
        self.too_small = 0
        self._instances: list[_Instance] = []
        # By displacement (rows, columns), zero at the centre: sums of attention times L, and their counts.
        self._sums = np.zeros((1, 1))
        self._counts = np.zeros((1, 1))

    def process(self, image: Hashable, attention_LL: Floats, coverage_KGG: Floats) -> None:
        """Adds one image.

        Args:
            attention_LL: from each patch (row) to each, in raster order, without the cls token; rows are
                normalised by their sums here.
            coverage_KGG: w of its instances, (K, Gh, Gw), see `patch_cover`.
        """
        grid = (coverage_KGG.shape[1], coverage_KGG.shape[2])
        covers_KL = coverage_KGG.reshape(len(coverage_KGG), -1)
        if attention_LL.shape != (covers_KL.shape[1],) * 2:
            raise UserError(
                f"attention of shape {attention_LL.shape} for {grid[0]}x{grid[1]} patches"
            )
        attention = attention_LL / attention_LL.sum(axis=1, keepdims=True)
        on_instance_LK = attention @ covers_KL.T
        for k, cover in enumerate(covers_KL):
            queries = np.flatnonzero(cover >= QUERY_COVERAGE)
            if not len(queries):
                self.too_small += 1
                continue
            share = float(on_instance_LK[queries, k].mean())
            others = on_instance_LK[cover == 0, k]
            elsewhere = float(others.mean()) if len(others) else np.nan
            kept = coverage_KGG[k].astype(np.float32)
            self._instances.append(_Instance((image, k), share, elsewhere, kept, queries))
            self._add_displacements(attention, queries, grid)

    def shares(self, beyond_elsewhere: bool = False) -> dict[tuple[Hashable, int], float]:
        """Returns for every instance, by image and index, its share or its share minus elsewhere.

        The latter omits instances that touch every patch.
        """
        if not beyond_elsewhere:
            return {entry.key: entry.share for entry in self._instances}
        known = (entry for entry in self._instances if not np.isnan(entry.elsewhere))
        return {entry.key: entry.share - entry.elsewhere for entry in known}

    def evaluate(self) -> dict[str, Any]:
        """Averages over the instances.

        Returns:
            ``instances``, ``images``, ``too_small``; ``share``, ``area``, ``elsewhere`` and ``position`` in
            [0, 1]; ``beyond_elsewhere`` and ``beyond_position``, the mean differences of share to these; and
            ``*_error`` of the share and the differences, see `clustered_error`. Instances that touch
            every patch do not count for ``elsewhere``; if there are no others, its values are None.
        """
        if not self._instances:
            raise UserError(
                f"no instance covers half a patch ({self.too_small} are smaller): nothing to measure; "
                "use a larger size"
            )
        share = np.array([entry.share for entry in self._instances])
        elsewhere = np.array([entry.elsewhere for entry in self._instances])
        local = np.array([self._position_share(entry) for entry in self._instances])
        images = [entry.key[0] for entry in self._instances]
        known = np.flatnonzero(~np.isnan(elsewhere))
        outside, where = elsewhere[known], [images[i] for i in known]
        return {
            "instances": len(share),
            "images": len(set(images)),
            "too_small": self.too_small,
            "share": float(share.mean()),
            "share_error": clustered_error(share, images),
            "area": float(np.mean([entry.coverage.mean() for entry in self._instances])),
            "elsewhere": float(outside.mean()) if len(known) else None,
            "beyond_elsewhere": float((share[known] - outside).mean()) if len(known) else None,
            "beyond_elsewhere_error": clustered_error(share[known] - outside, where),
            "position": float(local.mean()),
            "beyond_position": float((share - local).mean()),
            "beyond_position_error": clustered_error(share - local, images),
        }

    def _add_displacements(
        self, attention: Floats, queries: NDArray[np.int64], grid: tuple[int, int]
    ) -> None:
        pads = [(max(0, g - 1 - n // 2),) * 2 for g, n in zip(grid, self._sums.shape, strict=True)]
        self._sums, self._counts = np.pad(self._sums, pads), np.pad(self._counts, pads)
        for query in queries:
            window = self._window(int(query), grid)
            self._sums[window] += attention[query].reshape(grid) * len(attention)
            self._counts[window] += 1

    def _window(self, query: int, grid: tuple[int, int]) -> tuple[slice, slice]:
        """Locates an image's patches in the table of displacements from a query."""
        row, column = divmod(query, grid[1])
        top, left = self._sums.shape[0] // 2 - row, self._sums.shape[1] // 2 - column
        return slice(top, top + grid[0]), slice(left, left + grid[1])

    def _position_share(self, entry: _Instance) -> float:
        grid = (entry.coverage.shape[0], entry.coverage.shape[1])
        table = self._sums / np.maximum(self._counts, 1)
        values = []
        for query in entry.queries:
            weights = table[self._window(int(query), grid)]
            values.append(float((weights * entry.coverage).sum() / weights.sum()))
        return float(np.mean(values))


def patch_cover(masks_KHW: Bools, grid: tuple[int, int]) -> Floats:
    """Computes the fraction of each patch's area covered by masks, for a grid over the whole image.

    Pixels that lie in several patches count proportionally.

    Returns:
        float64 (K, Gh, Gw) in [0, 1].
    """
    rows, columns = map(_overlaps, masks_KHW.shape[1:], grid)
    cover: Floats = rows @ masks_KHW.astype(np.float64) @ columns.T
    return cover


def _overlaps(pixels: int, patches: int) -> Floats:
    """(patches, pixels): the fraction of each patch filled by each pixel, along one axis; rows sum to 1."""
    edges = np.arange(patches + 1) * (pixels / patches)
    place = np.arange(pixels)
    ends = np.minimum(edges[1:, None], place + 1) - np.maximum(edges[:-1, None], place)
    overlaps: Floats = ends.clip(0) * (patches / pixels)
    return overlaps


def clustered_error(values: Floats, clusters: list[Hashable]) -> float | None:
    """Standard error of a mean whose values are correlated within clusters, i.e. instances of one image.

    The root of the sum over clusters of (sum over the cluster of value - mean)^2, divided by the number of
    values; None if there are no values.
    """
    if not len(values):
        return None
    sums: dict[Hashable, float] = defaultdict(float)
    for value, cluster in zip(values - values.mean(), clusters, strict=True):
        sums[cluster] += float(value)
    return float(np.sqrt(sum(total**2 for total in sums.values())) / len(values))


def paired_difference(
    one: Mapping[tuple[Hashable, int], float], other: Mapping[tuple[Hashable, int], float]
) -> dict[str, Any]:
    """Returns the mean ``difference`` of two sets of shares over common ``instances``, and its ``error``."""
    common = [key for key in one if key in other]
    if not common:
        raise UserError("no instance in common: nothing to compare")
    values = np.array([one[key] - other[key] for key in common])
    return {
        "difference": float(values.mean()),
        "error": clustered_error(values, [image for image, _ in common]),
        "instances": len(common),
    }
