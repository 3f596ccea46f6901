"""From what a person draws on an image to patches that are known to be in a region, or outside it.

Letters: H W pixels, Gh Gw grid over the whole image, n points.
"""

import numpy as np
from numpy.typing import ArrayLike, NDArray

from ..errors import UserError

UNKNOWN, OUTSIDE, INSIDE = -1, 0, 1


def label_patches(
    grid: tuple[int, int],
    image_size: tuple[int, int],
    *,
    points: ArrayLike | None = None,
    labels: ArrayLike | None = None,
    box: ArrayLike | None = None,
    scribble: ArrayLike | None = None,
    patches: ArrayLike | None = None,
    negative_patches: ArrayLike | None = None,
) -> NDArray[np.int8]:
    """What is known of each patch; arguments as of :meth:`rmae_d2.engine.RegionPromptPredictor.prompt`.

    Returns:
        (Gh, Gw): 1 inside the region, 0 outside, -1 unknown.

    Raises:
        UserError: points, patches or a box outside the image, and lengths that differ.
    """
    known = np.full(grid, UNKNOWN, np.int8)
    if box is not None:
        _mark_box(known, np.asarray(box, np.float64), image_size)
    if scribble is not None:
        line = _pairs(scribble, "scribble", "(x, y) points")
        _check_inside(line, image_size)
        for row, column in patches_of(_sampled(line, grid, image_size), grid, image_size):
            known[row, column] = INSIDE
    for chosen, name, value in (
        (patches, "patches", INSIDE),
        (negative_patches, "negative_patches", OUTSIDE),
    ):
        if chosen is not None:
            for row, column in _checked_patches(chosen, name, grid):
                known[row, column] = value
    if points is not None:
        _mark_points(known, points, labels, image_size)
    elif labels is not None:
        raise UserError("labels are given without points")
    return known


def patches_of(
    points: NDArray[np.float64], grid: tuple[int, int], image_size: tuple[int, int]
) -> NDArray[np.int64]:
    """(row, column) of the patches under points (n, 2) of (x, y): pixel (x, y) counts by its centre."""
    (Gh, Gw), (H, W) = grid, image_size
    centres = np.floor(points) + 0.5
    columns, rows = centres[:, 0] * Gw / W, centres[:, 1] * Gh / H
    return np.stack([rows, columns], axis=1).astype(np.int64)


def _mark_points(
    known: NDArray[np.int8],
    points: ArrayLike,
    labels: ArrayLike | None,
    image_size: tuple[int, int],
) -> None:
    places = _pairs(points, "points", "(x, y)")
    _check_inside(places, image_size)
    values = np.ones(len(places)) if labels is None else np.asarray(labels)
    if values.shape != (len(places),):
        raise UserError(f"{len(places)} points with labels of shape {values.shape}: one a point")
    if not np.isin(values, (0, 1)).all():
        raise UserError("labels are 1 (in the region) or 0 (outside)")
    rows_columns = patches_of(places, known.shape, image_size)
    for (row, column), value in zip(rows_columns, values, strict=True):
        known[row, column] = INSIDE if value else OUTSIDE


def _mark_box(
    known: NDArray[np.int8], box: NDArray[np.float64], image_size: tuple[int, int]
) -> None:
    (Gh, Gw), (H, W) = known.shape, image_size
    if box.shape != (4,) or not np.isfinite(box).all():
        raise UserError(f"a box is (x0, y0, x1, y1) in pixels, not {box.tolist()}")
    x0, y0, x1, y1 = np.clip(box, 0, (W, H, W, H))
    if x0 >= x1 or y0 >= y1:
        raise UserError(
            f"the box {box.tolist()} holds nothing of an image of {W} x {H} pixels (width x height); "
            "it is (x0, y0, x1, y1) with x0 < x1 and y0 < y1"
        )
    top, left = int(y0 * Gh / H), int(x0 * Gw / W)
    bottom, right = int(np.ceil(y1 * Gh / H)), int(np.ceil(x1 * Gw / W))
    ring = known[max(top - 1, 0) : bottom + 1, max(left - 1, 0) : right + 1]
    ring[:] = OUTSIDE
    known[top:bottom, left:right] = UNKNOWN
    known[int((y0 + y1) / 2 * Gh / H), int((x0 + x1) / 2 * Gw / W)] = INSIDE


def _sampled(
    line: NDArray[np.float64], grid: tuple[int, int], image_size: tuple[int, int]
) -> NDArray[np.float64]:
    """Points along a line, denser than pixels and than a quarter of a patch."""
    (Gh, Gw), (H, W) = grid, image_size
    pieces = [line[:1]]
    for start, end in zip(line[:-1], line[1:], strict=True):
        pixels = np.abs(end - start)
        steps = int(np.ceil(min(pixels.max(), 4 * (pixels * [Gw / W, Gh / H]).max()))) + 1
        pieces.append(start + (end - start) * np.linspace(0, 1, steps + 1)[1:, None])
    return np.concatenate(pieces)


def _pairs(values: ArrayLike, name: str, what: str) -> NDArray[np.float64]:
    array = np.asarray(values, np.float64)
    if array.size == 0:
        return np.zeros((0, 2))
    if array.ndim != 2 or array.shape[1] != 2 or not np.isfinite(array).all():
        raise UserError(f"{name} of shape {array.shape}: finite numbers (n, 2), {what}")
    return array


def _check_inside(points: NDArray[np.float64], image_size: tuple[int, int]) -> None:
    H, W = image_size
    outside = (points < 0).any(axis=1) | (points >= (W, H)).any(axis=1)
    if outside.any():
        x, y = points[outside][0]
        raise UserError(
            f"the point (x, y) = ({x:g}, {y:g}) is outside the image of {W} x {H} pixels (width x height)"
        )


def _checked_patches(values: ArrayLike, name: str, grid: tuple[int, int]) -> NDArray[np.int64]:
    array = _pairs(values, name, "(row, column)")
    for row, column in array:
        if not (0 <= row < grid[0] and 0 <= column < grid[1]):
            raise UserError(
                f"{name} has (row, column) = ({row:g}, {column:g}), outside the grid of {grid[0]} x {grid[1]}"
            )
    return array.astype(np.int64)
