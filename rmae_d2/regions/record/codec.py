"""Bytes of region planes: run lengths inside a checked envelope.

An envelope is little-endian: head `magic, version, header length, payload length`, crc32 of everything
else, a JSON header, a zlib payload. A record's payload is one stream of raster-order runs for its label
planes and one for its mask planes; a stream contains run lengths (16 bits; a longer run is written as
several), then values, each split into byte columns: 12 kB for a photo at three scales.

Bytes are not trusted, even with a correct checksum: every size is compared with the limits below before
memory is allocated for it, and any inconsistency is a `StoreError`.
"""

import json
import struct
import zlib
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from types import ModuleType
from typing import Any, NoReturn

import numpy as np
from numpy.typing import NDArray

from ...errors import StoreError, UserError
from .masks import Bytes, Ints

Labels = NDArray[np.unsignedinteger[Any]]

FORMAT_VERSION = 1
LABEL_DTYPES = (np.dtype(np.uint8), np.dtype(np.uint16), np.dtype(np.uint32))
MAX_HEADER_BYTES = 2**20
MAX_PLANE_BYTES = 2**30  # decoded, all planes together: ten planes of 100 megapixels
MAX_PLANES = 2**12  # labels and masks together: 32,768 masks
MAX_SIDE = 2**20  # height and width in pixels
MAX_RUNS = 2**26  # all planes together: five planes of 12 megapixels in which each pixel is a run

_MAGIC = b"RGNR"
_HEAD = struct.Struct("<4sHIQ")  # magic, version, header length, payload length
_CRC = struct.Struct("<I")
_LONGEST_RUN = 0xFFFF
_FIELDS = {"shape", "dtype", "num_masks", "ignore_label", "runs", "params"}
_DTYPE_OF_NAME = {dtype.name: dtype for dtype in LABEL_DTYPES}


