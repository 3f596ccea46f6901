"""Reading photos as people have them: any mode, any bit depth, turned by EXIF, or broken."""

import errno
from pathlib import Path

import numpy as np
from detectron2.utils.file_io import PathManager
from numpy.typing import NDArray
from PIL import ExifTags, Image, ImageOps, UnidentifiedImageError

from ..errors import ImageReadError, UserError
from .jpeg import decode_plain_jpeg

#: What Pillow opens out of the box and people keep photos in. Compared in lower case.
IMAGE_EXTENSIONS = frozenset(
    (".jpg", ".jpeg", ".jpe", ".jfif", ".png", ".webp", ".bmp", ".dib", ".tif", ".tiff", ".gif")
    + (".ppm", ".pgm", ".pbm", ".pnm", ".jp2")
)

#: The machine's trouble, not the file's: hiding these behind another image would hide the cause.
MACHINE_ERRNOS = frozenset(
    {errno.EMFILE, errno.ENFILE, errno.ENOMEM, errno.ENOSPC, errno.EDQUOT, errno.EROFS}
)


def read_image(path: str | Path) -> NDArray[np.uint8]:
    """Reads an image file as 8-bit RGB, upright.

    EXIF orientation is applied. Grey is repeated to three channels; palettes, CMYK, YCbCr, LAB and
    HSV are converted; transparency is laid over white, as viewers show it; 16-bit grey is scaled by
    1/257, so that 65535 becomes 255; of an animation the first frame is taken.

    Args:
        path: a local file, or whatever Detectron2's PathManager opens.

    Returns:
        a writable (H, W, 3) array, RGB, 0-255.

    Raises:
        ImageReadError: missing, empty, truncated or damaged file, something that is no image, float
            or 32-bit pixels without a defined range, or more pixels than Pillow's limit against
            decompression bombs.
        OSError: trouble of the machine rather than of the file (too many open files, disk full,
        ...).
    """
    path = str(path)
    try:
        with PathManager.open(path, "rb") as file, Image.open(file) as image:
            pixels = decode_plain_jpeg(file, image)
            if pixels is not None:
                return pixels
            image.load()
            return upright_rgb(image)
    except OSError as error:
        if error.errno in MACHINE_ERRNOS:
            raise
        raise ImageReadError(path, _os_reason(path, error)) from error
    except Image.DecompressionBombError as error:
        raise ImageReadError(path, f"it has too many pixels ({error})") from error
    except MemoryError:
        raise
    except Exception as error:  # Pillow's decoders raise nearly anything on damaged bytes
        raise ImageReadError(path, f"it is damaged ({type(error).__name__}: {error})") from error


def _os_reason(path: str, error: OSError) -> str:
    if isinstance(error, FileNotFoundError):
        return "there is no such file"
    if isinstance(error, IsADirectoryError):
        return "it is a folder"
    if isinstance(error, PermissionError):
        return "this user may not read it"
    if isinstance(error, UnidentifiedImageError):
        if PathManager.exists(path) and Path(PathManager.get_local_path(path)).stat().st_size == 0:
            return "the file is empty (0 bytes)"
        return "it is no image in a format that Pillow knows"
    return f"it is damaged or cut short ({error})"


def upright_rgb(image: Image.Image) -> NDArray[np.uint8]:
    """An opened and loaded image as :func:`read_image` gives it, a writable uint8 array (H, W, 3)."""
    return np.array(_to_rgb(_upright(image)))


def _upright(image: Image.Image) -> Image.Image:
    """The image turned as its EXIF orientation says; a damaged EXIF block counts as none."""
    try:
        if image.getexif().get(ExifTags.Base.Orientation, 1) == 1:
            return image
        return ImageOps.exif_transpose(image)
    except MemoryError:
        raise
    except Exception:
        return image


def _to_rgb(image: Image.Image) -> Image.Image:
    """Any Pillow mode as RGB; see :func:`read_image` for the rules."""
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
