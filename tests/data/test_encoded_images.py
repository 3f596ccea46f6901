"""Images kept in memory and read ahead: the same samples, and how many reads that saves."""

import itertools
import multiprocessing
import time
from pathlib import Path

import numpy as np
import pytest
from detectron2.data import DatasetMapper
from detectron2.data import transforms as T
from hypothesis import given
from hypothesis import strategies as st

from rmae_d2.data import build_train_loader
from rmae_d2.data.encoded_images import RamCache, free_memory
from rmae_d2.data.images import RandomResizedCrop
from rmae_d2.data.loader import StreamBatchSampler
from rmae_d2.data.mappers import RegionDatasetMapper
from rmae_d2.errors import RemoteError, UserError
from tests.helpers import events, wait_for, write_photos


@pytest.fixture
def dicts(tmp_path):
    """Twelve photos."""
    photos = sorted(write_photos(tmp_path / "photos").iterdir())
    return [{"file_name": str(path), "image_id": path.name} for path in photos]


def mapper():
    return RegionDatasetMapper(augmentations=[RandomResizedCrop(16), T.RandomFlip()])


def batches(loader, count):
    """The pixels of the first batches, and which they are."""
    iterator = iter(loader)
    found = [next(iterator) for _ in range(count)]
    iterator.close()
    return [(b.images.numpy(), [fact["image_id"] for fact in b.facts]) for b in found]


def assert_same(found, expected):
    for (image, ids), (other, others) in zip(found, expected, strict=True):
        assert ids == others
        np.testing.assert_array_equal(image, other)


# ---------------------------------------------------------------- the cache


def test_a_cache_gives_what_it_was_given():
    cache = RamCache(4, 10)
    assert cache.get(1) is None
    cache.put(1, b"abcd")
    cache.put(1, b"other")
    cache.put(3, b"efgh")
    cache.put(0, b"ijkl")  # there is no room
    cache.put(2, b"mn")
    assert [cache.get(k) for k in range(4)] == [None, b"abcd", b"mn", b"efgh"]
    assert cache.counts() == {
        **{"hits": 3, "misses": 2, "images": 3, "bytes": 10},
        **{"limit": 10, "full": True},
    }


def fill(cache, start):
    for k in itertools.chain(range(start, 200), range(start)):
        content = f"{k} ".encode() * (k + 1)
        found = cache.get(k)
        assert found in (None, content), k
        cache.put(k, content)
        assert cache.get(k) in (None, content), k  # None while another one copies it


def test_processes_fill_it_together():
    contents = [f"{k} ".encode() * (k + 1) for k in range(200)]
    size = sum(map(len, contents))
    cache = RamCache(200, size)
    fork = multiprocessing.get_context("fork")
    processes = [fork.Process(target=fill, args=(cache, start)) for start in (0, 0, 50, 190)]
    for process in processes:
        process.start()
    for process in processes:
        process.join()
    assert [process.exitcode for process in processes] == [0] * 4
    assert [cache.get(k) for k in range(200)] == contents
    counts = cache.counts()
    assert (counts["images"], counts["bytes"], counts["full"]) == (200, size, False)


def test_free_memory():
    assert 2**20 < free_memory() < 2**50


# ---------------------------------------------------------------- the order of reading


@given(st.integers(1, 3), st.integers(1, 3), st.integers(1, 3), st.integers(0, 7))
def test_what_a_process_loads_next(world, accum, m, number):
    sampler = StreamBatchSampler(world * accum * m, world, world - 1, accum)
    order = list(itertools.islice(sampler, number + 2))
    assert sampler.following(order[number]) == order[number + 1]


def serve(dicts, web):
    for sample in dicts:
        content = Path(sample["file_name"]).read_bytes()
        sample["file_name"] = f"{web.url}/{sample['image_id']}"
        (web.folder / sample["image_id"]).write_bytes(content)


def test_images_are_asked_for_ahead(dicts, web):
    serve(dicts, web)
    loader = build_train_loader(dicts, mapper(), 2, num_workers=0, read_ahead=4)
    order = [loader._stream.index(position) for position in range(12)]
    iterator = iter(loader)

    def asked():
        return {path[1:] for method, path, _ in web.said if method == "GET"}

    for loaded in (2, 4):
        next(iterator)
        expected = {dicts[k]["image_id"] for k in order[: loaded + 4]}
        wait_for(lambda expected=expected: asked() == expected)
    iterator.close()


def test_a_worker_that_ends_asks_no_more(dicts, web, capfd):
    serve(dicts, web)
    web.trouble = lambda *_: time.sleep(0.05)
    iterator = iter(build_train_loader(dicts, mapper(), 2, num_workers=1, read_ahead=12))
    assert len(next(iterator).facts) == 2
    iterator.close()
    assert " of 6: " not in capfd.readouterr().err  # no other tries


# ---------------------------------------------------------------- samples

