"""Region stores: every record found again, damage named, memory shared."""

import gc
import json
import mmap
import os
import pickle
import shutil
import subprocess
import sys
import zlib
from concurrent.futures import ThreadPoolExecutor
from hashlib import blake2b
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from rmae_d2.errors import StoreError
from rmae_d2.packed import shard_files
from rmae_d2.regions import EncodedRecord, RegionStore, ShardHeader, ShardWriter, write_index
from rmae_d2.regions.store.shards import digest, params_hash
from rmae_d2.regions.store.store import MAX_OPEN_SHARDS
from tests.helpers import SPECIAL, put_special

ROOT = Path(__file__).resolve().parents[3]
KEYS = ["139", "285", "a/b.jpg", "日本.jpg", "l" * 150, "x/" * 150 + "y", "../z", "3"]


@pytest.fixture(scope="module")
def records(make_record):
    return {key: make_record(i) for i, key in enumerate(KEYS)}


@pytest.fixture
def folder(tmp_path, make_store, records):
    """A complete store of three shards."""
    return make_store(tmp_path / "store", records)


def contents_of(store):
    keys = list(store.keys())
    assert len(keys) == len(store)
    return {key: store.get(key) for key in keys}


@given(st.dictionaries(st.text(st.characters(), min_size=1), st.binary(max_size=2000), max_size=9))
def test_round_trip(tmp_path_factory, make_store, contents):
    if not contents:
        contents = {"only": b""}
    store = RegionStore(make_store(tmp_path_factory.mktemp("store"), contents, per_shard=2))
    assert list(store.keys()) == list(contents) and len(store) == len(contents)
    assert {key: store.get(key) for key in contents} == contents
    assert all(key in store for key in contents)


def test_what_a_store_says(folder, records):
    store = RegionStore(folder)
    assert len(store) == len(KEYS) and store.complete
    assert store.num_shards == store.present == 3
    assert store.params == {"source": "test", "scales": [1, 2]}
    assert store.image_digest("a/b.jpg") == digest(b"image of a/b.jpg")
    assert store.where("3") == str(folder / "regions-00002.tar")
    assert EncodedRecord(store.get("139")).params == store.params
    for absent in ("140", "", "a", "A/b.jpg", "l" * 149):
        assert absent not in store
        for question in (store.get, store.image_digest, store.where):
            with pytest.raises(KeyError):
                question(absent)
    assert 139 not in store


def test_copies_open_the_folder_themselves(folder, records):
    data = pickle.dumps(RegionStore(folder))
    assert len(data) < 400
    copy = pickle.loads(data)
    assert contents_of(copy) == records


def test_with_the_index_no_other_is_read_and_memory_is_shared(folder, records):
    """Of each shard's, only the end is looked at; the rest of this one cannot be read."""
    idx = folder / "regions-00001.idx.npz"
    damage(idx, lambda data: bytes(len(data) - 1024) + data[-1024:])
    store = RegionStore(folder)
    for held in (store._hashes, store._numbers, store._offsets, store._sizes):
        while isinstance(held, np.ndarray):
            held = held.base
        assert isinstance(held, mmap.mmap)  # the kernel's copy, of all processes
    assert all(store.get(key) == records[key] for key in KEYS)
    with pytest.raises(StoreError, match="regions-00001.idx.npz is damaged"):
        list(store.keys())


def test_open_files_are_few_and_closed(tmp_path, make_store):
    contents = {str(i): bytes([i]) for i in range(MAX_OPEN_SHARDS + 20)}
    folder = make_store(tmp_path / "store", contents, per_shard=1)

    def open_tars():
        links = (os.path.join("/proc/self/fd", fd) for fd in os.listdir("/proc/self/fd"))
        targets = [os.readlink(link) for link in links if os.path.lexists(link)]
        return sum(x.startswith(str(folder)) and x.endswith(".tar") for x in targets)

    store = RegionStore(folder)
    for _ in range(2):
        assert all(store.get(key) == value for key, value in contents.items())
        assert open_tars() == MAX_OPEN_SHARDS
    del store
    gc.collect()
    assert open_tars() == 0


