"""Converts images opened by Pillow to upright 8-bit RGB. Without torch, for the demo's small processes."""

import io
import logging
import os
from typing import IO

import numpy as np
from numpy.typing import NDArray
from PIL import ExifTags, Image, ImageOps, UnidentifiedImageError

from .errors import RemoteError, UserError
from .extras import needed
from .files import check_file, opened

logger = logging.getLogger(__name__)

# For a TIFF with many bands, it prints what it raises anyway, for each file.
logging.getLogger("PIL.TiffImagePlugin").setLevel(logging.CRITICAL)

#: TIFF tags for the largest pixel value.
_MAX_SAMPLE_VALUE, _S_MAX_SAMPLE_VALUE = 281, 341


#: Bytes from position 4 on that identify files of the HEIF family, by the opener they need.
_HEIC = (b"ftypheic", b"ftypheix", b"ftyphevc", b"ftypheim", b"ftypmif1", b"ftypmsf1")
_AVIF = (b"ftypavif", b"ftypavis")


def open_image(file: IO[bytes]) -> Image.Image:
    """Like Pillow's ``Image.open``, but also opens HEIC if pillow-heif is installed.

    Raises:
        UserError: for a HEIC or AVIF that nothing installed opens; says what to install.
        UnidentifiedImageError, and others from Pillow: if it is not an image.
    """
    try:
        return Image.open(file)
    except UnidentifiedImageError:
        file.seek(4)
        kind = file.read(8)
        file.seek(0)
        if kind in _AVIF:
            raise UserError("it is an AVIF: pip install 'pillow>=11.3'") from None
        if kind not in _HEIC:
            raise
    needed("pillow_heif", "heic", "a HEIC").register_heif_opener()
    return Image.open(file)


def exif_orientation(image: Image.Image) -> int | None:
    """EXIF orientation of an opened image, 1 if upright; None for a damaged EXIF block."""
    try:
        return int(image.getexif().get(ExifTags.Base.Orientation, 1))
    except MemoryError:
        raise
    except Exception:  # Pillow's parser raises nearly anything on damaged bytes
        return None


def stored_size(path: str) -> tuple[int, int] | None:
    """(height, width) of a JPEG's stored pixels if EXIF turns it by 90 degrees; else None."""
    try:
        check_file(path)
        with opened(path) as file, open_image(file) as image:
            turned = image.format == "JPEG" and exif_orientation(image) in (5, 6, 7, 8)
            return image.size[::-1] if turned else None
    except RemoteError:
        raise
    except (OSError, SyntaxError, ValueError, Image.DecompressionBombError):
        return None


def upright_size(path: str) -> tuple[int, int] | None:
    """(height, width) of an image file as readers see it, with EXIF rotation; None for another file."""
    try:
        check_file(path)
        with opened(path) as file, open_image(file) as image:
            turned = exif_orientation(image) in (5, 6, 7, 8)
            return image.size if turned else image.size[::-1]
    except RemoteError:
        raise
    except (OSError, SyntaxError, ValueError, Image.DecompressionBombError):
        return None  # whoever reads the image reports what is wrong


_KINDS = {
    **{"1": "black and white", "L": "grey", "P": "palette", "RGBA": "RGB with transparency"},
    **{"LA": "grey with transparency", "I": "32-bit grey", "F": "float grey"},
}


def kind_of(raw: bytes) -> str:
    """Describes the image type of a file's bytes, e.g. "JPEG, RGB" or "PNG, 16-bit grey, turned by EXIF"."""
    with open_image(io.BytesIO(raw)) as image:
        mode = (
            "16-bit grey" if image.mode.startswith("I;16") else _KINDS.get(image.mode, image.mode)
        )
        turned = ", turned by EXIF" if exif_orientation(image) not in (1, None) else ""
        several = f", {n} pages" if (n := getattr(image, "n_frames", 1)) > 1 else ""
        return f"{image.format}, {mode}{several}{turned}"


def upright_rgb(image: Image.Image) -> NDArray[np.uint8]:
    """Converts an opened and loaded image like `rmae_d2.data.read_image`: writable uint8 (H, W, 3)."""
    if exif_orientation(image) not in (1, None):
        try:
            image = ImageOps.exif_transpose(image)
        except MemoryError:
            raise
        except Exception:  # a damaged EXIF block is ignored
            pass
    return np.array(_to_rgb(image))


def _to_rgb(image: Image.Image) -> Image.Image:
    """Converts any Pillow mode to RGB; see `rmae_d2.data.read_image` for the rules."""
    if image.mode.startswith(("I", "F")):
        image = _from_many_values(image)
    if image.has_transparency_data:
        rgba = image.convert("RGBA")
        white = Image.new("RGBA", rgba.size, "white")
        image = Image.alpha_composite(white, rgba)
    return image if image.mode == "RGB" else image.convert("RGB")


#: Candidates for white if a file does not define it: of floats, of 8, of 12 and of 16 bits.
_WHITES = (1.0, 255.0, 4095.0, 65535.0)
_said_whites: set[float] = set()


def _from_many_values(image: Image.Image) -> Image.Image:
    """Converts modes I;16*, I and F to 8-bit grey, scaled and not clipped."""
    values = np.asarray(image).astype(np.float64)
    low, high = (values.min(), values.max()) if values.size else (0.0, 0.0)
    if not (np.isfinite(low) and np.isfinite(high)) or low < 0:
        raise UserError(f"its pixels go from {low:g} to {high:g}: save it with values from 0 on")
    white = _white(image, float(high))
    if high > white:
        raise UserError(
            f"its pixels go up to {high:g}, more than white, {white:g}: save it with 8 or 16 bits, or set "
            "RMAE_D2_WHITE in the environment"
        )
    if white not in _said_whites:
        _said_whites.add(white)
        logger.warning(
            "pictures of %s pixels: %g is taken for white; to say otherwise set RMAE_D2_WHITE in the "
            "environment (65535 for 16 bits)",
            *("float" if image.mode == "F" else "16-bit", white),
        )
    return Image.fromarray(np.rint(values * (255 / white)).astype(np.uint8))


def _white(image: Image.Image, high: float) -> float:
    """Chooses the value shown as white, given the image's highest value."""
    if given := os.environ.get("RMAE_D2_WHITE"):
        try:
            white = float(given)
        except ValueError:
            white = 0.0
        if not 0 < white < np.inf:
            raise UserError(f"RMAE_D2_WHITE={given!r} is not a number above 0")
        return white
    tags = getattr(image, "tag_v2", {})
    for tag in (_MAX_SAMPLE_VALUE, _S_MAX_SAMPLE_VALUE):
        said = tags.get(tag)
        said = said[0] if isinstance(said, tuple) and said else said
        if isinstance(said, int | float) and high <= said:
            return float(said)
    whites = _WHITES if image.mode == "F" else _WHITES[1:]
    return next((white for white in whites if high <= white), _WHITES[-1])
