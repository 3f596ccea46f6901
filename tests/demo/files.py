"""Files as users have them, good and bad."""

import io
import struct
import zlib

import numpy as np
from PIL import Image


def picture(seed=0, size=(90, 120)):
    """uint8 (H, W, 3): blocks of random colors."""
    blocks = np.random.default_rng(seed).integers(0, 256, (6, 8, 3), dtype=np.uint8)
    resized = Image.fromarray(blocks).resize(size[::-1], Image.Resampling.NEAREST)
    return np.array(resized)


def encoded(pixels, image_format="PNG", **options):
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, image_format, **options)
    return file.getvalue()


def png_header(width, height):
    """A PNG of a few hundred bytes that says it has these many pixels."""

    def chunk(kind, content):
        checked = kind + content
        return struct.pack(">I", len(content)) + checked + struct.pack(">I", zlib.crc32(checked))

    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    data = zlib.compress(bytes(100_000))
    return (
        b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", data) + chunk(b"IEND", b"")
    )


def many_scans(count, size=(90, 120)):
    """A progressive JPEG whose first scan of details is there so many times: some 100 bytes each."""
    data = encoded(np.full((*size, 3), 120, np.uint8), "JPEG", progressive=True, quality=50)
    starts = [i for i in range(len(data)) if data[i : i + 2] == b"\xff\xda"]
    # Each scan comes with the tables before it, up to the end of the one before.
    scan = data[starts[1] : starts[2]]
    return data[: starts[2]] + scan * (count - len(starts)) + data[starts[2] :]