def test_threads_share_a_store(tmp_path, make_store):
    contents = {str(i): os.urandom(300) for i in range(2 * MAX_OPEN_SHARDS)}
    store = RegionStore(make_store(tmp_path / "store", contents, per_shard=1))

    def read(seed):
        keys = [str(i) for i in np.random.default_rng(seed).integers(0, len(contents), 400)]
        return all(store.get(key) == contents[key] for key in keys)

    with ThreadPoolExecutor(8) as pool:
        assert all(pool.map(read, range(8)))


# ------------------------------------------------------------------------------- incomplete


def test_a_store_in_the_making_is_read_with_a_warning(tmp_path, make_store, records, caplog):
    folder = make_store(tmp_path / "store", records, only=[0, 2])
    (folder / "regions-00001.0123456789abcdef.tar.tmp").write_bytes(b"a draft")
    (folder / "regions-00001.tar").write_bytes(b"killed between the two renames")
    store = RegionStore(folder)
    assert "2 of 3 shards" in caplog.text and "rmae-d2 regions" in caplog.text
    assert (store.present, store.num_shards, store.complete) == (2, 3, False)
    assert list(store.keys()) == KEYS[:3] + KEYS[6:]
    assert store.get("3") == records["3"] and KEYS[3] not in store
    caplog.clear()
    assert pickle.loads(pickle.dumps(store)).get("3") == records["3"]
    assert not caplog.records
    with pytest.raises(StoreError, match="2 of 3 shards, regions-00001 is missing"):
        write_index(folder)


@pytest.mark.parametrize("kind", ["absent", "empty", "file", "begun"])
def test_no_store_there(tmp_path, kind):
    folder = tmp_path / "store"
    if kind == "file":
        folder.write_text("")
    elif kind != "absent":
        folder.mkdir()
    if kind == "begun":
        (folder / "manifest.json").write_text("{}")
        (folder / "regions-00000.0123456789abcdef.tar.tmp").write_text("")
    with pytest.raises(StoreError, match="region store") as error:
        RegionStore(folder)
    assert f"rmae-d2 regions --output {folder}" in str(error.value)


# ---------------------------------------------------------------------------------- damage


def damage(path, change):
    path.write_bytes(change(path.read_bytes()))


def header_of(number=1, params=None, num_shards=3, manifest="hash of the list of images"):
    params = {"source": "test", "scales": [1, 2]} if params is None else params
    return ShardHeader(params, num_shards, manifest)


def rewrite(folder, records, number, header):
    with ShardWriter(folder, number, header) as writer:
        for key in KEYS[3 * number : 3 * number + 3]:
            writer.add(key, records[key], digest(b"image of " + key.encode()))


def other_store(**changes):
    """Makes a shard again with another header."""
    return lambda folder, records: rewrite(folder, records, 1, header_of(**changes))


def damaged(number, change):
    """Changes a file of the shard."""
    return lambda folder, records: damage(folder / shard_files(1)[number], change)


FAULTS = [
    (damaged(0, lambda data: data[:-512]), "regions-00001.tar is cut short: .* bytes, not "),
    (damaged(0, lambda data: data + b"x"), "regions-00001.tar is not the one that was indexed"),
    (
        lambda folder, records: (folder / "regions-00001.tar").unlink(),
        "regions-00001.tar is missing beside its index",
    ),
    (damaged(1, lambda data: data[:-7]), "regions-00001.idx.npz is damaged"),
    (damaged(1, lambda data: b""), "regions-00001.idx.npz is damaged"),
    (
        lambda folder, records: shutil.copy(folder / shard_files(0)[1], folder / shard_files(1)[1]),
        "regions-00001.idx.npz holds shard 0",
    ),
    (
        other_store(params={"source": "test", "scales": [7, 8, 9]}),
        "regions-00001.idx.npz is a shard of another store, params: .*\\[7",
    ),
    (
        other_store(manifest="another"),
        "regions-00001.idx.npz is a shard of another store, manifest",
    ),
]


