"""Felzenszwalb-Huttenlocher (FH) segmentation compiled by numba: exact, many scales at once.

The method: "Efficient Graph-Based Image Segmentation", IJCV 2004. scikit-image's implementation is
reproduced to the last bit, up to the order of equal edges: 8-neighbour grid, smoothing and edge
weights in float64, limits in float32, and a second pass over refused edges that dissolves segments
below the minimum size. Equal edges keep the order of the grid (a stable sort), whereas
scikit-image's order of them depends on the processor.

Why it is fast and small:

- All scales share smoothing, weights and one sort.
- An edge is 8 bytes: a code of its weight in the upper half, `pixel << 2 | direction` in the lower. The code
  is the float64 weight without its lower bits, so it sorts like the weight. Where codes are equal, the weight
  is recomputed from the smoothed image.
- Up to the first edge that a scale refuses, all larger scales merge the same segments. They continue from
  there, without the edges that are inside a segment by then.

Arrays are created in Python and passed to the compiled loops. Importing this module requires numba.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ...errors import UserError
from ..jit import compiled, inlined
from ..record.codec import Labels
from ..record.record import narrow_labels

Floats = NDArray[np.float64]
Words = NDArray[np.uint32]
Edges = NDArray[np.uint64]
Ints = NDArray[np.int64]
# (N,) each. The parent of a pixel, itself at the root of a segment; and, stored at roots: the number of
# pixels, the edge that last merged the segment, and the weight from which on it refuses edges.
Forest = tuple[Words, Words, Words, NDArray[np.float32]]

_MAX_PIXELS = 2**30  # an edge stores its pixel in 30 bits
_CUT = 27  # lower bits of a float64 that a code omits; 25 bits of the fraction remain
_LEAST = np.uint64((1023 - 96) << (52 - _CUT))  # weights up to 2**-96 have code 0
_ROUNDING = 1e-6  # relative, far above the errors of a code and of a float32 limit
_PARTS = 64  # scattering into more than that misses the cache at every step
_TOP_BITS = 12  # of a code: they determine an edge's part
_DIGIT = 11  # bits per sorting pass; three passes cover a code
_MASK = (1 << _DIGIT) - 1
_SHORT = 48  # up to this many edges are sorted by insertion
_NONE = np.uint32(0xFFFFFFFF)


def segment(image_HWC: NDArray[np.uint8], scales: Sequence[float], sigma: float) -> list[Labels]:
    """Partition an image at each scale, with a minimum size of int(scale) pixels: see `felzenszwalb`.

    Needs at most about 105 bytes per pixel for three channels, and 8 more for each further channel. The image
    may have any strides; UserError above 2**30 pixels. Returns one plane (H, W) per scale.
    """
    height, width = image_HWC.shape[:2]
    if height * width > _MAX_PIXELS:
        raise UserError(
            f"image of {width}x{height} pixels: implementation 'numba' takes at most "
            f"{_MAX_PIXELS}; set max_pixels, or take 'scikit-image'"
        )
    # By direction (right, down, down-right, up-right): offsets from a pixel to both ends of the edge.
    ends = np.array([[0, 0, 0, width], [1, width, width + 1, 1]], np.uint32)
    smooth_CHW = smooth(image_HWC, sigma)
    edges = _sort_edges(smooth_CHW, ends)
    smooth_CN = smooth_CHW.reshape(len(smooth_CHW), -1)
    planes: dict[float, Labels] = {}
    parent = np.arange(height * width, dtype=np.uint32)
    size, heaviest = np.ones_like(parent), np.full_like(parent, _NONE)
    limit = np.empty(len(parent), np.float32)
    for scale in sorted(set(scales)):
        unit = float(scale) / 255  # the paper's k for intensities in 0..1
        forest = (parent, size, heaviest, limit)
        _set_limits(forest, unit, smooth_CN, ends)
        if scale < max(scales):
            refused = np.empty(1, np.uint32)
            seen, count = _merge(edges, forest, unit, smooth_CN, ends, refused)
            edges = edges[seen - count :]
            _flatten(parent)
            edges = edges[: _drop_inner(edges, parent, ends)]
            forest = (parent.copy(), size.copy(), heaviest.copy(), limit.copy())
        refused = np.empty(len(edges), np.uint32)
        _, count = _merge(edges, forest, unit, smooth_CN, ends, refused)
        labels, work = forest[:2]
        _absorb(refused[:count], labels, work, int(scale), ends)
        _flatten(labels)
        _number(labels, work)
        planes[scale] = narrow_labels(labels.reshape(height, width))
        del forest, labels, work, refused  # before the next scale allocates as much again
    return [planes[scale] for scale in scales]


def warm_up() -> None:
    """Compile everything, or load it from numba's cache; this takes seconds or half a second."""
    segment(np.zeros((2, 2, 1), np.uint8), (1, 2), 0.0)


