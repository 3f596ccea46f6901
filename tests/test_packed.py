"""A packed folder as a data set: its items, its memory, and what is wrong with it."""

import os
import pickle
import shutil
import tracemalloc
from pathlib import Path

import numpy as np
import pytest

from rmae_d2.errors import StoreError
from rmae_d2.packed import PackedImages, shard_files, why
from rmae_d2.regions import ShardHeader, ShardWriter
from rmae_d2.regions.store.shards import ImageFile, digest

KEYS = [f"photos/{i:02}.jpg" for i in range(7)]
COUNTS = (3, 0, 4)  # a shard all of whose images failed is empty


def write(folder, keys=KEYS, counts=COUNTS, manifest="list", number_ids=False):
    """Shards of images whose content is their key."""
    header = ShardHeader({}, len(counts), manifest)
    folder.mkdir(parents=True)
    keys = iter(keys)
    for number, count in enumerate(counts):
        with ShardWriter(folder, number, header, packed=True) as writer:
            for _ in range(count):
                key = next(keys)
                content = key.encode() * 100
                image = ImageFile(content, "jpg", (len(key), 20), number_ids)
                writer.add(key, b"record", digest(content), image)
    return folder


@pytest.fixture
def shards(tmp_path):
    return write(tmp_path / "shards")


def content(item):
    """What an item's address stands for."""
    tar, _, place = item["file_name"].removeprefix("tar://").rpartition("?")
    offset, size = map(int, place.split("+"))
    return Path(tar).read_bytes()[offset : offset + size]


def test_items_are_dataset_dicts_made_when_asked_for(shards):
    images = PackedImages(str(shards))
    assert len(images) == 7 and [item["image_id"] for item in images] == KEYS
    assert [content(item) for item in images] == [key.encode() * 100 for key in KEYS]
    assert (images[2]["height"], images[2]["width"]) == (13, 20)
    assert images[-1] == images[6] and images[np.int64(3)] == images[3]
    assert images[0] is not images[0]  # a mapper may change what it gets
    for index in (7, -8):
        with pytest.raises(IndexError):
            images[index]
    assert list(images.keys()) == [key.encode() for key in KEYS]


def test_a_part_shares_the_arrays_and_survives_pickling(shards):
    images = PackedImages(str(shards))
    some = images[1::2]
    assert [item["image_id"] for item in some] == KEYS[1::2]
    fewer = some.take(np.array([2, 0]))
    assert list(fewer) == [images[5], images[1]] and fewer._shards is images._shards
    assert list(fewer.keys()) == [KEYS[5].encode(), KEYS[1].encode()]
    again = pickle.loads(pickle.dumps(fewer))
    assert list(again) == list(fewer) and len(pickle.dumps(images)) < 300


def test_ids_are_numbers_where_they_were(tmp_path):
    images = PackedImages(str(write(tmp_path / "shards", ["7", "-1"], (2,), number_ids=True)))
    assert [item["image_id"] for item in images] == [7, -1]


def test_memory_is_some_bytes_an_image(tmp_path):
    keys = [f"{i:06}" for i in range(2000)]
    folder = write(tmp_path / "shards", keys, (1000, 1000))
    PackedImages(str(folder))  # imports what it needs
    tracemalloc.start()
    images = PackedImages(str(folder))
    held, _ = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert images.num_bytes == 2000 * (6 + 4 * 8 + 1)
    assert held < images.num_bytes + 2 * 20_000  # a shard has its headers and objects, too


def test_a_folder_is_recognised_by_its_images(shards, tmp_path):
    assert why(str(shards)) == "regions-00000.idx.npz"
    with ShardWriter(tmp_path, 0, ShardHeader({}, 1)) as writer:
        writer.add("a", b"record", digest(b""))
    assert why(str(tmp_path)) == why(str(tmp_path / "absent")) == ""
    assert why(str(shards / "regions-00000.tar")) == ""
    (shards / "regions-00000.idx.npz").write_bytes(b"damaged")
    assert why(str(shards)) == "regions-00000.idx.npz"  # so that its damage is told


def test_a_relative_folder_may_be_left(shards, monkeypatch):
    monkeypatch.chdir(shards.parent)
    images = PackedImages("shards/")
    monkeypatch.chdir("/")
    assert content(images[0]) == KEYS[0].encode() * 100


def _cut_tar(folder):
    tar = folder / shard_files(2)[0]
    os.truncate(tar, tar.stat().st_size - 1)
    return r"shards/regions-00002.tar is not as long as it says"


def _take_index(folder):
    (folder / shard_files(1)[1]).unlink()
    return "shards is not complete: regions-00001 is missing; run the same rmae-d2 pack command"


def _take_tar(folder):
    (folder / shard_files(0)[0]).unlink()
    return "shards is not complete: regions-00000 is missing"


def _flip(folder):
    idx = folder / shard_files(2)[1]
    data = bytearray(idx.read_bytes())
    data[data.index(b"photos")] ^= 1
    idx.write_bytes(data)
    return r"regions-00002.idx.npz is damaged \(.*\): remove regions-00002.\* and run the same"


def _another(folder):
    other = write(folder.parent / "other", manifest="another list")
    shutil.copy(other / shard_files(2)[1], folder)
    shutil.copy(other / shard_files(2)[0], folder)
    return "regions-00002.idx.npz is of another data set than the first: remove regions-00002"


def _renamed(folder):
    for one, other in zip(shard_files(2), shard_files(0), strict=True):
        shutil.copy(folder / other, folder / one)
    return "regions-00002.idx.npz is damaged .*or was renamed"


def _regions_alone(folder):
    shutil.rmtree(folder)
    folder.mkdir()
    with ShardWriter(folder, 0, ShardHeader({}, 1)) as writer:
        writer.add("a", b"record", digest(b""))
    return "damaged .*image_offsets"


TROUBLES = [_cut_tar, _take_index, _take_tar, _flip, _another, _renamed, _regions_alone]


@pytest.mark.parametrize("trouble", TROUBLES)
def test_what_is_wrong_is_told_before_anything_is_read(shards, trouble):
    message = trouble(shards)
    with pytest.raises(StoreError, match=message):
        PackedImages(str(shards))
