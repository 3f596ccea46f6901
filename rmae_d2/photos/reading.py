"""Read image files of any mode, bit depth and EXIF orientation as upright 8-bit RGB, or report the damage."""

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
from ..pixels import open_image, upright_rgb
from .bands import as_bytes, is_tiff, picture_of, read_bands
from .jpeg import JPEG, jpeg_facts

try:
    import simplejpeg
except ImportError:
    simplejpeg = None

#: Errors of the machine, not of the file: substituting another image would hide the cause.
MACHINE_ERRNOS = frozenset(
    {errno.EMFILE, errno.ENFILE, errno.ENOMEM, errno.ENOSPC, errno.EDQUOT, errno.EROFS}
)


_shared: list["Photo"] = []  # the last photo that was opened while sharing
_sharing = False


@contextmanager
def sharing_photos() -> Iterator[None]:
    """Within it, `open_photo` decodes photos in full, and the last one only once."""
    global _sharing
    before, _sharing = _sharing, True
    try:
        yield
    finally:
        _sharing = before


def open_photo(path: str | Path, all_bands: bool = False) -> "Photo":
    """Opens a photo, or gives the last one again, see `sharing_photos`; its pixels must not be changed.

    Raises the errors of `read_image`.
    """
    if not _sharing:
        return Photo(path, all_bands)
    if not _shared or (_shared[0].path, _shared[0].all_bands) != (str(path), all_bands):
        _shared.clear()  # the memory of one, not of two
        photo = Photo(path, all_bands)
        np.asarray(photo)
        _shared.append(photo)
    return _shared[0]


class Photo:
    """An image file held in memory and decoded only as far as needed.

    ``np.asarray(photo)`` is the full image; see `read_image`.

    Attributes:
        shape: (H, W, 3) of the full upright image; (H, W, C) with all bands.
    """

    def __init__(self, path: str | Path, all_bands: bool = False) -> None:
        """Read a file; anything but an ordinary JPEG is decoded at once. Raises the errors of `read_image`.

        Args:
            all_bands: make the full image what `read_bands` returns, and ``shape`` (H, W, C).
        """
        self.path = str(path)
        self.all_bands = all_bands
        self._jpeg: bytes | None = None
        self._whole: NDArray[Any] | None = None
        self._bands: NDArray[Any] | None = None
        with _reading(self.path):
            check_file(self.path)
            with opened(self.path) as file:
                if all_bands:
                    self._whole = self._bands = read_bands(file.read())
                    self.shape = self._whole.shape
                    return
                if file.read(2) == JPEG and self._keep(JPEG + file.read()):
                    return
                file.seek(0)
                try:
                    image = open_image(file)
                except UnidentifiedImageError:
                    file.seek(0)
                    raw = file.read()
                    if not is_tiff(raw):
                        raise
                    self._bands = read_bands(raw)
                    self._whole = picture_of(self._bands)
                    self.shape = self._whole.shape
                    return
                with image:
                    self._take(image)

    def _keep(self, jpeg: bytes) -> bool:
        """Keep a JPEG undecoded if it is an ordinary RGB or grey one."""
        facts = jpeg_facts(jpeg)
        if facts is None:
            return False
        self._turned = facts.orientation != 1
        sides = (
            (facts.height, facts.width) if facts.orientation <= 4 else (facts.width, facts.height)
        )
        self.shape = (*sides, 3)
        self._jpeg = jpeg
        return True

    def _take(self, image: Image.Image) -> None:
        image.load()
        self._whole = upright_rgb(image)
        self.shape = (*self._whole.shape[:2], 3)

    @property
    def is_decoded(self) -> bool:
        """Whether the full image is in memory."""
        return self._whole is not None

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> NDArray[Any]:
        if self._whole is None:
            self._whole = self.at_scale(1)
        return self._whole.copy() if copy else self._whole

    def stored(self) -> NDArray[Any]:
        """All bands as stored if they are not those of a picture; otherwise the RGB image."""
        return np.asarray(self) if self._bands is None else self._bands

    def for_regions(self) -> NDArray[np.uint8]:
        """What region sources see: uint8 (H, W, 3) RGB, or all bands at 8 bits if it is not a picture."""
        return np.asarray(self) if self._bands is None else as_bytes(self._bands)

    @property
    def is_scalable(self) -> bool:
        """Whether it can be decoded at a reduced size."""
        return self._jpeg is not None and self._whole is None

    def at_scale(self, divisor: int) -> NDArray[np.uint8]:
        """Decode a JPEG at 1, 1/2, 1/4 or 1/8 of its size, which libjpeg does at far lower cost.

        Pixel (y, x) stands for the ``divisor`` x ``divisor`` pixels of the full image that start at
        (divisor * y, divisor * x).

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


def read_for_regions(path: str | Path) -> NDArray[np.uint8]:
    """Read what region sources see, (H, W, C); see `Photo.for_regions` and `read_image`."""
    return Photo(path).for_regions()


def read_image(path: str | Path) -> NDArray[np.uint8]:
    """Read an image file as 8-bit RGB, upright.

    EXIF orientation is applied. Grey is repeated to three channels; palettes, CMYK, YCbCr, LAB and HSV are
    converted; transparency is composited over white, as viewers show it; animations give their first frame.
    For one channel with more than 8 bits or floats, white is the value given by the file (TIFF's
    MaxSampleValue), otherwise the smallest of 1 (floats), 255, 4095 and 65535 that no pixel exceeds, logged
    once for each. The environment variable ``RMAE_D2_WHITE`` overrides this for all files. Of a TIFF that
    Pillow cannot read because it has more bands or bits, three bands are shown; see `picture_of`.

    Args:
        path: a local file, or anything that Detectron2's PathManager can open.

    Returns:
        a writable (H, W, 3) array, RGB, 0-255.

    Raises:
        ImageReadError: the file is missing, empty, truncated, damaged, not an image or not a regular file
            (e.g. a FIFO); its values are negative, not finite or of unknown range; or it has more pixels
            than Pillow allows.
        OSError: an error of the machine rather than of the file (too many open files, disk full, ...).
    """
    return np.asarray(Photo(path))


@contextmanager
def _reading(path: str) -> Iterator[None]:
    """Turn errors about a file into an `ImageReadError` that says what is wrong with it."""
    try:
        yield
    except RemoteError:  # substituting another image would hide the cause
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
    """Decode an upright JPEG with simplejpeg (the extra ``fast``).

    Pillow uses the same library, libjpeg-turbo, with the same settings, so the pixels are identical; but
    Pillow then copies them three times, which dominates the cost.

    Returns:
        writable (h, w, 3) RGB; None if Pillow has to decide, so that slightly damaged files are treated the
        same with and without simplejpeg.
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
