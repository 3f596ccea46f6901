"""One shard: reproducible bytes that any tar reader understands, all there or not at all."""

import os
import re
import subprocess
import sys
import tarfile
from concurrent.futures import ThreadPoolExecutor
from hashlib import blake2b
from pathlib import Path

import numpy as np
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from rmae_d2.errors import StoreError
from rmae_d2.packed import shard_files
from rmae_d2.regions import RegionStore, ShardHeader, ShardWriter, write_index
from rmae_d2.regions.store.shards import (
    ImageFile,
    digest,
    encode_index,
    has_shard,
    read_index,
)
from rmae_d2.regions.store.tar_members import escape_key, unescape_key

ROOT = Path(__file__).resolve().parents[3]
HEADER = ShardHeader({"source": "test", "scales": (1, 2), "name": "ü"}, 3, "list")
KEYS = [
    "139",
    "train/n01440764/n01440764_18.JPEG",
    "../../etc/passwd",
    "/absolute//twice/",
    "日本/é.jpg",
    "not\udce9utf-8.jpg",
    "a%2Eb",
    "line\nbreak\0",
    "l" * 99,
    "m" * 200,
    "long/" * 100 + "name.jpg",
]
any_key = st.text(st.characters(), min_size=1)


def record_of(key):
    data = digest(key.encode("utf-8", "surrogatepass"))
    return data * (1 + len(key) % 70)


def write(folder, keys=KEYS, number=1, header=HEADER):
    with ShardWriter(folder, number, header) as writer:
        for key in keys:
            writer.add(key, record_of(key), digest(b"image"))
    return [folder / name for name in shard_files(number)]


@given(any_key)
@example("../..")
@example("//")
@example("\ud83d\ude00")  # two halves of an emoji, as broken file names have them
@example("%2F/%")
def test_names_are_harmless_and_reversible(key):
    name = escape_key(key)
    assert unescape_key(name) == key
    assert re.fullmatch(r"[A-Za-z0-9%_~/-]+", name)
    assert os.path.normpath(name) == name and not os.path.isabs(name)


@given(st.lists(any_key, unique=True, max_size=20))
@example(KEYS)
@example([])
def test_tarfile_streams_what_was_added(tmp_path_factory, keys):
    folder = tmp_path_factory.mktemp("shard")
    tar, idx = write(folder, keys)
    with tarfile.open(tar, "r|") as stream:
        found = {m.name: stream.extractfile(m).read() for m in stream if m.isfile()}
        assert "params" in stream.pax_headers["comment"]
    assert list(found) == [escape_key(key) + ".regions" for key in keys]
    assert list(found.values()) == [record_of(key) for key in keys]
    index, data = read_index(str(idx), 1), tar.read_bytes()
    assert list(index.keys()) == keys and index.tar_size == len(data)
    for i, key in enumerate(keys):
        start = int(index.offsets[i])
        assert data[start : start + int(index.sizes[i])] == record_of(key)
        assert index.record_digests[i].tobytes() == digest(record_of(key))
        assert index.image_digests[i].tobytes() == digest(b"image")


def test_webdataset_streams_what_was_added(tmp_path):
    wds = pytest.importorskip("webdataset")
    tars = [str(write(tmp_path, KEYS[i::3], i)[0]) for i in range(3)]
    tars.insert(1, str(write(tmp_path, [], 3, ShardHeader({}, 4))[0]))
    dataset = wds.WebDataset(tars, shardshuffle=False)
    found = {unescape_key(sample["__key__"]): sample["regions"] for sample in dataset}
    assert found == {key: record_of(key) for key in KEYS}


@given(st.dictionaries(any_key, st.binary(max_size=1030), max_size=9), st.data())
def test_a_packed_shard_has_each_image_before_its_record(tmp_path_factory, images, data):
    folder = tmp_path_factory.mktemp("packed")
    bare = data.draw(st.sets(st.sampled_from([*images]))) if images else set()
    with ShardWriter(folder, 0, ShardHeader({}, 1), packed=True) as writer:
        for key, content in images.items():
            record = b"" if key in bare else record_of(key)
            image = ImageFile(content, "png", (len(key), 7), False)
            writer.add(key, record, digest(content), image)
    tar, idx = (folder / name for name in shard_files(0))
    with tarfile.open(tar) as members:
        found = {m.name: members.extractfile(m).read() for m in members if m.isfile()}
    expected = {}
    for key, content in images.items():
        expected[f"{escape_key(key)}.png"] = content
        if key not in bare:
            expected[f"{escape_key(key)}.regions"] = record_of(key)
    assert list(found.items()) == list(expected.items())
    index = read_index(str(idx), 0)
    assert encode_index(index, 0) == idx.read_bytes()
    assert index.images.image_shapes.tolist() == [[len(key), 7] for key in images]
    whole, data = tar.read_bytes(), iter(images.values())
    for start, size in zip(index.images.image_offsets, index.images.image_sizes, strict=True):
        assert whole[int(start) : int(start + size)] == next(data)
    write_index(folder)
    store = RegionStore(folder)
    assert list(store.keys()) == [key for key in images if key not in bare]
    assert all(store.get(key) == record_of(key) for key in images if key not in bare)
    assert not any(key in store for key in bare)


