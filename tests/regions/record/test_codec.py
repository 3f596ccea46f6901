"""Bytes of records from anywhere: one named error, bounded memory, nothing executed."""

import json
import pickle
import struct
import tracemalloc
import zlib

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rmae_d2.errors import StoreError
from rmae_d2.regions import EncodedRecord, RegionRecord
from rmae_d2.regions.record import codec

FUZZ = settings(max_examples=150)
MEGABYTE = 2**20
HEADER = {
    "shape": [2, 6, 8],
    "dtype": "uint8",
    "num_masks": 3,
    "ignore_label": None,
    "runs": [2, 1],
    "params": {},
}
STREAMS = bytes([48, 48, 0, 0, 7, 8]) + bytes([48, 0, 5])  # two planes of one run each, one of bits


def envelope(text, payload, version=codec.FORMAT_VERSION):
    """A record with a right checksum around anything; written from the layout's description."""
    head = struct.pack("<4sHIQ", b"RGNR", version, len(text), len(payload))
    return head + struct.pack("<I", zlib.crc32(head + text + payload)) + text + payload


def sealed(streams=STREAMS, **fields):
    return envelope(json.dumps(HEADER | fields).encode(), zlib.compress(streams))


def outcome(call):
    """The planes that a call decodes, or None where it refuses with the one error it may raise."""
    try:
        record = call()
    except StoreError as error:
        assert str(error).startswith(("region record", "not a region record"))
        return None
    return record.labels.tolist(), record.mask_bits.tolist()


def assert_alike(data):
    """Both ways to read bytes refuse them or give the same planes."""
    whole = outcome(lambda: RegionRecord.from_bytes(data))

    def gathered():
        encoded = EncodedRecord(data)
        return encoded.take(*(range(length) for length in encoded.size))

    assert outcome(gathered) == whole
    return whole


def test_the_envelope_of_this_test_is_a_record():
    labels, bits = assert_alike(sealed())
    assert np.array_equal(labels, [np.full((6, 8), 7), np.full((6, 8), 8)])
    assert np.array_equal(bits, np.full((1, 6, 8), 5))


@FUZZ
@given(st.integers(0, 10_000), st.integers(0, 255), st.booleans())
def test_mutated_with_a_right_checksum(position, value, of_header):
    text, payload = bytearray(json.dumps(HEADER).encode()), bytearray(zlib.compress(STREAMS))
    target = text if of_header else payload
    target[position % len(target)] = value
    assert_alike(envelope(bytes(text), bytes(payload)))


scalars = st.one_of(
    st.none(),
    st.booleans(),
    st.sampled_from([-1, 0, 1, 2, 3, 2**31, 2**63, 2**64, 10**40]),
    st.floats(),
    st.text(max_size=3),
    st.sampled_from(["uint8", "uint16", "uint32", "int8", "object", "O", ">u2"]),
)
values = st.recursive(
    scalars, lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=2), inner)
)


@FUZZ
@given(st.dictionaries(st.sampled_from(sorted(HEADER)), values, max_size=3), values)
def test_any_header_with_a_right_checksum(fields, instead):
    assert_alike(sealed(**fields))
    assert outcome(lambda: RegionRecord.from_bytes(sealed(extra=instead))) is None
    text = json.dumps(instead).encode()
    assert outcome(lambda: RegionRecord.from_bytes(envelope(text, zlib.compress(b"")))) is None


@FUZZ
@given(
    st.lists(st.tuples(st.integers(0, 40), st.integers(0, 300)), max_size=8),
    st.integers(0, 3),
    st.sampled_from(["uint8", "uint16", "uint32"]),
)
def test_any_runs_with_a_right_checksum(runs, planes, dtype):
    lengths, labels = np.array(runs, np.int64).reshape(-1, 2).T
    columns = (lengths.astype("<u2"), labels.astype(np.dtype(dtype).newbyteorder("<")))
    streams = b"".join(
        column.copy().view(np.uint8).reshape(-1, column.itemsize).T.tobytes() for column in columns
    )
    data = sealed(streams, shape=[planes, 4, 5], dtype=dtype, num_masks=0, runs=[len(runs), 0])
    fills = lengths.sum() == planes * 20 and 0 not in lengths
    assert (assert_alike(data) is not None) == fills


WRONG = {
    "shape": ([2, 6], [2, 0, 8], [2, 6, 8.0], [2, 6, True], "268", [-2, -6, 8]),
    "dtype": ("int64", "float32", ["uint8"]),
    "num_masks": (-1, 3.0, True, 9),
    "ignore_label": (1.5, False, 2**63),
    "runs": ([2], [2, -1], [1, 2], [3, 1]),
    "params": ([], None, {"a": float("nan")}, {"a": float("inf")}),
}


