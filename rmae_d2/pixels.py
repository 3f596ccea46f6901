"""An image that Pillow has opened, as upright 8-bit RGB. Without torch, for small processes of the demo."""

import numpy as np
from numpy.typing import NDArray
from PIL import ExifTags, Image, ImageOps

from .errors import UserError


def exif_orientation(image: Image.Image) -> int | None:
    """Of an opened image, 1 where it is upright; None for a damaged EXIF block."""
    try:
        return int(image.getexif().get(ExifTags.Base.Orientation, 1))
    except MemoryError:
        raise
    except Exception:  # Pillow's parser raises nearly anything on damaged bytes
        return None


def upright_rgb(image: Image.Image) -> NDArray[np.uint8]:
    """An opened and loaded image as :func:`rmae_d2.data.read_image` gives it: writable uint8 (H, W, 3)."""
    if exif_orientation(image) not in (1, None):
        try:
            image = ImageOps.exif_transpose(image)
        except MemoryError:
            raise
        except Exception:  # a damaged EXIF block counts as none
            pass
    return np.array(_to_rgb(image))


def _to_rgb(image: Image.Image) -> Image.Image:
    """Any Pillow mode as RGB; see :func:`rmae_d2.data.read_image` for the rules."""
    if image.mode.startswith("I"):
        image = _from_16_bits(image)
    elif image.mode == "F":
        raise UserError("float pixels have no defined range: save it with 8 or 16 bits")
    if image.has_transparency_data:
        rgba = image.convert("RGBA")
        white = Image.new("RGBA", rgba.size, "white")
        image = Image.alpha_composite(white, rgba)
    return image if image.mode == "RGB" else image.convert("RGB")


def _from_16_bits(image: Image.Image) -> Image.Image:
    """Modes I;16* and I (how some 16-bit files open) as 8-bit grey, scaled and not clipped."""
    values = np.asarray(image).astype(np.int64)
    if values.size and (values.min() < 0 or values.max() > 65535):
        raise UserError("32-bit pixels have no defined range: save it with 8 or 16 bits")
    return Image.fromarray(((values + 128) // 257).astype(np.uint8))