OPTIONS = [
    {"cache": "ram", "cache_bytes": 1 << 20},
    {"cache": "ram", "cache_bytes": 5000},  # of 12 photos of 1 to 2 kB
    {"read_ahead": 5},
    {"cache": "ram", "cache_bytes": 1 << 20, "read_ahead": 30},
]


@pytest.mark.parametrize("workers", [0, 2])
@pytest.mark.parametrize("options", OPTIONS)
def test_samples_are_the_same(dicts, options, workers):
    shared = {"num_workers": workers, "seed": 3, "grad_accum": 2}
    expected = batches(build_train_loader(dicts, mapper(), 4, **shared), 20)
    loader = build_train_loader(dicts, mapper(), 4, **shared, **options)
    assert_same(batches(loader, 20), expected)
    if "cache" not in options:
        return
    counts = loader.cache.counts()
    assert counts["full"] == (options["cache_bytes"] == 5000)
    assert 0 < counts["bytes"] <= options["cache_bytes"]
    assert counts["hits"] + counts["misses"] >= 40 and counts["hits"] >= counts["images"]
    if not counts["full"]:
        assert counts["images"] == 12


@pytest.mark.parametrize("name", ["ours", "Detectron2's"])
def test_once_in_memory_no_file_is_read(dicts, tmp_path, name):
    def detectron2s():
        return DatasetMapper(is_train=False, augmentations=[], image_format="RGB")

    make = mapper if name == "ours" else detectron2s
    expected = build_train_loader(dicts, make(), 12, num_workers=0).preview(24)
    loader = build_train_loader(dicts, make(), 12, num_workers=2, cache="ram", cache_bytes=1 << 20)
    iterator = iter(loader)
    first = next(iterator)
    wait_for(lambda: loader.cache.counts()["images"] == 12)
    (tmp_path / "photos").rename(tmp_path / "moved")
    assert len(first.facts if name == "ours" else first) == 12
    iterator.close()
    found = loader.preview(24)  # in the main process, of what its workers have put there
    if name == "ours":
        np.testing.assert_array_equal(found.images.numpy(), expected.images.numpy())
    else:
        for sample, other in zip(found, expected, strict=True):
            np.testing.assert_array_equal(sample["image"].numpy(), other["image"].numpy())


@pytest.mark.parametrize("options", OPTIONS[1:])
def test_images_that_cannot_be_read_are_the_same(dicts, tmp_path, options):
    (tmp_path / "photos/photo03.jpg").unlink()
    (tmp_path / "photos/photo05.jpg").write_bytes(b"")
    (tmp_path / "photos/photo07.jpg").write_bytes(b"no image")
    loaders = [
        build_train_loader(dicts, mapper(), 4, num_workers=2, **chosen) for chosen in ({}, options)
    ]
    facts = [
        [fact for batch in itertools.islice(loader, 6) for fact in batch.facts]
        for loader in loaders
    ]
    assert facts[0] == facts[1]
    assert {file for fact in facts[1] for file, _ in fact.get("skipped", ())} == {
        dicts[k]["file_name"] for k in (3, 5, 7)
    }


@pytest.mark.parametrize("workers", [0, 2])
def test_a_server_that_fails_ends_it(dicts, web, monkeypatch, workers):
    monkeypatch.setenv("RMAE_D2_REMOTE_TRIES", "1")
    web.trouble = lambda *_: 503
    dicts = [{**sample, "file_name": f"{web.url}/{sample['image_id']}"} for sample in dicts]
    with pytest.raises(RemoteError, match=r"photo\d\d\.jpg: no whole answer in 1 tries"):
        next(iter(build_train_loader(dicts, mapper(), 4, num_workers=workers)))


# ---------------------------------------------------------------- a run


def test_a_run_says_what_the_memory_was_worth(runs, tmp_path, metrics):
    steps = ["train.max_iter=7", "train.checkpointer.period=7", "dataloader.train.num_workers=2"]
    runs.train(tmp_path / "without", *steps)
    options = ["cache=ram", "cache_bytes=1e6", "read_ahead=2"]
    runs.train(tmp_path / "with", *steps, *(f"dataloader.train.{option}" for option in options))
    assert metrics(tmp_path / "with") == metrics(tmp_path / "without")
    found = events(tmp_path / "with", "cache")
    assert [event["iteration"] for event in found] == [2, 5, 6]  # epochs have 3 steps
    last = found[-1]
    assert (last["images"], last["limit"], last["full"]) == (12, 1_000_000, False)
    assert last["bytes"] == sum(path.stat().st_size for path in runs.photos.iterdir())
    # Each image is read once or, by two workers at the same time, twice.
    assert 12 <= last["misses"] <= 24 and last["hits"] + last["misses"] >= 28
    assert "in memory: 12 of 12 encoded images" in (tmp_path / "with/log.txt").read_text()
    assert events(tmp_path / "without", "cache") == []


def test_a_cache_that_is_none(dicts):
    with pytest.raises(UserError, match="cache=disk must be ram"):
        build_train_loader(dicts, mapper(), 4, cache="disk")