@pytest.mark.parametrize("fault, message", FAULTS)
def test_damage_is_found_at_opening(folder, records, fault, message):
    fault(folder, records)
    for indexed in (True, False):
        if not indexed:
            (folder / "index.npy").unlink()
        with pytest.raises(StoreError, match=message) as error:
            RegionStore(folder)
        assert str(folder) in str(error.value)
        assert "rmae-d2 regions" in str(error.value) or "another folder" in str(error.value)


def test_a_tar_of_other_parameters_and_the_same_length_is_found_when_it_is_read(folder, records):
    tar, _ = (folder / name for name in shard_files(1))
    damage(tar, lambda data: data.replace(b'"scales":[1,2]', b'"scales":[1,3]'))
    store = RegionStore(folder)
    assert store.get(KEYS[0]) == records[KEYS[0]]
    with pytest.raises(StoreError, match="regions-00001.tar is damaged"):
        store.get(KEYS[3])


def test_a_tar_cut_short_while_it_is_read(folder):
    store = RegionStore(folder)
    store.get(KEYS[3])
    os.truncate(folder / "regions-00001.tar", 2048)
    with pytest.raises(StoreError, match="regions-00001.tar ends before byte"):
        store.get(KEYS[5])


@pytest.mark.parametrize("fault", ["missing", "cut", "damaged", "foreign", "older", "of fewer"])
def test_the_index_is_put_together_where_it_is_no_good(folder, records, caplog, fault):
    index = folder / "index.npy"
    good = index.read_bytes()
    expected = dict(records)
    if fault == "missing":
        index.unlink()
    elif fault == "cut":
        damage(index, lambda data: data[:-9])
    elif fault == "damaged":
        damage(index, lambda data: data[:-9] + b"\x01" + data[-8:])
    elif fault == "foreign":
        np.save(index, np.zeros((3, 4)))
    elif fault == "older":  # shard 2 was made again, with another record
        expected["3"] = b"another record"
        rewrite(folder, expected, 2, header_of())
    else:
        for name in shard_files(1):
            (folder / name).unlink()
        expected = {key: records[key] for key in KEYS[:3] + KEYS[6:]}
    store = RegionStore(folder)
    assert contents_of(store) == expected
    assert all((key in store) == (key in expected) for key in KEYS)
    reported = [r for r in caplog.records if "index.npy is not used" in r.getMessage()]
    assert len(reported) == (fault != "missing")
    if fault not in ("of fewer", "older"):
        write_index(folder)
        assert index.read_bytes() == good


def test_a_key_in_two_shards(tmp_path):
    for number in range(2):
        with ShardWriter(tmp_path, number, ShardHeader({}, 2)) as writer:
            writer.add(f"own {number}", b"", bytes(16))
            writer.add("shared", b"", bytes(16))
    with pytest.raises(StoreError, match="'shared' twice, in regions-00000 and regions-00001"):
        write_index(tmp_path)


def test_a_hash_that_two_keys_share_is_told_apart(folder, records):
    """The index is made to say that an absent key's hash lies where another key's record is."""
    index = np.load(folder / "index.npy")
    row = int(np.flatnonzero(index[1, 4:] == 1)[0])
    absent = blake2b(b"absent", digest_size=8).digest()
    index[0, 4 + row] = np.frombuffer(absent, np.uint64)[0]
    order = np.argsort(index[0, 4:], kind="stable")
    index[:, 4:] = index[:, 4:][:, order]
    index[3, 0] = zlib.crc32(index[:, 1:].tobytes())
    np.save(folder / "index.npy", index)
    store = RegionStore(folder)
    assert "absent" not in store
    with pytest.raises(KeyError):
        store.get("absent")


@pytest.fixture(scope="module")
def plain(tmp_path_factory, make_store, records):
    return make_store(tmp_path_factory.mktemp("plain"), records, per_shard=4)


