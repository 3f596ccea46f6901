"""Refine a region's edge to the image: a random walk over small segments, from seeds and a prior.

Felzenszwalb and Huttenlocher's segments are nodes; neighbours are connected with a weight from the length of
their common border and the similarity of their colours; and seeds and a prior spread over these edges:
Grady's random walker with priors (CVPR 2005) on segments in place of pixels. Letters: h w pixels of the
segment map, n segments.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from scipy.ndimage import distance_transform_edt, find_objects
from scipy.sparse import coo_matrix, csr_matrix, diags
from scipy.sparse.linalg import spsolve

from .sources.felzenszwalb import felzenszwalb

#: Longest side of the segment map; larger images are reduced.
LONGEST_SIDE = 384

#: Prior for a segment about which nothing is known.
UNINFORMED = 0.2

# Chosen on 60 objects of the rendered scenes' training split, see docs/interactive.md.
_SCALE = 25  # of the segments, and their minimum size in pixels
_COLOUR = 80.0  # difference of mean values, 0 to 255 per channel, at which a weight is 1/e
_LEAST_TIE = 0.01  # per pixel of border, whatever the colours
_PRIOR_WEIGHT = 0.01  # per pixel of a segment


@dataclass(frozen=True)
class SegmentGraph:
    """Small segments of an image and the strength of the connections between neighbours.

    Args:
        labels: int64 (h, w), 0..n-1.
        areas: float64 (n,), pixels.
        laplacian: sparse (n, n), of the graph with these weights.
    """

    labels: NDArray[np.int64]
    areas: NDArray[np.float64]
    laplacian: csr_matrix

    def means(self, values: NDArray[np.floating]) -> NDArray[np.float64]:
        """Means of values (h, w) over each segment, (n,)."""
        return _means(self.labels, values, self.areas)


def segment_graph(image_HWC: NDArray[np.uint8]) -> SegmentGraph:
    """Build the graph of an image uint8 (H, W, C), reduced to at most ``LONGEST_SIDE`` pixels per side."""
    image = _reduced(image_HWC)
    labels = felzenszwalb(image, [_SCALE])[0].astype(np.int64)
    areas = np.bincount(labels.ravel()).astype(np.float64)
    n = len(areas)
    channels = range(image.shape[2])
    colours = np.stack([_means(labels, image[..., c], areas) for c in channels], axis=1)
    borders = [(labels[:-1], labels[1:]), (labels[:, :-1], labels[:, 1:])]
    pairs = np.concatenate([np.stack([a[a != b], b[a != b]]) for a, b in borders], axis=1)
    pairs.sort(axis=0)
    keys, lengths = np.unique(pairs[0] * n + pairs[1], return_counts=True)
    one, other = keys // n, keys % n
    difference = np.linalg.norm(colours[one] - colours[other], axis=1)
    ties = lengths * (_LEAST_TIE + np.exp(-((difference / _COLOUR) ** 2)))
    rows, columns = np.concatenate([one, other]), np.concatenate([other, one])
    weights = coo_matrix((np.tile(ties, 2), (rows, columns)), shape=(n, n)).tocsr()
    sums = np.asarray(weights.sum(axis=1)).ravel()
    return SegmentGraph(labels, areas, (diags(sums) - weights).tocsr())


def walk(
    graph: SegmentGraph, prior: NDArray[np.float64], seeds: NDArray[np.int8]
) -> NDArray[np.float64]:
    """Probabilities of a region's pixels, (h, w) in [0, 1].

    A segment with seeds of one kind gets their value; one with both kinds is divided: each of its pixels
    follows the nearest seed in it. The others minimize the squared differences between neighbours, weighted
    by their connection, and to the prior, weighted by area.

    Args:
        graph: the image's segments.
        prior: (n,), for each segment, in [0, 1].
        seeds: (h, w), 1 in the region, 0 outside it, -1 unknown.
    """
    n = len(graph.areas)
    inside = np.bincount(graph.labels[seeds == 1], minlength=n) > 0
    outside = np.bincount(graph.labels[seeds == 0], minlength=n) > 0
    free = inside == outside  # without seeds, or with both kinds
    found = inside.astype(np.float64)
    if free.any():
        weight = _PRIOR_WEIGHT * graph.areas
        system = (graph.laplacian + diags(weight)).tocsr()[free]
        known = (weight * prior)[free] - system[:, ~free] @ found[~free]
        found[free] = spsolve(system[:, free].tocsc(), known)
    map_: NDArray[np.float64] = found.clip(0, 1)[graph.labels]
    for label in np.flatnonzero(inside & outside):
        divide(map_, graph.labels == label, seeds)
    return map_


def place_seeds(seeds: NDArray[np.int8], size: tuple[int, ...]) -> NDArray[np.int8]:
    """Transfer seeds (H, W), see `walk`, to a map of another size, losing none; on conflicts, 1 wins."""
    placed = np.full(size, -1, np.int8)
    for value in (0, 1):
        rows, columns = np.nonzero(seeds == value)
        placed[rows * size[0] // seeds.shape[0], columns * size[1] // seeds.shape[1]] = value
    return placed


def divide(map_: NDArray, segment: NDArray[np.bool_], seeds: NDArray[np.int8]) -> None:
    """Set a segment's pixels in a map, in place, to its nearest seed, 1 or 0; all arguments are (h, w)."""
    (box,) = find_objects(segment.astype(np.int8))
    own = np.where(segment[box], seeds[box], -1)
    nearest = distance_transform_edt(own < 0, return_distances=False, return_indices=True)
    map_[box][segment[box]] = (own[tuple(nearest)] == 1)[segment[box]]


def _reduced(image_HWC: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """Average down to ``LONGEST_SIDE``, if larger."""
    height, width, channels = image_HWC.shape
    factor = LONGEST_SIDE / max(height, width)
    if factor >= 1:
        return image_HWC
    size = max(round(width * factor), 1), max(round(height * factor), 1)
    planes = [Image.fromarray(np.ascontiguousarray(image_HWC[..., c])) for c in range(channels)]
    return np.stack([np.asarray(p.resize(size, Image.Resampling.BOX)) for p in planes], axis=2)


def _means(
    labels: NDArray[np.int64], values: NDArray, areas: NDArray[np.float64]
) -> NDArray[np.float64]:
    sums = np.bincount(labels.ravel(), values.ravel().astype(np.float64), minlength=len(areas))
    means: NDArray[np.float64] = sums / areas
    return means
