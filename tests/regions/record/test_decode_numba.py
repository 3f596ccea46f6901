"""The compiled decoder: compiled once, before workers start, and not needed."""

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from rmae_d2.regions import EncodedRecord, RegionCache, RegionRecord

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
    for record in (labels, RegionRecord.from_masks(masks)):
        encoded = EncodedRecord(record.to_bytes())
        for columns in (range(30), np.arange(30)[::-1], np.arange(30, dtype=np.int32)[::2], [3]):
            encoded.take(range(2, 9), columns)
    assert decode_numba.gather_runs.signatures == compiled