def test_images_go_into_packed_shards_and_nowhere_else(tmp_path):
    image = ImageFile(b"", "jpg", (1, 1), False)
    for packed, given_image in ((True, None), (False, image)):
        writer = ShardWriter(tmp_path, 0, HEADER, packed)
        with pytest.raises(StoreError, match="an image with each key"), writer:
            writer.add("a", b"record", digest(b""), given_image)
    assert not list(tmp_path.iterdir())


def test_numpy_reads_the_index(tmp_path):
    _, idx = write(tmp_path)
    with np.load(idx) as arrays:
        assert arrays["offsets"].dtype == np.uint64 and len(arrays["ends"]) == len(KEYS)


def test_bytes_depend_on_contents_alone(tmp_path):
    """The hashes hold for every version of Python and numpy: resumed stores stay as they are."""
    first, second = tmp_path / "first", tmp_path / "second"
    for folder in (first, second):
        folder.mkdir()
        for number in range(3):
            write(folder, [f"{number}-{key}" for key in KEYS], number)
        write_index(folder)
    names = sorted(path.name for path in first.iterdir())
    assert names == sorted(path.name for path in second.iterdir()) and len(names) == 7
    for name in names:
        assert (first / name).read_bytes() == (second / name).read_bytes()
    hashes = {
        name: blake2b((first / name).read_bytes(), digest_size=8).hexdigest()
        for name in ("index.npy", *shard_files(2))
    }
    assert hashes == {
        "index.npy": "16c8c7c2d416ae18",
        "regions-00002.tar": "0b69317c105a3666",
        "regions-00002.idx.npz": "1602469bb667f777",
    }


def test_an_exception_leaves_nothing(tmp_path):
    with pytest.raises(KeyError, match="broken"), ShardWriter(tmp_path, 0, HEADER) as writer:
        writer.add("a", b"record", digest(b""))
        raise KeyError("broken")
    assert not list(tmp_path.iterdir())


KILLED = """
import os, sys
sys.modules["detectron2"] = None
from rmae_d2.regions import ShardHeader, ShardWriter
from rmae_d2.regions.store.shards import digest
with ShardWriter(sys.argv[1], 0, ShardHeader({}, 1)) as writer:
    for i in range(100):
        writer.add(str(i), bytes(5000), digest(b""))
    os.kill(os.getpid(), 9)
"""


def test_a_killed_writer_leaves_drafts_that_the_next_index_sweeps_away(tmp_path):
    subprocess.run([sys.executable, "-c", KILLED, str(tmp_path)], cwd=ROOT)
    assert [path.suffix for path in tmp_path.iterdir()] == [".tmp"]
    header = ShardHeader({}, 1)
    assert not has_shard(tmp_path, 0, header)
    write(tmp_path, number=0, header=header)
    write_index(tmp_path)
    assert sorted(os.listdir(tmp_path)) == [
        "index.npy",
        "regions-00000.idx.npz",
        "regions-00000.tar",
    ]


def test_twins_may_write_the_same_shard(tmp_path):
    with ThreadPoolExecutor(8) as pool:
        list(pool.map(lambda _: write(tmp_path), range(8)))
    assert has_shard(tmp_path, 1, HEADER)
    assert sorted(os.listdir(tmp_path)) == sorted(shard_files(1))


def test_a_shard_may_be_written_anew(tmp_path):
    write(tmp_path, KEYS[:3])
    _, idx = write(tmp_path, KEYS)
    assert has_shard(tmp_path, 1, HEADER) and list(read_index(str(idx), 1).keys()) == KEYS


@pytest.mark.parametrize(
    "key, image_digest, message",
    [("", bytes(16), "empty"), ("a", bytes(16), "'a' was added twice"), ("b", b"short", "digest")],
)
def test_what_cannot_be_added(tmp_path, key, image_digest, message):
    with pytest.raises(StoreError, match=message), ShardWriter(tmp_path, 0, HEADER) as writer:
        writer.add("a", b"record", bytes(16))
        writer.add(key, b"record", image_digest)
    with pytest.raises(StoreError, match="with block"):
        writer.add("c", b"record", bytes(16))
    with pytest.raises(StoreError, match="shard 3 of a store of 3"):
        ShardWriter(tmp_path, 3, HEADER)


def test_has_shard(tmp_path):
    tar, idx = write(tmp_path)
    assert has_shard(tmp_path, 1, HEADER)
    assert not has_shard(tmp_path, 0, HEADER) and not has_shard(tmp_path / "none", 1, HEADER)
    for other, what in [
        (ShardHeader({"source": "test"}, 3, "list"), "params"),
        (ShardHeader(HEADER.params, 4, "list"), "num_shards"),
        (ShardHeader(HEADER.params, 3, "other"), "manifest"),
    ]:
        with pytest.raises(StoreError, match=f"{idx.name} is a shard of another store, {what}"):
            has_shard(tmp_path, 1, other)
    data = tar.read_bytes()
    tar.write_bytes(data[:-1])
    assert not has_shard(tmp_path, 1, HEADER)
    tar.write_bytes(data)
    idx.write_bytes(idx.read_bytes()[:-1])
    assert not has_shard(tmp_path, 1, HEADER)
