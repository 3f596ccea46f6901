"""Attention maps and features drawn over their photo.

Letters: H W pixels, Gh Gw grid of patches, D width.
"""

from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw

from ..errors import UserError

Picture = NDArray[np.uint8]

# Opacity of the heat over the gray photo.
_OPACITY = 0.65
_GREEN = (60, 255, 60)


class Query(NamedTuple):
    """A position in a photo, in pixels from the top left; None, None is the cls token of the whole photo."""

    x: int | None
    y: int | None

    def __str__(self) -> str:
        return "cls token" if self.x is None else f"patch at {self.x},{self.y}"


def patch_of(query: Query, size: tuple[int, int], grid: tuple[int, int]) -> tuple[int, int] | None:
    """Returns (row, column) of the patch at a pixel of an image (H, W) covered by the grid; None for cls."""
    if query.x is None or query.y is None:
        return None
    if not (0 <= query.x < size[1] and 0 <= query.y < size[0]):
        raise UserError(
            f"query {query.x},{query.y} lies outside of the image of {size[1]}x{size[0]} (width x height)"
        )
    return query.y * grid[0] // size[0], query.x * grid[1] // size[1]


def draw_query(
    picture_HWC: Picture, patch: tuple[int, int] | None, grid: tuple[int, int]
) -> Picture:
    """Frames the patch at (row, column) in the picture; without one, returns it unchanged."""
    if patch is None:
        return picture_HWC
    picture = Image.fromarray(picture_HWC)
    height, width = picture.height / grid[0], picture.width / grid[1]
    left, top = round(patch[1] * width), round(patch[0] * height)
    right, bottom = round((patch[1] + 1) * width) - 1, round((patch[0] + 1) * height) - 1
    thick = max(2, round(max(picture.size) / 160))
    draw = ImageDraw.Draw(picture)
    # Green on green would be invisible.
    draw.rectangle((left, top, right, bottom), outline="black", width=thick + 1)
    draw.rectangle((left, top, right, bottom), outline=_GREEN, width=thick)
    return np.asarray(picture)


def draw_attention(
    image_HWC: Picture,
    attention_GG: NDArray[np.floating[Any]],
    patch: tuple[int, int] | None = None,
) -> Picture:
    """Draws heat over the gray photo: dark for 0, through red and yellow to light.

    The scale is the map's own, from 0 to its 98th percentile, because a few patches often draw most of it.

    The attention (Gh, Gw) is non-negative, for the patches that cover the photo, uint8 (H, W, 3). The query's
    patch at (row, column) is framed; None for the cls token.
    """
    from matplotlib import colormaps

    scale = float(np.percentile(attention_GG, 98)) or 1.0
    heat = colormaps["inferno"](np.clip(attention_GG / scale, 0, 1))[:, :, :3]
    gray = Image.fromarray(image_HWC).convert("L").convert("RGB")
    large = _enlarged((heat * 255).round().astype(np.uint8), gray.size)
    picture = np.asarray(Image.blend(gray, large, _OPACITY))
    return draw_query(picture, patch, (attention_GG.shape[0], attention_GG.shape[1]))


def draw_components(features_GGD: NDArray[np.floating[Any]], size: tuple[int, int]) -> Picture:
    """Draws features as colours: their first three principal components over the patches as red, green, blue.

    The components are specific to this image, so colours of two pictures are not comparable. A component's
    sign, which is arbitrary, is chosen to make its skewness positive (else its entry of largest magnitude),
    and its scale is linear from its 2nd to its 98th percentile. All patches count, including background.

    Takes (Gh, Gw, D), at least 4 patches, and returns a picture of (H, W).
    """
    shares = principal_components(features_GGD.reshape(-1, features_GGD.shape[2]), 3)
    low, high = np.percentile(shares, [2, 98], axis=0)
    scaled = np.clip((shares - low) / np.maximum(high - low, 1e-12), 0, 1)
    colours = (scaled * 255).round().astype(np.uint8).reshape(*features_GGD.shape[:2], 3)
    return np.asarray(_enlarged(colours, (size[1], size[0])))


def principal_components(features_LD: NDArray[np.floating[Any]], count: int) -> NDArray[np.float64]:
    """Projects patches on the first principal components, (L, count), zero mean; 0 if there are fewer.

    Signs are fixed as described in `draw_components`.
    """
    centred = features_LD.astype(np.float64) - features_LD.mean(axis=0, dtype=np.float64)
    left, singular, _ = np.linalg.svd(centred, full_matrices=False)
    parts = np.zeros((len(features_LD), count))
    found = min(count, len(singular))
    parts[:, :found] = left[:, :found] * singular[:found]
    for column in parts.T:
        skewness = (column**3).sum()
        largest = column[np.abs(column).argmax()]
        clear = abs(skewness) > 1e-6 * (np.abs(column) ** 3).sum()
        if (skewness if clear else largest) < 0:
            column *= -1
    return parts


def _enlarged(patches_GGC: Picture, size: tuple[int, int]) -> Image.Image:
    return Image.fromarray(patches_GGC).resize(size, Image.Resampling.NEAREST)
