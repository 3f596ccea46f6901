"""Region cache: hits, damaged entries, folders that do not work, many writers."""

import logging
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from rmae_d2.regions import EncodedRecord, RegionCache, RegionRecord
from tests.helpers import HUNG

ROOT = Path(__file__).resolve().parents[3]
PARAMS = {"source": "test", "scales": [1, 2]}
IMAGE = np.random.default_rng(0).integers(0, 256, (12, 20, 3), dtype=np.uint8)


def labels_of(image):
    return image[..., 0].astype(np.int64) * 7


class Source:
    """Counts how often it is asked."""

    def __init__(self):
        self.calls = 0

    def __call__(self, image):
        self.calls += 1
        return RegionRecord.from_labels(labels_of(image), params=PARAMS)


def assert_right(record, image=IMAGE):
    record = record if isinstance(record, RegionRecord) else record.decode()
    np.testing.assert_array_equal(record.labels[0], labels_of(image))


def test_computes_once_and_keeps_across_objects(tmp_path):
    source = Source()
    for _ in range(3):
        record = RegionCache(tmp_path, PARAMS).get(IMAGE, source)
        assert_right(record)
        assert record.params == PARAMS
    assert source.calls == 1
    assert isinstance(record, EncodedRecord)
    path = RegionCache(tmp_path, PARAMS).path(IMAGE)
    assert path.is_file() and path.parent.name == path.name[:2]
    assert [p for p in tmp_path.rglob("*") if p.is_file()] == [path]


def test_key_is_pixels_shape_and_params(tmp_path):
    cache = RegionCache(tmp_path, PARAMS)
    other_pixel = IMAGE.copy()
    other_pixel[3, 4, 1] ^= 1
    paths = {
        cache.path(IMAGE),
        cache.path(other_pixel),
        cache.path(IMAGE.reshape(20, 12, 3)),
        RegionCache(tmp_path, {**PARAMS, "scales": [1]}).path(IMAGE),
    }
    assert len(paths) == 4
    assert cache.path(IMAGE) == cache.path(np.asfortranarray(IMAGE))
    assert cache.path(IMAGE) == RegionCache(tmp_path, dict(reversed(PARAMS.items()))).path(IMAGE)


@pytest.mark.parametrize("fault", ["empty", "cut", "damaged", "foreign", "size"])
def test_unusable_entries_are_reported_and_replaced(tmp_path, caplog, fault):
    cache, source = RegionCache(tmp_path, PARAMS), Source()
    cache.get(IMAGE, source)
    path = cache.path(IMAGE)
    good = path.read_bytes()
    other = RegionRecord.from_labels(np.zeros((3, 4), np.int64)).to_bytes()
    path.write_bytes(
        {
            "empty": b"",
            "cut": good[: len(good) // 2],
            "damaged": good[:-5] + b"xxxxx",
            "foreign": b"\x93NUMPY and more bytes than a head has",
            "size": other,
        }[fault]
    )
    with caplog.at_level(logging.WARNING, "rmae_d2.regions"):
        assert_right(cache.get(IMAGE, source))
    assert source.calls == 2 and path.read_bytes() == good
    assert len(caplog.records) == 1 and str(path) in caplog.text
    assert_right(cache.get(IMAGE, source))
    assert source.calls == 2


def assert_goes_on_with_one_warning(cache, folder, caplog):
    source = Source()
    with caplog.at_level(logging.WARNING, "rmae_d2.regions"):
        for image in (IMAGE, IMAGE[::-1], IMAGE):
            assert_right(cache.get(image, source), image)
    assert source.calls == 3
    writes = [r for r in caplog.records if "CANNOT WRITE" in r.getMessage()]
    assert len(writes) == 1 and str(folder) in writes[0].getMessage()
    assert len(caplog.records) <= 2


def test_folder_that_is_a_file(tmp_path, caplog):
    folder = tmp_path / "cache"
    folder.write_text("not a folder")
    assert_goes_on_with_one_warning(RegionCache(folder, PARAMS), folder, caplog)


def test_full_disk(mount, caplog):
    full_disk = mount("16k")
    RegionCache(full_disk, PARAMS).path(IMAGE).parent.mkdir(parents=True)
    with pytest.raises(OSError), open(full_disk / "ballast", "wb", buffering=0) as file:
        while True:
            file.write(bytes(4096))
    assert_goes_on_with_one_warning(RegionCache(full_disk, PARAMS), full_disk, caplog)
    assert [p.name for p in full_disk.rglob("*") if p.is_file()] == ["ballast"]


def test_source_errors_pass_through_and_leave_nothing(tmp_path):
    cache = RegionCache(tmp_path, PARAMS)
    with pytest.raises(RuntimeError, match="broken"):
        cache.get(IMAGE, lambda image: (_ for _ in ()).throw(RuntimeError("broken")))
    with pytest.raises(ValueError, match=r"\(6, 20\)"):
        cache.get(IMAGE, lambda image: RegionRecord.from_labels(labels_of(image[:6])))
    assert not list(tmp_path.rglob("*.regions"))


# One of several processes that read, write and remove the same four entries. Detectron2 is hidden
# because the package would import it, which takes longer than the test.
WORKER = """
import sys
sys.modules["detectron2"] = None
import numpy as np
from rmae_d2.regions import RegionCache, RegionRecord

print("ready", flush=True)
sys.stdin.readline()
for turn in range(200):
    image = np.full((30, 40, 3), turn % 4, np.uint8)
    cache = RegionCache(sys.argv[1], {})
    record = cache.get(image, lambda image: RegionRecord.from_labels(image[..., 0]))
    assert (record.take(range(30), range(40)).labels == turn % 4).all()
    if turn % 5 == 0:
        cache.path(image).unlink(missing_ok=True)
"""


def test_many_processes_share_a_folder(tmp_path):
    command = [sys.executable, "-c", WORKER, str(tmp_path)]
    pipe = subprocess.PIPE
    workers = [
        subprocess.Popen(command, cwd=ROOT, stdin=pipe, stdout=pipe, stderr=pipe, text=True)
        for _ in range(4)
    ]
    for worker in workers:
        assert worker.stdout.readline() == "ready\n"
    for worker in workers:
        worker.stdin.write("go\n")
        worker.stdin.flush()
    for worker in workers:
        _, complaints = worker.communicate(timeout=HUNG)
        assert worker.returncode == 0 and complaints == ""  # a half-read entry would be reported
    left = [p for p in tmp_path.rglob("*") if p.is_file()]
    assert all(p.suffix == ".regions" for p in left)
    for path in left:
        RegionRecord.from_bytes(path.read_bytes())
