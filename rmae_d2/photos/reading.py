"""A photo as people have it (any mode, any bit depth, turned by EXIF, or broken) as upright 8-bit RGB."""

import errno
from pathlib import Path
from typing import IO

import numpy as np
from numpy.typing import NDArray
from PIL import Image, UnidentifiedImageError

from ..errors import ImageReadError, UserError
from ..files import NotAFileError, check_file, opened
from ..pixels import exif_orientation, upright_rgb

try:
    import simplejpeg
except ImportError:
    simplejpeg = None

#: The machine's trouble, not the file's: hiding these behind another image would hide the cause.
MACHINE_ERRNOS = frozenset(
    {errno.EMFILE, errno.ENFILE, errno.ENOMEM, errno.ENOSPC, errno.EDQUOT, errno.EROFS}
)


def read_image(path: str | Path) -> NDArray[np.uint8]:
    """Reads an image file as 8-bit RGB, upright.

    EXIF orientation is applied. Grey is repeated to three channels; palettes, CMYK, YCbCr, LAB and HSV are
    converted; transparency is laid over white, as viewers show it; of an animation the first frame is taken.
    Of one channel of more than 8 bits or of floats, white is what the file says (TIFF's MaxSampleValue), else
    the least of 1 (floats), 255, 4095 and 65535 that its pixels do not exceed, said once for each; or what
    ``RMAE_D2_WHITE`` in the environment says, for all.

    Args:
        path: a local file, or whatever Detectron2's PathManager opens.

    Returns:
        a writable (H, W, 3) array, RGB, 0-255.

    Raises:
        ImageReadError: missing, empty, truncated or damaged file, a FIFO or the like, something that is no
            image, values that are negative, not finite or of no known range, more pixels than Pillow allows.
        OSError: trouble of the machine rather than of the file (too many open files, disk full, ...).
    """
    path = str(path)
    try:
        check_file(path)
        with opened(path) as file, Image.open(file) as image:
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
    except UserError as error:
        raise ImageReadError(path, str(error)) from error
    except Exception as error:  # Pillow's decoders raise nearly anything on damaged bytes
        raise ImageReadError(path, f"it is damaged ({type(error).__name__}: {error})") from error


def decode_plain_jpeg(file: IO[bytes], image: Image.Image) -> NDArray[np.uint8] | None:
    """Decodes an opened JPEG that needs nothing but decoding, with simplejpeg (``rmae_d2[fast]``).

    Pillow has the same library, libjpeg-turbo, and settings, so the pixels are the same; it then copies them
    three times, which is where the time goes.

    Args:
        file: the whole file; is read from its beginning.
        image: the same, opened by Pillow and not yet loaded.

    Returns:
        (H, W, 3) RGB, writable; None where Pillow has the word, so that such files are treated the same with
        and without simplejpeg: other formats, CMYK, a picture to be turned, a file that is not quite right.
    """
    if simplejpeg is None or image.format != "JPEG" or image.mode not in ("RGB", "L"):
        return None
    if exif_orientation(image) != 1:
        return None
    file.seek(0)
    try:
        pixels: NDArray[np.uint8] = simplejpeg.decode_jpeg(file.read(), "RGB", strict=True)
    except ValueError:
        return None
    return pixels


def _os_reason(path: str, error: OSError) -> str:
    if isinstance(error, FileNotFoundError):
        return "there is no such file"
    if isinstance(error, NotAFileError):
        return str(error.strerror)
    if isinstance(error, PermissionError):
        return "this user may not read it"
    if isinstance(error, UnidentifiedImageError):
        with opened(path) as file:
            if not file.read(1):
                return "the file is empty (0 bytes)"
        return "it is no image in a format that Pillow knows"
    return f"it is damaged or cut short ({error})"
