"""Bytes of region planes: run lengths inside a checked envelope.

An envelope is little-endian: head `magic, version, header length, payload length`, crc32 of all
the rest, a JSON header, a zlib payload. The payload of a record is one stream of raster-order runs
for its label planes and one for its mask planes; a stream keeps run lengths (16 bits), then
values, each split into byte columns. That takes a 640x480 photo at three scales to about 10 kB
and decodes with one `np.repeat`. A run longer than 65,535 pixels is written as several.
"""

from __future__ import annotations

import json
import struct
import zlib
from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

Labels = NDArray[np.unsignedinteger[Any]]

FORMAT_VERSION = 1
_MAGIC = b"RGNR"
_HEAD = struct.Struct("<4sHIQ")  # magic, version, header length, payload length
_CRC = struct.Struct("<I")
_LONGEST_RUN = 0xFFFF


class RecordError(ValueError):
    """Bytes that are not a whole, intact region record of this format version."""


def seal(header: Mapping[str, Any], streams: bytes) -> bytes:
    """Envelope around a JSON-able header and run streams; the opposite of `unseal`."""
    text = json.dumps(header, sort_keys=True, separators=(",", ":")).encode()
    payload = zlib.compress(streams, 6)
    head = _HEAD.pack(_MAGIC, FORMAT_VERSION, len(text), len(payload))
    crc = zlib.crc32(payload, zlib.crc32(text, zlib.crc32(head)))
    return b"".join((head, _CRC.pack(crc), text, payload))


def unseal(data: bytes) -> tuple[dict[str, Any], NDArray[np.uint8]]:
    """Header and run streams (uint8, one-dimensional) of an envelope.

    Raises:
        RecordError: cut short, damaged, of another format version, or no envelope at all.
    """
    start = _HEAD.size + _CRC.size
    if data[:4] != _MAGIC[: len(data)]:
        raise RecordError(f"not a region record: starts with {data[:4]!r}, not {_MAGIC!r}")
    if len(data) < start:
        raise RecordError(f"region record cut short: {len(data)} bytes, the head alone has {start}")
    _, version, text_length, payload_length = _HEAD.unpack_from(data)
    if version != FORMAT_VERSION:
        raise RecordError(f"region record of format {version}, this program reads {FORMAT_VERSION}")
    total = start + text_length + payload_length
    if len(data) != total:
        fault = "cut short" if len(data) < total else "followed by foreign bytes"
        raise RecordError(f"region record {fault}: {len(data)} bytes, its head says {total}")
    (crc,) = _CRC.unpack_from(data, _HEAD.size)
    if crc != zlib.crc32(data[start:], zlib.crc32(data[: _HEAD.size])):
        raise RecordError("region record damaged: its checksum does not match its contents")
    payload = zlib.decompress(data[start + text_length :])
    header = json.loads(data[start : start + text_length])
    return header, np.frombuffer(payload, np.uint8)


def encode_runs(planes: Labels) -> tuple[bytes, int]:
    """Byte columns of the run lengths and values of planes in raster order, and their number."""
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


def decode_runs(stream: NDArray[np.uint8], shape: tuple[int, ...], dtype: np.dtype[Any]) -> Labels:
    """Undo `encode_runs`; ValueError when the runs do not fill planes of this shape."""
    count, rest = divmod(len(stream), 2 + dtype.itemsize)
    lengths = _from_columns(stream[: 2 * count], np.dtype(np.uint16))
    total = int(lengths.sum(dtype=np.int64))
    if rest or total != np.prod(shape, dtype=np.int64):
        raise ValueError(f"runs of {total} pixels for planes {shape}")
    values = _from_columns(stream[2 * count :], dtype)
    return np.repeat(values, lengths).reshape(shape)


def _to_columns(values: Labels) -> bytes:
    little = values.astype(values.dtype.newbyteorder("<")).view(np.uint8)
    return little.reshape(len(values), -1).T.tobytes()


def _from_columns(columns: NDArray[np.uint8], dtype: np.dtype[Any]) -> Labels:
    little = np.ascontiguousarray(columns.reshape(dtype.itemsize, -1).T)
    values: Labels = little.view(dtype.newbyteorder("<")).reshape(-1).astype(dtype, copy=False)
    return values