@dataclass(frozen=True)
class Header:
    """What precedes a record's runs; UserError beyond the limits of this module."""

    shape: tuple[int, int, int]  # (S, H, W) of the label planes; H and W are at least 1
    dtype: np.dtype[Any]  # of the labels
    num_masks: int  # M; the mask planes are uint8 (ceil(M / 8), H, W)
    ignore_label: int | None
    runs: tuple[int, int]  # number of runs in the label planes and in the mask planes
    params: Mapping[str, Any]

    def __post_init__(self) -> None:
        pixels = self.shape[1] * self.shape[2]
        planes = (self.shape[0], self.mask_shape[0])
        size = pixels * (planes[0] * self.dtype.itemsize + planes[1])
        what = f"labels {self.shape} and {self.num_masks} masks"
        if sum(planes) > MAX_PLANES or max(self.shape[1:]) > MAX_SIDE:
            raise UserError(
                f"{what}; up to {MAX_PLANES} planes with sides up to {MAX_SIDE} are held"
            )
        # Without planes, a size costs nothing here, but does as soon as somebody makes a mask.
        if max(size, pixels) > MAX_PLANE_BYTES:
            raise UserError(f"{size} bytes of {what}; a record holds up to {MAX_PLANE_BYTES}")
        if sum(self.runs) > MAX_RUNS:
            raise UserError(f"{sum(self.runs)} runs; a record holds up to {MAX_RUNS}")
        if self.runs[0] > pixels * planes[0] or self.runs[1] > pixels * planes[1]:
            raise UserError(f"{self.runs} runs for {planes} planes of {pixels} pixels")
        if self.ignore_label is not None and not -(2**63) <= self.ignore_label < 2**63:
            raise UserError(f"ignore_label={self.ignore_label} does not fit in 64 bits")

    @property
    def mask_shape(self) -> tuple[int, int, int]:
        return -(-self.num_masks // 8), self.shape[1], self.shape[2]

    @property
    def label_bytes(self) -> int:
        """Length in bytes of the label planes' run stream."""
        return self.runs[0] * (2 + self.dtype.itemsize)

    @property
    def stream_bytes(self) -> int:
        """Length in bytes of both run streams."""
        return self.label_bytes + 3 * self.runs[1]


# ------------------------------------------------------------------------------------- envelope


def seal(header: Header, streams: bytes) -> bytes:
    """Wrap a header and run streams in an envelope; the inverse of `unseal` and `inflate`.

    Raises:
        UserError: the header holds values that JSON cannot represent, or exceeds `MAX_HEADER_BYTES`.
    """
    fields = {name: getattr(header, name) for name in _FIELDS} | {"dtype": header.dtype.name}
    try:
        text = json.dumps(fields, sort_keys=True, separators=(",", ":"), allow_nan=False).encode()
    except (TypeError, ValueError, RecursionError) as error:
        raise UserError(f"record params must be JSON types, got {header.params}") from error
    if len(text) > MAX_HEADER_BYTES:
        raise UserError(f"record params of {len(text)} bytes; up to {MAX_HEADER_BYTES} are stored")
    payload = zlib.compress(streams, 6)
    head = _HEAD.pack(_MAGIC, FORMAT_VERSION, len(text), len(payload))
    crc = zlib.crc32(payload, zlib.crc32(text, zlib.crc32(head)))
    return b"".join((head, _CRC.pack(crc), text, payload))


def unseal(data: bytes) -> tuple[Header, memoryview]:
    """Header and compressed payload of an envelope; StoreError if its checksum is wrong."""
    start = _HEAD.size + _CRC.size
    if data[:4] != _MAGIC[: len(data)]:
        raise StoreError(f"not a region record: starts with {data[:4]!r}, not {_MAGIC!r}")
    if len(data) < start:
        raise StoreError(f"region record cut short: {len(data)} bytes, the head alone has {start}")
    _, version, text_length, payload_length = _HEAD.unpack_from(data)
    if version != FORMAT_VERSION:
        raise StoreError(f"region record of format {version}, this program reads {FORMAT_VERSION}")
    total = start + text_length + payload_length
    if len(data) != total:
        fault = "cut short" if len(data) < total else "followed by foreign bytes"
        raise StoreError(f"region record {fault}: {len(data)} bytes, its head says {total}")
    (crc,) = _CRC.unpack_from(data, _HEAD.size)
    view = memoryview(data)
    if crc != zlib.crc32(view[start:], zlib.crc32(view[: _HEAD.size])):
        raise StoreError("region record damaged: its checksum does not match its contents")
    if text_length > MAX_HEADER_BYTES:
        raise StoreError(f"region record with a header of {text_length} bytes")
    return _parse_header(data[start : start + text_length]), view[start + text_length :]


def inflate(header: Header, payload: memoryview) -> tuple[Bytes, Bytes]:
    """Decompress the run streams of label and mask planes, uint8, read-only; StoreError if inconsistent.

    Uses only as much memory as the header announces, whatever the payload would decompress to.
    """
    inflater = zlib.decompressobj()
    try:
        stream = inflater.decompress(payload, header.stream_bytes + 1)
    except zlib.error as error:
        raise StoreError(f"region record whose payload is not zlib's: {error}") from error
    if len(stream) != header.stream_bytes or not inflater.eof or inflater.unused_data:
        raise StoreError(f"region record whose payload is not its {header.runs} runs")
    split = header.label_bytes
    both = np.frombuffer(stream, np.uint8)
    return both[:split], both[split:]


def _parse_header(text: bytes) -> Header:
    try:
        fields = json.loads(text.decode(), parse_constant=_refuse)
    except (ValueError, RecursionError) as error:
        raise StoreError(f"region record whose header is not JSON: {error}") from error
    if not isinstance(fields, dict) or fields.keys() != _FIELDS:
        raise StoreError(f"region record whose header has not the fields {sorted(_FIELDS)}")
    shape, dtype, runs = fields["shape"], fields["dtype"], fields["runs"]
    ignore_label, params = fields["ignore_label"], fields["params"]
    if (
        not _are_counts(shape, 3)
        or 0 in shape[1:]
        or not isinstance(dtype, str)
        or dtype not in _DTYPE_OF_NAME
        or not _are_counts([fields["num_masks"]], 1)
        or not (ignore_label is None or type(ignore_label) is int)
        or not _are_counts(runs, 2)
        or not isinstance(params, dict)
    ):
        raise StoreError(f"region record whose header is of other types: {text[:200]!r}")
    try:
        dtype = _DTYPE_OF_NAME[dtype]
        return Header(tuple(shape), dtype, fields["num_masks"], ignore_label, tuple(runs), params)
    except ValueError as error:
        raise StoreError(f"region record beyond the limits: {error}") from error


def _are_counts(values: Any, number: int) -> bool:
    return (
        isinstance(values, list)
        and len(values) == number
        and set(map(type, values)) <= {int}
        and min(values, default=0) >= 0
    )


def _refuse(constant: str) -> NoReturn:
    raise UserError(f"{constant} is not JSON")


# ----------------------------------------------------------------------------------------- runs


def encode_runs(planes: Labels) -> tuple[bytes, int]:
    """Encode planes in raster order as byte columns of run lengths and values; also return the run count."""
    flat = planes.ravel()
    if not flat.size:
        return b"", 0
    starts = np.concatenate(([0], np.flatnonzero(flat[1:] != flat[:-1]) + 1))
    lengths = np.diff(starts, append=flat.size)
    pieces = -(-lengths // _LONGEST_RUN)
    last = np.cumsum(pieces) - 1
    short = np.full(last[-1] + 1, _LONGEST_RUN)
    short[last] = lengths - (pieces - 1) * _LONGEST_RUN
    values = np.repeat(flat[starts], pieces)
    return _to_columns(short.astype(np.uint16)) + _to_columns(values), len(values)


def decode_runs(stream: Bytes, shape: tuple[int, int, int], dtype: np.dtype[Any]) -> Labels:
    """Undo `encode_runs`; StoreError if the runs do not fill planes of this shape."""
    count, rest = divmod(len(stream), 2 + dtype.itemsize)
    lengths = _from_columns(stream[: 2 * count], np.dtype(np.uint16))
    # Multiplied as Python integers, which do not overflow.
    if rest or int(lengths.sum(dtype=np.int64)) != shape[0] * shape[1] * shape[2] or 0 in lengths:
        raise _do_not_fill(shape)
    return np.repeat(_from_columns(stream[2 * count :], dtype), lengths).reshape(shape)


def gather_runs(
    stream: Bytes, shape: tuple[int, int, int], dtype: np.dtype[Any], rows: Ints, columns: Ints
) -> tuple[Labels, Ints | None]:
    """Decode planes at some rows and columns: `decode_runs(...)[:, rows][..., columns]`, with its errors.

    Rows (h,) lie within 0..H-1, columns (w,) within 0..W-1, in any order.

    Returns:
        (S, h, w) planes, and int64 (S, 256), the number of pixels with each value per plane; None if
        decoding did not yield these counts.
    """
    if not shape[0]:
        return np.empty((0, len(rows), len(columns)), dtype), np.zeros((0, 256), np.int64)
    if dtype == np.uint8 and (kernel := _numba_kernel()) is not None:
        planes = np.empty((shape[0], len(rows), len(columns)), np.uint8)
        histograms = np.zeros((shape[0], 256), np.int64)
        fault = kernel.gather_runs(stream, shape[1], shape[2], rows, columns, planes, histograms)
        if fault == kernel.RUNS_DO_NOT_FILL:
            raise _do_not_fill(shape)
        if not fault:
            return planes, histograms
    return decode_runs(stream, shape, dtype).take(rows, axis=1).take(columns, axis=2), None


def warm_up() -> None:
    """Compile or load the crop decoder, which takes seconds the first time; call before forking workers."""
    if (kernel := _numba_kernel()) is not None:
        kernel.warm_up()


@cache
def _numba_kernel() -> ModuleType | None:
    try:
        from . import decode_numba
    except ImportError:
        return None
    return decode_numba


def _do_not_fill(shape: tuple[int, ...]) -> StoreError:
    return StoreError(f"region record whose runs do not fill its planes of {shape}")


def _to_columns(values: Labels) -> bytes:
    little = values.astype(values.dtype.newbyteorder("<")).view(np.uint8)
    return little.reshape(len(values), -1).T.tobytes()


def _from_columns(columns: Bytes, dtype: np.dtype[Any]) -> Any:
    little = np.ascontiguousarray(columns.reshape(dtype.itemsize, -1).T)
    return little.view(dtype.newbyteorder("<")).reshape(-1).astype(dtype, copy=False)
