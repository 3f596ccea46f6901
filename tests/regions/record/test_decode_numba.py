"""The compiled decoder: compiled once, before workers start, and not needed."""

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from rmae_d2.regions import EncodedRecord, RegionCache, RegionRecord
from rmae_d2.regions.record import codec

ROOT = Path(__file__).resolve().parents[3]

# Prints the planes of a crop, decoded where numba is installed or hidden.
PROGRAM = """
import sys
sys.modules["detectron2"] = None
if sys.argv[1] == "hidden":
    sys.modules["numba"] = None
import numpy as np
from rmae_d2.regions import EncodedRecord, RegionCache, RegionRecord

labels = np.random.default_rng(0).integers(0, 4, (2, 30, 40)).repeat(3, axis=2)
RegionCache(sys.argv[2], {})
record = EncodedRecord(RegionRecord.from_labels(labels).to_bytes())
taken = record.take(range(5, 25), range(100, 20, -1))
assert ("numba" in sys.modules and sys.modules["numba"] is not None) == (sys.argv[1] == "installed")
print(taken.labels.tobytes().hex(), taken.regions().area.tolist())
"""


def test_everything_goes_without_numba(tmp_path):
    pytest.importorskip("numba", reason="pip install rmae_d2[fast]")
    printed = []
    for numba in ("installed", "hidden"):
        done = subprocess.run(
            [sys.executable, "-c", PROGRAM, numba, str(tmp_path)],
            cwd=ROOT,
            capture_output=True,
            text=True,
        )
        assert done.returncode == 0, done.stderr
        printed.append(done.stdout)
    assert printed[0] == printed[1] and len(printed[0]) > 2 * 20 * 80


def test_a_cache_compiles_all_that_decoding_needs(tmp_path):
    decode_numba = pytest.importorskip("rmae_d2.regions.record.decode_numba", reason="needs numba")
    RegionCache(tmp_path, {})
    compiled = list(decode_numba.gather_runs.signatures)
    assert len(compiled) == 1
    masks = np.random.default_rng(0).random((9, 20, 30)) < 0.5
    labels = RegionRecord.from_labels(np.arange(600).reshape(20, 30) // 7)
    for record in (labels, RegionRecord.from_masks(masks), labels.merge(labels)):
        encoded = EncodedRecord(record.to_bytes())
        for columns in (range(30), np.arange(30)[::-1], np.arange(30, dtype=np.int32)[::2], [3]):
            encoded.take(range(2, 9), columns)
    assert decode_numba.gather_runs.signatures == compiled


def test_the_kernel_refuses_what_does_not_fit():
    decode_numba = pytest.importorskip("rmae_d2.regions.record.decode_numba", reason="needs numba")
    planes, histograms = np.empty((1, 2, 2), np.uint8), np.zeros((1, 256), np.int64)
    rising = np.arange(2)

    def gather(stream, rows=rising, columns=rising):
        stream = np.frombuffer(stream, np.uint8)
        return decode_numba.gather_runs(stream, 3, 4, rows, columns, planes, histograms)

    assert gather(b"\x0c\0\x01") == 0
    for stream in (
        b"",
        b"\x0c\0",
        b"\x0c\0\x01\x01",
        b"\x0b\0\x01",
        b"\x0c\x01\x01",
        b"\x0c\0\0\0\x01\x01",
    ):
        assert gather(stream) == decode_numba.RUNS_DO_NOT_FILL
    for axes in (
        {"rows": np.array([1, 0])},
        {"columns": np.array([0, 2, 1])},
        {"columns": np.array([2, 0, 1])},
    ):
        assert gather(b"\x0c\0\x01", **axes) == decode_numba.NOT_MONOTONE
    stream = np.frombuffer(b"\x0c\0\x01", np.uint8)
    any_order = np.array([2, 0, 1])
    gathered, counts = codec.gather_runs(
        stream, (1, 3, 4), np.dtype(np.uint8), any_order, any_order
    )
    assert counts is None and (gathered == 1).all()