def smooth(image_HWC: NDArray[np.uint8], sigma: float) -> Floats:
    """Smooth an image, uint8 of any strides, scaled to 0..1, by sigma pixels; float64 (C, H, W).

    Equals `scipy.ndimage.gaussian_filter` with scipy's defaults (mirrored borders, cut off at four
    sigma) on the image divided by 255.
    """
    height, width, channels = image_HWC.shape
    radius = int(4 * sigma + 0.5)
    taps = np.ones(1)
    if radius:
        taps = np.exp(-0.5 / (sigma * sigma) * np.arange(-radius, radius + 1) ** 2)
        taps /= taps.sum()
    out_CHW = np.empty((channels, height, width))
    ring = np.empty((len(taps), width))
    line = np.empty(width + 2 * radius)
    # To numba, a read-only array is another type, for which it would compile again.
    _convolve(np.require(image_HWC, requirements=["C", "W"]), taps, ring, line, out_CHW)
    return out_CHW


@inlined
def _reflect(index: int, length: int) -> int:
    """Index into a line that is extended by mirroring, with its ends repeated."""
    index %= 2 * length
    return min(index, 2 * length - 1 - index)


@compiled
def _convolve(
    image_HWC: NDArray[np.uint8], taps: Floats, ring: Floats, line: Floats, out_CHW: Floats
) -> None:
    """Convolve columns, then rows. Sums run from the outermost pair of taps inwards, as in scipy.

    Work space: `ring` (2 * radius + 1, W), the rows around the current one, and `line`
    (W + 2 * radius,), one row extended on both sides.
    """
    height, width, channels = image_HWC.shape
    count = len(taps)
    radius = count // 2
    for c in range(channels):
        for top in range(-2 * radius, height):
            # Row y of the extended image is in ring[(y + radius) % count]; this reads the last
            # one that output row `top` needs, whose first one is `top - radius`.
            row = ring[(top + 2 * radius) % count]
            source = image_HWC[_reflect(top + radius, height), :, c]
            for x in range(width):
                row[x] = source[x] * (1.0 / 255)
            if top < 0:
                continue
            middle = line[radius : radius + width]
            centre = ring[(top + radius) % count]
            for x in range(width):
                middle[x] = centre[x] * taps[radius]
            for i in range(radius):
                above, below = ring[(top + i) % count], ring[(top + 2 * radius - i) % count]
                for x in range(width):
                    middle[x] += (above[x] + below[x]) * taps[i]
            for i in range(1, radius + 1):
                line[radius - i] = middle[_reflect(-i, width)]
                line[radius + width - 1 + i] = middle[_reflect(width - 1 + i, width)]
            out = out_CHW[c, top]
            for x in range(width):
                out[x] = middle[x] * taps[radius]
            for i in range(radius):
                left, right = line[i : i + width], line[2 * radius - i : 2 * radius - i + width]
                for x in range(width):
                    out[x] += (left[x] + right[x]) * taps[i]


def _sort_edges(smooth_CHW: Floats, ends: Words) -> Edges:
    """Edges from lightest to heaviest, equal ones in grid order."""
    _, height, width = smooth_CHW.shape
    right, down = height * (width - 1), (height - 1) * width
    codes = np.empty(right + down + 2 * (height - 1) * (width - 1), np.uint32)
    _weigh(smooth_CHW, np.empty(width), codes)
    counts = np.zeros(1 << _TOP_BITS, np.int64)
    _count_top(codes, counts)
    lighter = np.cumsum(counts) - counts
    part = lighter * _PARTS // max(1, len(codes))  # nearly equal parts, the lightest first
    sizes = np.bincount(part, weights=counts).astype(np.int64)
    stops = np.cumsum(sizes)
    edges = np.empty(len(codes), np.uint64)
    _list_edges(codes, height, width, part.astype(np.uint8), stops - sizes, edges)
    del codes
    spare = np.empty(sizes.max(), np.uint64)
    digits = np.empty((3, 1 << _DIGIT), np.int64)
    smooth_CN = smooth_CHW.reshape(len(smooth_CHW), -1)
    _sort_parts(edges, stops, spare, digits, smooth_CN, ends)
    return edges


