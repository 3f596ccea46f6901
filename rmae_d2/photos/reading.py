"""A photo as people have it (any mode, any bit depth, turned by EXIF, or broken) as upright 8-bit RGB."""

import errno
import io
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image, UnidentifiedImageError

from ..errors import ImageReadError, RemoteError, UserError
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


class Photo:
    """An image file that has been read, and is decoded as far as it is needed.

    ``np.asarray(photo)`` is the whole of it, see :func:`read_image`.

    Attributes:
        shape: (H, W, 3) of the whole, upright.
    """

    def __init__(self, path: str | Path) -> None:
        """Reads a file; decodes what is no JPEG, or none of RGB or grey. Raises as :func:`read_image`."""
        self.path = str(path)
        self._jpeg: bytes | None = None
        self._whole: NDArray[np.uint8] | None = None
        with _reading(self.path):
            check_file(self.path)
            with opened(self.path) as file, Image.open(file) as image:
                if image.format == "JPEG" and image.mode in ("RGB", "L"):
                    orientation = exif_orientation(image) or 1
                    self._turned = orientation != 1
                    width, height = image.size if orientation <= 4 else image.size[::-1]
                    self.shape = (height, width, 3)
                    file.seek(0)
                    self._jpeg = file.read()
                    return
                image.load()
                self._whole = upright_rgb(image)
                self.shape = (*self._whole.shape[:2], 3)

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> NDArray[np.uint8]:
        if self._whole is None:
            self._whole = self.at_scale(1)
        return self._whole.copy() if copy else self._whole

    @property
    def is_scalable(self) -> bool:
        """Whether less than the whole can be decoded."""
        return self._jpeg is not None and self._whole is None

    def at_scale(self, divisor: int) -> NDArray[np.uint8]:
        """The whole of a JPEG at 1, 1/2, 1/4 or 1/8 of its size, as libjpeg decodes it: for far less work.

        Pixel (y, x) stands for those of the whole from (divisor * y, divisor * x) on, divisor in number along
        each side.

        Returns:
            writable uint8 (ceil(H / divisor), ceil(W / divisor), 3) RGB, upright.
        """
        assert self._jpeg is not None
        with _reading(self.path):
            pixels = None if self._turned else _by_simplejpeg(self._jpeg, self.shape, divisor)
            if pixels is not None:
                return pixels
            with Image.open(io.BytesIO(self._jpeg)) as image:
                image.draft(None, (image.width // divisor or 1, image.height // divisor or 1))
                image.load()
                return upright_rgb(image)


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
    return np.asarray(Photo(path))


@contextmanager
def _reading(path: str) -> Iterator[None]:
    """Says of a file what is wrong with it."""
    try:
        yield
    except RemoteError:  # hiding it behind another image would hide the cause
        raise
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


def _by_simplejpeg(jpeg: bytes, shape: tuple[int, ...], divisor: int) -> NDArray[np.uint8] | None:
    """Decodes a JPEG that is upright with simplejpeg (``rmae_d2[fast]``).

    Pillow has the same library, libjpeg-turbo, and settings, so the pixels are the same; it then copies them
    three times, which is where the time goes.

    Returns:
        (h, w, 3) RGB, writable; None where Pillow has the word, so that a file that is not quite right is
        treated the same with and without simplejpeg.
    """
    if simplejpeg is None:
        return None
    least = {"min_height": -(-shape[0] // divisor), "min_width": -(-shape[1] // divisor)}
    try:
        pixels: NDArray[np.uint8] = simplejpeg.decode_jpeg(
            jpeg, "RGB", strict=True, min_factor=divisor, **least
        )
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
