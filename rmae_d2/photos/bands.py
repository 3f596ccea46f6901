"""Images with any number of channels and any bit depth: satellite and microscopy TIFFs, 16-bit PNGs.

Letters: H W pixels, C bands.
"""

import io
import os
from collections.abc import Callable, Iterable
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..errors import UserError
from ..extras import needed
from ..pixels import exif_orientation, open_image, upright_rgb

#: The tags for GDAL's nodata value and TIFF's orientation.
_GDAL_NODATA, _ORIENTATION = 42113, 274
_TIFF = (b"II*\0", b"MM\0*", b"II+\0", b"MM\0+")
_PNG = b"\x89PNG"
#: Quantiles of a band's values that a picture shows as black and as white.
_DARKEST, _BRIGHTEST = 0.02, 0.98

_TURNS: dict[int, Callable[[NDArray[Any]], NDArray[Any]]] = {
    2: lambda a: a[:, ::-1],
    3: lambda a: a[::-1, ::-1],
    4: lambda a: a[::-1],
    5: lambda a: a.swapaxes(0, 1),
    6: lambda a: np.rot90(a, -1),
    7: lambda a: a.swapaxes(0, 1)[::-1, ::-1],
    8: lambda a: np.rot90(a),
}


def is_tiff(raw: bytes) -> bool:
    """Check the first bytes."""
    return raw.startswith(_TIFF)


def read_bands(raw: bytes) -> NDArray[Any]:
    """Read all channels of an image file as stored, upright.

    A TIFF's bands are its samples per pixel, or its pages if these all have the same size. A PNG's bands are
    its channels; other formats give whatever Pillow reads. Palettes become RGB.

    Returns:
        writable (H, W, C): uint8 for 8-bit data; otherwise float32, with NaN where the GDAL tag of a TIFF
        marks missing data.

    Raises:
        UserError: a required package is missing, or the values are complex.
    """
    if is_tiff(raw):
        values = _of_tiff(raw)
    elif raw.startswith(_PNG):
        values = _codecs().png_decode(raw)
    else:
        values = _of_pillow(raw)
    values = values if values.ndim == 3 else values[..., None]
    if values.dtype.kind not in "buif":
        raise UserError(f"its pixels are {values.dtype}, not real numbers")
    wanted = np.uint8 if values.dtype in (np.uint8, np.bool_) else np.float32
    return np.array(values, wanted, order="C")


def _of_tiff(raw: bytes) -> NDArray[Any]:
    tifffile = _package("tifffile")
    with tifffile.TiffFile(io.BytesIO(raw)) as file:
        series = file.series[0]
        values = series.asarray()
        # Rows and columns first; all other axes (samples, pages, channels, depths) become bands.
        rows, columns = series.axes.index("Y"), series.axes.index("X")
        values = np.moveaxis(values, (rows, columns), (0, 1))
        values = values.reshape(*values.shape[:2], -1)
        tags = file.pages[0].tags
        absent = tags.get(_GDAL_NODATA)
        if absent is not None:
            values = _without(values, str(absent.value))
        turn = tags.get(_ORIENTATION)
        return _TURNS.get(1 if turn is None else int(turn.value), np.asarray)(values)


def _without(values: NDArray[Any], nodata: str) -> NDArray[np.float32]:
    try:
        number = float(nodata.strip("\0 "))
    except ValueError as error:
        raise UserError(f"its tag for no data, GDAL_NODATA, says {nodata!r}, no number") from error
    return np.where(values == np.asarray(number).astype(values.dtype), np.nan, values).astype(
        np.float32
    )


def _of_pillow(raw: bytes) -> NDArray[Any]:
    with open_image(io.BytesIO(raw)) as image:
        image.load()
        if image.mode in ("P", "CMYK", "YCbCr", "LAB", "HSV") or exif_orientation(image) not in (
            1,
            None,
        ):
            return upright_rgb(image)
        return np.array(image)