@compiled
def _weigh(smooth_CHW: Floats, line: Floats, out: Words) -> None:
    """Codes of the Euclidean distances: all edges right, all down, down-right, up-right."""
    channels, height, width = smooth_CHW.shape
    at = 0
    for direction in range(4):
        dy, dx = (0 if direction == 0 else 1), (0 if direction == 1 else 1)
        length = width - dx
        for y in range(height - dy):
            squares = line[:length]
            squares[:] = 0.0
            for c in range(channels):
                if direction < 3:
                    one, two = smooth_CHW[c, y, :length], smooth_CHW[c, y + dy, dx:]
                else:
                    one, two = smooth_CHW[c, y + 1, :length], smooth_CHW[c, y, 1:]
                for x in range(length):
                    squares[x] += (one[x] - two[x]) * (one[x] - two[x])
            row = out[at : at + length]
            for x in range(length):
                squares[x] = np.sqrt(squares[x])
            bits = squares.view(np.uint64)
            for x in range(length):
                row[x] = max(bits[x] >> np.uint64(_CUT), _LEAST) - _LEAST
            at += length


@compiled
def _count_top(codes: Words, counts: Ints) -> None:
    for i in range(len(codes)):
        counts[codes[i] >> np.uint32(32 - _TOP_BITS)] += 1


@compiled
def _list_edges(
    codes: Words, height: int, width: int, part: NDArray[np.uint8], place: Ints, out: Edges
) -> None:
    """Create the edges in grid order, each in the part of its weight."""
    i = 0
    for direction in range(4):
        dy, dx = (0 if direction == 0 else 1), (0 if direction == 1 else 1)
        for y in range(height - dy):
            edge = np.uint64((y * width) << 2 | direction)
            for _ in range(width - dx):
                to = part[codes[i] >> np.uint32(32 - _TOP_BITS)]
                out[place[to]] = np.uint64(codes[i]) << np.uint64(32) | edge
                place[to] += 1
                edge += np.uint64(4)
                i += 1


@compiled
def _sort_parts(
    edges: Edges, stops: Ints, spare: Edges, digits: Ints, smooth_CN: Floats, ends: Words
) -> None:
    start = 0
    for stop in stops:
        _sort_run(edges[start:stop], spare, digits)
        _settle_equal(edges[start:stop], spare, digits, smooth_CN, ends)
        start = stop


@compiled
def _sort_run(run: Edges, spare: Edges, counts: Ints) -> None:
    """Stable radix sort by the upper half."""
    counts[:] = 0
    for i in range(len(run)):
        value = run[i] >> np.uint64(32)
        counts[0, value & np.uint64(_MASK)] += 1
        counts[1, value >> np.uint64(_DIGIT) & np.uint64(_MASK)] += 1
        counts[2, value >> np.uint64(2 * _DIGIT)] += 1
    source, target = run, spare[: len(run)]
    for digit in range(3):
        place = counts[digit]
        shift = np.uint64(32 + digit * _DIGIT)
        if len(run) == 0 or place[run[0] >> shift & np.uint64(_MASK)] == len(run):
            continue
        total = 0
        for i in range(len(place)):
            total, place[i] = total + place[i], total
        for i in range(len(source)):
            to = source[i] >> shift & np.uint64(_MASK)
            target[place[to]] = source[i]
            place[to] += 1
        source, target = target, source
    run[:] = source


@inlined
def _exact_weight(edge: Any, smooth_CN: Floats, ends: Words) -> float:
    """Float64 weight of an edge, identical to the bit to when it was coded."""
    one = np.uint32(np.uint64(edge) >> np.uint64(2) & np.uint64(0x3FFFFFFF))
    direction = np.uint32(edge) & np.uint32(3)
    a, b = one + ends[0, direction], one + ends[1, direction]
    total = 0.0
    for c in range(len(smooth_CN)):
        difference = smooth_CN[c, a] - smooth_CN[c, b]
        total += difference * difference
    return np.sqrt(total)


@compiled
def _settle_equal(edges: Edges, spare: Edges, digits: Ints, smooth_CN: Floats, ends: Words) -> None:
    """Sort edges with equal codes; for this, they temporarily carry the bits that their code lacks."""
    low = np.uint64(0xFFFFFFFF)
    lacking = np.uint64((1 << _CUT) - 1)
    count = len(edges)
    stop = 1
    while stop < count:
        start = stop - 1
        code = edges[start] >> np.uint64(32)
        if edges[stop] >> np.uint64(32) == code:
            while stop < count and edges[stop] >> np.uint64(32) == code:
                stop += 1
            if code == 0:
                continue
            for i in range(start, stop):
                exact = np.float64(_exact_weight(edges[i], smooth_CN, ends)).view(np.uint64)
                edges[i] = (exact & lacking) << np.uint64(32) | edges[i] & low
            if stop - start <= _SHORT:
                _sort_short(edges, start, stop)
            else:
                _sort_run(edges[start:stop], spare, digits)
            for i in range(start, stop):
                edges[i] = code << np.uint64(32) | edges[i] & low
        stop += 1