@pytest.mark.parametrize("name", sorted(HEADER))
def test_headers_are_checked_strictly(name):
    for value in WRONG[name]:
        assert assert_alike(sealed(**{name: value})) is None
    fields = {key: value for key, value in HEADER.items() if key != name}
    data = envelope(json.dumps(fields).encode(), zlib.compress(STREAMS))
    assert assert_alike(data) is None
    assert assert_alike(sealed(extra=1)) is None


class Runs:
    """Would end the process if anything unpickled it."""

    def __reduce__(self):
        return exec, ("import os; os._exit(3)",)


@pytest.mark.parametrize(
    "text",
    [
        b"",
        b"\xff\xfe",
        b"{" * 300_000,
        b"[" * 300_000,
        b'{"params":' * 100_000,
        b"1" * 10_000,
        json.dumps(HEADER).encode("utf-16"),
        pickle.dumps(Runs()),
    ],
    ids=lambda text: repr(text[:12]),
)
def test_headers_that_are_not_json(text):
    for payload in (zlib.compress(STREAMS), pickle.dumps(Runs())):
        assert assert_alike(envelope(text, payload)) is None
    text = json.dumps(HEADER).encode()
    assert assert_alike(envelope(text, pickle.dumps(Runs()))) is None


def peak_of(call):
    """Bytes that a call had allocated at most."""
    tracemalloc.start()
    try:
        call()
        return tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()


@pytest.mark.parametrize(
    "fields",
    [
        {},  # the payload is larger than announced
        {"runs": [96, 48]},  # and no more than pixels
        {"runs": [codec.MAX_RUNS, 0]},
        {"runs": [2**60, 2**60]},
        {"shape": [1, 2**40, 2**40]},
        {"shape": [0, 2**20, 2**20], "num_masks": 0, "runs": [0, 0]},
        {"shape": [2**62, 1, 1]},
        {"num_masks": 2**62},
        {"shape": [0, 1, 1], "num_masks": 2**31, "runs": [0, 4096]},  # a histogram a plane
        {"shape": [1, 1, 2**30], "num_masks": 0, "runs": [2**14, 0]},  # an index a column
        {"shape": [0, 2**15, 2**15], "num_masks": 0, "runs": [0, 0]},
        {"shape": [2, 2**15, 2**15]},  # within the limits but for the masks
    ],
)
def test_bombs_take_no_memory(fields):
    bomb = envelope(json.dumps(HEADER | fields).encode(), zlib.compress(bytes(64 * MEGABYTE), 9))
    assert len(bomb) < MEGABYTE
    assert peak_of(lambda: assert_alike(bomb)) < 3 * MEGABYTE


def test_long_headers_take_no_memory():
    text = b'{"params":[' + b"{}," * MEGABYTE + b"{}]}"
    data = envelope(text, b"")
    assert peak_of(lambda: assert_alike(data)) < MEGABYTE


def test_a_crop_of_a_huge_record_takes_the_memory_of_the_crop():
    side = 2**14
    runs = side * side // 32768
    streams = bytes(runs) + bytes([128]) * runs + bytes(runs)
    shape = {"shape": [1, side, side], "num_masks": 0, "runs": [runs, 0]}
    encoded = EncodedRecord(sealed(streams, **shape))
    crop = encoded.take(range(0, side, 512), range(0, side, 512))
    assert crop.labels.shape == (1, 32, 32) and crop.regions().area.tolist() == [1024]
    pytest.importorskip("numba", reason="numpy decodes whole rows")
    taken = peak_of(lambda: encoded.take(range(0, side, 512), range(0, side, 512)))
    assert taken < MEGABYTE


def test_what_cannot_be_read_is_not_written(monkeypatch):
    record = RegionRecord.from_labels(np.arange(100).reshape(10, 10))
    monkeypatch.setattr(codec, "MAX_RUNS", 99)
    with pytest.raises(ValueError, match="100 runs"):
        record.to_bytes()
    monkeypatch.setattr(codec, "MAX_PLANE_BYTES", 99)
    with pytest.raises(ValueError, match="100 bytes"):
        record.to_bytes()
    params = {"names": "x" * codec.MAX_HEADER_BYTES}
    with pytest.raises(ValueError, match="are stored"):
        RegionRecord.from_labels(np.zeros((1, 1), int), params=params).to_bytes()
    for value in (float("nan"), {1}):
        with pytest.raises(ValueError, match="JSON"):
            RegionRecord.from_labels(np.zeros((1, 1), int), params={"a": value}).to_bytes()