def as_bytes(bands_HWC: NDArray[Any]) -> NDArray[np.uint8]:
    """Convert bands of any depth to 8 bits: each band's 2nd to 98th percentile becomes 0 to 255.

    Missing data become 0. uint8 input is returned unchanged.
    """
    if bands_HWC.dtype == np.uint8:
        return bands_HWC
    return shown_between(bands_HWC, *limits(bands_HWC))


def limits(bands_HWC: NDArray[Any]) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """The 2nd and 98th percentiles of each band, each (C,); 0 and 1 for a band without data."""
    low, high = np.zeros((2, bands_HWC.shape[-1]), np.float32)
    for band in range(bands_HWC.shape[-1]):
        values = bands_HWC[..., band]
        values = values[np.isfinite(values)]
        low[band], high[band] = (
            np.quantile(values, (_DARKEST, _BRIGHTEST)) if values.size else (0, 1)
        )
    return low, high


def shown_between(
    bands_HWC: NDArray[Any], low: NDArray[np.float32], high: NDArray[np.float32]
) -> NDArray[np.uint8]:
    """Scale each band to bytes, from 0 at ``low`` to 255 at ``high``; missing data become 0."""
    span = np.maximum(high - low, np.finfo(np.float32).tiny)
    shares = np.nan_to_num((bands_HWC - low) / span, nan=0.0)
    return np.rint(shares.clip(0, 1) * 255).astype(np.uint8)


def three_of(count: int) -> list[int]:
    """Choose the three of ``count`` bands, counted from 0, that a picture shows as red, green and blue.

    These are the first three, or the ones that the environment variable ``RMAE_D2_BANDS`` lists, counted
    from 1, such as ``4,3,2``. With fewer than three bands, the first one is shown as grey.

    Raises:
        UserError: RMAE_D2_BANDS is malformed or names a band that does not exist.
    """
    said = os.environ.get("RMAE_D2_BANDS")
    if not said:
        return [0, 1, 2] if count >= 3 else [0, 0, 0]
    try:
        numbers = [int(part) for part in said.split(",")]
    except ValueError:
        numbers = []
    if len(numbers) != 3 or not all(1 <= number <= count for number in numbers):
        raise UserError(
            f"RMAE_D2_BANDS={said!r} are not three numbers of bands from 1 to {count}, such as 3,2,1"
        )
    return [number - 1 for number in numbers]


def picture_of(bands_HWC: NDArray[Any]) -> NDArray[np.uint8]:
    """Render three bands as a picture, (H, W, 3); see `three_of` and `as_bytes`."""
    return np.ascontiguousarray(as_bytes(bands_HWC[..., three_of(bands_HWC.shape[-1])]))


def _codecs() -> Any:
    return _package("imagecodecs")


def _package(name: str) -> Any:
    return needed(name, "bands", "an image of many bands or 16 bits")


def moments_of(image_HWC: NDArray[Any]) -> NDArray[np.float64]:
    """Count, sum and sum of squares of each channel's valid values, (3, C)."""
    values = image_HWC.astype(np.float64)
    known = np.isfinite(values)
    values = np.where(known, values, 0.0)
    return np.stack(
        [part.sum(axis=(0, 1), dtype=np.float64) for part in (known, values, values**2)]
    )


def statistics_of(moments: Iterable[tuple[str, Any]]) -> tuple[list[float], list[float]]:
    """Mean and standard deviation per channel; a channel without data has mean 0, one without spread has 1.

    Args:
        moments: pairs of a file name and the file's `moments_of`.

    Raises:
        UserError: a file has a different number of channels from the first one.
    """
    total: Any = None
    for name, part in moments:
        if total is None:
            first, total = name, np.zeros_like(part)
        if part.shape != total.shape:
            raise UserError(
                f"{name} has {part.shape[1]} bands, {first} {total.shape[1]}: a model "
                "takes one number of them"
            )
        total = total + part
    count = np.maximum(total[0], 1)
    mean = total[1] / count
    std = np.sqrt(np.maximum(total[2] / count - mean**2, 0))
    return mean.tolist(), np.where(std > 0, std, 1.0).tolist()