@inlined
def _sort_short(edges: Edges, start: int, stop: int) -> None:
    """Insertion sort by the upper half."""
    for i in range(start + 1, stop):
        edge = edges[i]
        j = i
        while j > start and edges[j - 1] >> np.uint64(32) > edge >> np.uint64(32):
            edges[j] = edges[j - 1]
            j -= 1
        edges[j] = edge


@inlined
def _find(parent: Words, node: Any) -> Any:
    """Find the root of a node, halving the path on the way."""
    above = parent[node]
    while above != node:
        top = parent[above]
        parent[node] = top
        node = top
        above = parent[node]
    return node


@compiled
def _set_limits(forest: Forest, scale: float, smooth_CN: Floats, ends: Words) -> None:
    """Set the weight from which on a segment accepts no edge: its heaviest plus scale / size."""
    parent, size, heaviest, limit = forest
    for node in range(len(parent)):
        if parent[node] == node:
            inner = 0.0
            if heaviest[node] != _NONE:
                inner = _exact_weight(heaviest[node], smooth_CN, ends)
            limit[node] = inner + scale / size[node]


@compiled
def _merge(
    edges: Edges, forest: Forest, scale: float, smooth_CN: Floats, ends: Words, refused: Words
) -> tuple[int, int]:
    """Merge along edges until all are seen or `refused` is full; return the numbers seen and refused."""
    parent, size, heaviest, limit = forest
    count = 0
    for i in range(len(edges)):
        if count == len(refused):
            return i, count
        edge = np.uint32(edges[i])
        node = edge >> np.uint32(2)
        direction = edge & np.uint32(3)
        a = _find(parent, np.uint32(node + ends[0, direction]))
        b = _find(parent, np.uint32(node + ends[1, direction]))
        if a == b:
            continue
        code = edges[i] >> np.uint64(32)
        weight = np.uint64(code + _LEAST << np.uint64(_CUT)).view(np.float64)
        lowest = min(limit[a], limit[b])
        accepted = weight < lowest
        if abs(weight - lowest) <= _ROUNDING * lowest:
            for root in (a, b):
                if heaviest[root] != _NONE:
                    inner = _exact_weight(heaviest[root], smooth_CN, ends)
                    limit[root] = inner + scale / size[root]
            accepted = _exact_weight(edge, smooth_CN, ends) < min(limit[a], limit[b])
        if not accepted:
            refused[count] = edge
            count += 1
            continue
        if size[a] < size[b]:
            a, b = b, a
        parent[b] = a
        size[a] += size[b]
        heaviest[a] = edge
        limit[a] = weight + scale / size[a]
    return len(edges), count


@compiled
def _absorb(refused: Words, parent: Words, size: Words, min_size: int, ends: Words) -> None:
    """Merge segments below the minimum size along the edges refused before."""
    for i in range(len(refused)):
        node = refused[i] >> np.uint32(2)
        direction = refused[i] & np.uint32(3)
        a = _find(parent, np.uint32(node + ends[0, direction]))
        b = _find(parent, np.uint32(node + ends[1, direction]))
        if a == b or (size[a] >= min_size and size[b] >= min_size):
            continue
        if size[a] < size[b]:
            a, b = b, a
        parent[b] = a
        size[a] += size[b]


@compiled
def _flatten(parent: Words) -> None:
    for node in range(len(parent)):
        parent[node] = _find(parent, np.uint32(node))


@compiled
def _drop_inner(edges: Edges, parent: Words, ends: Words) -> int:
    """Move the edges between different segments of a flat forest to the front; return their number."""
    count = 0
    for i in range(len(edges)):
        edge = edges[i]
        node = np.uint32(edge) >> np.uint32(2)
        direction = np.uint32(edge) & np.uint32(3)
        a = parent[np.uint32(node + ends[0, direction])]
        b = parent[np.uint32(node + ends[1, direction])]
        edges[count] = edge
        count += a != b
    return count


@compiled
def _number(parent: Words, label: Words) -> None:
    """Turn parents into labels 0..n-1 by first appearance. `label` is work space."""
    label[:] = _NONE
    count = np.uint32(0)
    for node in range(len(parent)):
        root = parent[node]
        if label[root] == _NONE:
            label[root] = count
            count += np.uint32(1)
        parent[node] = label[root]
