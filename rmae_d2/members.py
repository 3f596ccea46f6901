"""Images within other files, addressed and opened like files: members of a tar, cells of a table.

``tar:///data/a.tar?1536+48211``: 48211 bytes starting at byte 1536; also for a tar in an object store or on a
web server, ``tar://s3://bucket/a.tar?1536+48211``. ``parquet:///data/a.parquet?17.image``: row
17 of the column ``image``. A row is read with its whole row group, of which the last few are cached.
``stored:///data/a.jpg?``: a JPEG without EXIF rotation, for labels drawn on its pixels as stored.
"""

import io
import os
import struct
from functools import lru_cache
from typing import IO, Any

from .at_hand import open_at_hand
from .extras import needed
from .remote import absolute, is_remote, read, read_range

SCHEMES = ("tar", "parquet", "stored")
_GROUPS_KEPT = 2
_ORIENTATION = 0x0112


def is_member(name: str) -> bool:
    """Whether a name is such an address."""
    return name.partition("://")[0] in SCHEMES and "?" in name


def tar_member(path: str, offset: int, size: int) -> str:
    """Returns the address of a byte range of a file."""
    return f"tar://{absolute(path)}?{offset}+{size}"


def parquet_cell(path: str, row: int, column: str) -> str:
    """Returns the address of a table cell."""
    return f"parquet://{os.path.abspath(path)}?{row}.{column}"


def stored_jpeg(path: str) -> str:
    """Returns the address of a JPEG that is not to be rotated."""
    return f"stored://{absolute(path)}?"


def container(name: str) -> str:
    """Returns the file that contains an address."""
    return name.partition("://")[2].rpartition("?")[0]


def open_member(name: str) -> IO[bytes]:
    """Opens an address as a file.

    Raises:
        OSError: if the file is missing, or too short.
        UserError: if pyarrow is missing.
    """
    if (content_at_hand := open_at_hand(name)) is not None:
        return content_at_hand
    path, place = container(name), name.rpartition("?")[2]
    if name.startswith("tar://"):
        offset, size = map(int, place.split("+"))
        if is_remote(path):
            return io.BytesIO(read_range(path, offset, offset + size))
        with open(path, "rb") as file:
            file.seek(offset)
            content = file.read(size)
        if len(content) < size:
            raise OSError(f"{path} ends within its member at byte {offset}: copy it again")
        return io.BytesIO(content)
    if name.startswith("stored://"):
        if is_remote(path):
            return io.BytesIO(_unturned(read(path)))
        with open(path, "rb") as file:
            return io.BytesIO(_unturned(file.read()))
    row, _, column = place.partition(".")
    return io.BytesIO(_cell(path, int(row), column))


def _unturned(jpeg: bytes) -> bytes:
    """Sets a JPEG's EXIF orientation, if present, to 1; the pixels are unchanged."""
    start = jpeg.find(b"Exif\0\0", 0, 1 << 17) + 6
    order = {b"II*\0": "<", b"MM\0*": ">"}.get(jpeg[start : start + 4])
    if start < 6 or order is None:
        return jpeg
    at = start + struct.unpack_from(f"{order}I", jpeg, start + 4)[0]
    (count,) = struct.unpack_from(f"{order}H", jpeg, at)
    for place in range(at + 2, at + 2 + 12 * count, 12):
        if struct.unpack_from(f"{order}H", jpeg, place)[0] == _ORIENTATION:
            return jpeg[: place + 8] + struct.pack(f"{order}HH", 1, 0) + jpeg[place + 12 :]
    return jpeg


def parquet() -> Any:
    """Imports pyarrow.parquet. UserError if it is not installed."""
    return needed("pyarrow.parquet", "parquet", "reading Parquet tables")


def _cell(path: str, row: int, column: str) -> bytes:
    # Processes do not share opened tables.
    table, ends = _table(os.getpid(), path)
    group = next((k for k, end in enumerate(ends) if row < end), None)
    if group is None:
        raise OSError(f"{path} has no row {row}")
    values = _group(os.getpid(), path, group, column)
    value = values[row - (ends[group - 1] if group else 0)].as_py()
    content = value.get("bytes") if isinstance(value, dict) else value
    if not isinstance(content, bytes):
        raise OSError(f"{path}: {column} of row {row} holds no bytes of an image")
    return content


@lru_cache(maxsize=64)
def _table(process: int, path: str) -> tuple[Any, list[int]]:
    """Opens a table; also returns the cumulative row counts of its row groups."""
    table = parquet().ParquetFile(path, memory_map=True)
    counts = [table.metadata.row_group(k).num_rows for k in range(table.num_row_groups)]
    return table, [sum(counts[: k + 1]) for k in range(len(counts))]


@lru_cache(maxsize=_GROUPS_KEPT)
def _group(process: int, path: str, group: int, column: str) -> Any:
    table, _ = _table(process, path)
    return table.read_row_group(group, columns=[column], use_threads=False).column(column)