@given(st.data())
def test_flipped_bits_never_give_a_wrong_record(plain, records, tmp_path_factory, data):
    folder = tmp_path_factory.mktemp("flipped") / "store"
    shutil.copytree(plain, folder)
    name = data.draw(st.sampled_from(sorted(os.listdir(folder))))
    content = bytearray((folder / name).read_bytes())
    for _ in range(data.draw(st.integers(1, 4))):
        content[data.draw(st.integers(0, len(content) - 1))] ^= data.draw(st.integers(1, 255))
    (folder / name).write_bytes(content)
    try:
        store = RegionStore(folder)
    except StoreError:
        assert name != "index.npy"  # that one is made again
        return
    for key in KEYS:
        try:
            record = store.get(key)
            assert record == records[key] or EncodedRecord(record) is None
        except StoreError:
            assert name.endswith(".tar")


# ---------------------------------------------------------------------------------- remote


def test_remote_folders_through_detectron2s_path_manager(folder, records, caplog):
    from detectron2.utils.file_io import PathManager
    from iopath.common.file_io import PathHandler

    class Remote(PathHandler):
        """Files of a folder, as `regions-test://`."""

        def _get_supported_prefixes(self):
            return ["regions-test://"]

        def _local(self, path):
            return str(folder / path.removeprefix("regions-test://").lstrip("/"))

        def _get_local_path(self, path, force=False, **kwargs):
            return self._local(path)

        def _isfile(self, path, **kwargs):
            return os.path.isfile(self._local(path))

        def _ls(self, path, **kwargs):
            return os.listdir(self._local(path))

    PathManager.register_handler(Remote())
    try:
        for indexed in (True, False):
            if not indexed:
                (folder / "index.npy").unlink()
            store = pickle.loads(pickle.dumps(RegionStore("regions-test://")))
            assert contents_of(store) == records
            assert "absent" not in store
        (folder / "regions-00001.tar").write_bytes(b"")
        with pytest.raises(StoreError, match="regions-test://.*regions-00001.tar is cut short"):
            RegionStore("regions-test://").get(KEYS[3])
    finally:
        PathManager._path_handlers.pop("regions-test://")
    with pytest.raises(StoreError, match="there is no region store nowhere://here"):
        RegionStore("nowhere://here")


WITHOUT_DETECTRON2 = """
import sys
sys.modules["detectron2"] = None
from iopath.common.file_io import PathHandler, g_pathmgr
class Remote(PathHandler):
    def _get_supported_prefixes(self):
        return ["mine://"]
    def _get_local_path(self, path, force=False, **kwargs):
        return path.replace("mine://", sys.argv[1] + "/")
    def _isfile(self, path, **kwargs):
        return True
g_pathmgr.register_handler(Remote())
from rmae_d2.regions import RegionStore
print(len(RegionStore("mine://").get("139")))
assert "detectron2.utils.file_io" not in sys.modules
"""


def test_remote_folders_without_detectron2(folder, records):
    done = subprocess.run(
        [sys.executable, "-c", WITHOUT_DETECTRON2, str(folder)], cwd=ROOT, capture_output=True
    )
    assert done.returncode == 0, done.stderr.decode()
    assert int(done.stdout) == len(records["139"])


@pytest.mark.parametrize("kind", SPECIAL)
@pytest.mark.parametrize("name", shard_files(1))
def test_what_is_no_file_of_a_store_is_named(folder, name, kind):
    put_special(folder / name, kind)
    with pytest.raises(
        StoreError, match=f"{name}.* (it is a {kind}|is missing|is cut short|is not the)"
    ):
        RegionStore(folder)


@pytest.mark.parametrize("kind", SPECIAL)
def test_an_index_that_is_no_file_is_put_together(folder, records, caplog, kind):
    put_special(folder / "index.npy", kind)
    assert contents_of(RegionStore(folder)) == records
    assert f"it is a {kind}, not a file" in caplog.text


