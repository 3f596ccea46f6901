"""Nested regions: a merge tree of Felzenszwalb-Huttenlocher segments, cut at several levels.

Parts merge into objects, these into groups: FH's criterion is applied again to the graph of adjacent segments
(Felzenszwalb and Huttenlocher 2004; hierarchically, Grundmann et al. 2010). Each segment of a level lies
wholly within one of the next, unlike those of FH at several scales, which computes each partition on its own.
"""

from collections.abc import Sequence
from os import PathLike
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.ndimage import gaussian_filter

from ...errors import UserError
from ..record.codec import Labels
from ..record.record import RegionRecord, narrow_labels
from .felzenszwalb import MAX_PIXELS, CachedSource, felzenszwalb, resolve_implementation


class NestedSource(CachedSource):
    """Region source with one label plane per level of the merge tree, the finest first. Picklable.

    Attributes:
        params: what the regions depend on; stands in each record and keys the cache.
    """

    def __init__(
        self,
        scales: Sequence[int] = (500, 2000, 8000),
        sigma: float = 0.8,
        cache_dir: str | PathLike[str] | None = None,
        max_pixels: int | None = MAX_PIXELS,
        implementation: str | None = None,
    ) -> None:
        """The first scale is FH's on pixels, with the other arguments of `felzenszwalb`.

        Args:
            scales: rising; of the levels. A level's segments have at least so many pixels, if its image has.
            cache_dir: keeps records between epochs and runs; None computes each time.
        """
        self.scales = tuple(int(scale) for scale in scales)
        if not self.scales or self.scales[0] <= 0 or list(self.scales) != sorted(set(self.scales)):
            raise UserError(f"scales={list(self.scales)}: one or more positive numbers that rise")
        self.params: dict[str, Any] = {
            "source": "nested",
            "scales": list(self.scales),
            "sigma": float(sigma),
            "max_pixels": max_pixels,
            "implementation": resolve_implementation(implementation),
            "version": 1,
        }
        self._keep_in(cache_dir)

    def __repr__(self) -> str:
        return (
            f"nested FH regions of scales {self.scales}, computed when first needed, {self._kept}"
        )

    def _compute(self, image_HWC: NDArray[np.uint8]) -> RegionRecord:
        sigma = self.params["sigma"]
        options = {name: self.params[name] for name in ("sigma", "max_pixels", "implementation")}
        (finest,) = felzenszwalb(image_HWC, self.scales[:1], **options)
        image = image_HWC if image_HWC.ndim == 3 else image_HWC[..., None]
        smooth = gaussian_filter(image.astype(np.float32), (sigma, sigma, 0))
        planes = [finest]
        for scale in self.scales[1:]:
            planes.append(merged(planes[-1], smooth, scale))
        return RegionRecord.from_labels(narrow_labels(np.stack(planes)), params=self.params)


def merged(labels: Labels, image_HWC: NDArray[np.float32], scale: float) -> Labels:
    """Merges adjacent segments (H, W), 0 to n - 1, by FH's criterion; again 0 to m - 1 in raster order.

    An edge's weight is the distance of two segments' mean colours. In rising order, two segments merge if it
    is at most the largest weight inside each plus ``scale`` divided by its pixels. Then those of fewer than
    ``scale`` pixels merge with their most similar neighbour.
    """
    flat = labels.ravel()
    areas = np.bincount(flat)
    sums = [np.bincount(flat, channel.ravel()) for channel in np.moveaxis(image_HWC, -1, 0)]
    colours = np.stack(sums, axis=1) / areas[:, None]
    edges = adjacent(labels)
    weights = np.linalg.norm(colours[edges[:, 0]] - colours[edges[:, 1]], axis=1)
    order = np.argsort(weights, kind="stable")
    sets = _Sets(areas)
    for small in (False, True):
        for i in order.tolist():
            a, b = (sets.find(int(x)) for x in edges[i])
            if a == b:
                continue
            if small:
                join = min(sets.area[a], sets.area[b]) < scale
            else:
                limit = min(sets.inner[x] + scale / sets.area[x] for x in (a, b))
                join = weights[i] <= limit
            if join:
                sets.join(a, b, float(weights[i]))
    roots = np.array([sets.find(i) for i in range(len(areas))])[labels]
    _, first, numbers = np.unique(roots, return_index=True, return_inverse=True)
    rank = np.empty(len(first), np.int64)
    rank[np.argsort(first)] = np.arange(len(first))
    return narrow_labels(rank[numbers].reshape(labels.shape))


def adjacent(labels: Labels) -> NDArray[np.int64]:
    """Pairs of labels (H, W) that touch along a side of a pixel, each once, int64 (n, 2), smaller first."""
    pairs = [
        np.stack([one.ravel(), other.ravel()], axis=1).astype(np.int64)
        for one, other in ((labels[:, :-1], labels[:, 1:]), (labels[:-1], labels[1:]))
    ]
    every = np.concatenate(pairs)
    every = every[every[:, 0] != every[:, 1]]
    return np.unique(np.sort(every, axis=1), axis=0)


class _Sets:
    """Disjoint sets of segments, with their areas and largest inner weights."""

    def __init__(self, areas: NDArray[np.int64]) -> None:
        self.parent = list(range(len(areas)))
        self.area = areas.tolist()
        self.inner = [0.0] * len(areas)

    def find(self, i: int) -> int:
        while self.parent[i] != i:
            self.parent[i] = self.parent[self.parent[i]]
            i = self.parent[i]
        return i

    def join(self, a: int, b: int, weight: float) -> None:
        self.parent[b] = a
        self.area[a] += self.area[b]
        self.inner[a] = weight