def rewrite_index(path, change):
    """An idx.npz with other arrays, whose checksums are right."""
    with np.load(path) as found:
        arrays = {name: found[name].copy() for name in found.files}
    change(arrays)
    np.savez(path, **arrays)


def test_an_index_that_unpacks_to_gigabytes_is_not_unpacked(folder):
    path = folder / shard_files(1)[1]
    with np.load(path) as found:
        np.savez_compressed(path, **dict(found) | {"keys": np.zeros(1 << 24, np.uint8)})
    with pytest.raises(
        StoreError, match="regions-00001.idx.npz is damaged .its arrays are compressed"
    ):
        RegionStore(folder)


def header_text(**values):
    def change(arrays):
        content = json.loads(arrays["header"].tobytes())
        content.update(values)
        content["params_hash"] = params_hash(content["params"])
        arrays["header"] = np.frombuffer(json.dumps(content).encode(), np.uint8)

    return change


def put(name, value):
    return lambda arrays: arrays.update({name: value(arrays[name])})


@pytest.mark.parametrize("indexed", [False, True], ids=["shards alone", "with index.npy"])
@pytest.mark.parametrize(
    "change",
    [
        put("keys", lambda keys: np.full_like(keys, 0xFF)),  # not UTF-8
        put("keys", lambda keys: keys[:-1]),
        put("ends", lambda ends: ends[::-1]),
        put("ends", lambda ends: ends.astype(float)),
        put("offsets", lambda offsets: offsets + np.uint64(2**64 - 1)),
        put("offsets", lambda offsets: np.array(["1"] * len(offsets))),
        put("sizes", lambda sizes: sizes + np.uint64(2**63)),
        put("record_digests", lambda digests: digests[:, :8]),
        put("tar_size", lambda size: size + np.uint64(2**63)),
        put("tar_size", lambda size: size[:0]),
        put("header", lambda header: np.frombuffer(b"[" * 100_000, np.uint8)),
        put("header", lambda header: np.frombuffer(b"9" * 5000, np.uint8)),
        header_text(params=[1]),
        header_text(num_shards="3"),
        header_text(num_shards=10**12),
        header_text(num_shards=1),
        header_text(manifest={}),
        header_text(shard="1"),
        lambda arrays: arrays.pop("keys"),
    ],
)
def test_hostile_contents_are_a_store_error_and_never_an_absent_key(folder, change, indexed):
    """Whoever falls back on another source for absent keys must hear of it."""
    if not indexed:
        (folder / "index.npy").unlink()
    rewrite_index(folder / shard_files(1)[1], change)
    with pytest.raises(StoreError, match="regions-00001"):
        store = RegionStore(folder)
        list(store.keys())
        for key in KEYS:
            store.get(key)


def out_of_order(columns):
    columns[:] = columns[:, ::-1]


def set_row(row, value):
    def change(columns):
        columns[row] = value

    return change


@pytest.mark.parametrize(
    "change",
    [out_of_order, set_row(1, 77), set_row(1, 2), set_row(1, 2**63)],
    ids=["order", "shard", "byte", "size"],
)
def test_a_hostile_index_is_put_together_anew(folder, records, caplog, change):
    index = np.load(folder / "index.npy")
    change(index[:, 4:])
    index[3, 0] = zlib.crc32(index[:, 1:].tobytes())
    np.save(folder / "index.npy", index)
    assert contents_of(RegionStore(folder)) == records
    assert "columns contradict each other" in caplog.text


@pytest.mark.parametrize("row", [2, 3])
def test_hostile_places_are_a_store_error(folder, row):
    for value in (0, 511, 2**40, 2**63, 2**64 - 1):
        index = np.load(folder / "index.npy")
        index[row, 4:] = value
        index[3, 0] = zlib.crc32(index[:, 1:].tobytes())
        np.save(folder / "index.npy", index)
        store = RegionStore(folder)
        for key in KEYS:
            with pytest.raises(StoreError):
                store.get(key)
