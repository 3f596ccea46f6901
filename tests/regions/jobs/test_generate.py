"""Manifests, sources by name, shards as a pure function, and what verification finds."""

import errno
import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import rmae_d2.data
from rmae_d2.errors import UserError
from rmae_d2.files import opened
from rmae_d2.packed import PackedImages, shard_files
from rmae_d2.regions import FelzenszwalbSource, RegionRecord, RegionStore, write_index
from rmae_d2.regions.jobs.generate import (
    digest_file,
    failures_name,
    generate_shard,
    read_failures,
    verify_shard,
)
from rmae_d2.regions.jobs.manifest import MANIFEST, Manifest, save_manifest
from rmae_d2.regions.sources.spec import SourceSpec
from rmae_d2.regions.store.shards import has_shard
from tests.helpers import SPECIAL, put_special

FH = SourceSpec.named("fh", {"scales": [20]})


def read_image(path):
    """The contract of ReadImage: OSError is the machine's trouble, all else the file's."""
    try:
        with opened(path) as file, Image.open(file) as image:
            return np.array(image.convert("RGB"))
    except OSError as error:
        if error.errno == errno.EMFILE:
            raise
        raise ValueError("no image") from error


def make_store(manifest, folder):
    save_manifest(manifest, folder)
    failures = [generate_shard(manifest, i, folder, read_image) for i in range(manifest.num_shards)]
    write_index(folder)
    return failures


def contents(folder):
    return {path.name: path.read_bytes() for path in Path(folder).iterdir()}


# -------------------------------------------------------------------------------------- shards


def test_store_holds_what_the_source_makes(photos, tmp_path):
    manifest = Manifest.create(FH, photos, 3)
    assert make_store(manifest, tmp_path / "store") == [(), (), ()]
    store, source = RegionStore(tmp_path / "store"), FelzenszwalbSource([20])
    assert store.complete and store.params == manifest.params
    assert list(store.keys()) == [d["image_id"] for d in photos]
    for dataset_dict in photos:
        key = dataset_dict["image_id"]
        expected = source(dataset_dict, read_image(dataset_dict["file_name"]))
        expected = expected if isinstance(expected, RegionRecord) else expected.decode()
        np.testing.assert_array_equal(
            RegionRecord.from_bytes(store.get(key)).labels, expected.labels
        )
        assert store.image_digest(key) == digest_file(dataset_dict["file_name"])


def test_same_bytes_from_the_whole_and_a_part_again_and_elsewhere(photos, tmp_path):
    manifest = Manifest.create(FH, photos, 3)
    one, two = tmp_path / "one", tmp_path / "two"
    make_store(manifest, one)
    before = contents(one)
    generate_shard(manifest, 1, one, read_image)
    assert contents(one) == before
    moved = Path(photos[0]["file_name"]).parent.rename(tmp_path / "elsewhere")
    elsewhere = [{**d, "file_name": str(moved / d["image_id"])} for d in photos]
    two.mkdir()
    for number in (2, 0, 1):
        generate_shard(manifest.moved(elsewhere).part(number), number, two, read_image)
    write_index(two)
    assert contents(two) == {name: data for name, data in before.items() if name != MANIFEST}


def test_bad_images_are_recorded_and_heal(photos, tmp_path, bands):
    folder = tmp_path / "store"
    good = Path(photos[2]["file_name"]).read_bytes()
    Path(photos[2]["file_name"]).write_bytes(b"no image")
    manifest = Manifest.create(bands(refuse="b0"), photos, 7)
    (failures,) = make_store(manifest, folder)
    assert [(f.key, f.file, f.reason) for f in failures] == [
        ("a2.png", "a2.png", "ValueError: no image"),
        ("b/b0.png", "b/b0.png", "KeyError: 'no annotation'"),
    ]
    assert read_failures(folder, 0) == failures
    assert len(RegionStore(folder)) == 5 and "a2.png" not in RegionStore(folder)
    assert verify_shard(manifest, 0, folder, read_image) == ()
    Path(photos[2]["file_name"]).write_bytes(good)
    again = Manifest.create(bands(), photos, 7)
    assert again.hash == manifest.hash
    assert not generate_shard(again, 0, folder, read_image)
    assert not (folder / failures_name(0)).exists()
    assert verify_shard(manifest, 0, folder, read_image) == ()


def test_an_image_that_only_the_source_refuses_is_packed(photos, tmp_path, bands):
    folder = tmp_path / "shards"
    Path(photos[2]["file_name"]).write_bytes(b"no image")
    manifest = Manifest.create(bands(refuse="b0"), photos, [0, 4])
    refused = [[f.key for f in failures] for failures in make_store(manifest, folder)]
    assert refused == [["a2.png"], ["b/b0.png"]]
    assert [d["image_id"] for d in PackedImages(str(folder))] == [
        "a0.png", "a1.png", "a3.png", "a4.png", "b/b0.png", "b/b1.png",
    ]  # fmt: skip
    assert len(RegionStore(folder)) == 5 and "b/b0.png" not in RegionStore(folder)
    assert [verify_shard(manifest, i, folder, read_image) for i in (0, 1)] == [(), ()]
    (folder / failures_name(1)).unlink()
    (problem,) = verify_shard(manifest, 1, folder, read_image)
    assert "other images than the manifest: b/b0.png" in problem.what


def test_regions_of_another_size_are_a_failure(photos, tmp_path, bands):
    ((failure,),) = make_store(Manifest.create(bands("Smaller"), photos[:1]), tmp_path / "store")
    assert "(47, 64)" in failure.reason and "(48, 64)" in failure.reason


def out_of_files(path):
    raise OSError(errno.EMFILE, os.strerror(errno.EMFILE), path)


def out_of_memory(path):
    raise MemoryError


@pytest.mark.parametrize(
    ("read", "source", "message"),
    [
        (out_of_files, {}, r"a0.png: Too many open files; allow more .*ulimit -n"),
        (out_of_memory, {}, "fewer workers"),
        (read_image, {"crash": "a1"}, r"a1.png: RuntimeError: CUDA error.*raise ValueError"),
        (read_image, {"name": "Lists"}, "returned list"),
    ],
)
def test_trouble_of_machine_or_source_stops_and_leaves_nothing(
    photos, tmp_path, bands, read, source, message
):
    manifest = Manifest.create(bands(**source), photos)
    save_manifest(manifest, tmp_path / "store")
    with pytest.raises(UserError, match=message):
        generate_shard(manifest, 0, tmp_path / "store", read)
    assert set(contents(tmp_path / "store")) == {MANIFEST}


def test_full_disk(photos, mount, bands):
    small_disk = mount("64k")
    manifest = Manifest.create(bands(bands=256), photos)
    save_manifest(manifest, small_disk)
    (small_disk / "ballast").write_bytes(bytes(52 << 10))
    with pytest.raises(UserError, match="No space left.*(free there|run the same command)"):
        generate_shard(manifest, 0, small_disk, read_image)
    assert set(contents(small_disk)) == {MANIFEST, "ballast"}
    (small_disk / "ballast").unlink()
    assert not generate_shard(manifest, 0, small_disk, read_image)


def test_another_source_behind_the_same_name_stops(photos, tmp_path, bands):
    manifest = Manifest.create(bands(), photos)
    save_manifest(manifest, tmp_path / "store")
    text = (tmp_path / "own_source.py").read_text()
    (tmp_path / "own_source.py").write_text(text.replace("bands=4", "bands=5"))
    script = (
        "import sys; from rmae_d2.regions.jobs.generate import generate_shard\n"
        "from rmae_d2.regions.jobs.manifest import load_manifest\n"
        "generate_shard(load_manifest(sys.argv[1]), 0, sys.argv[1], None)"
    )
    command = [sys.executable, "-c", script, str(tmp_path / "store")]
    result = subprocess.run(command, capture_output=True, text=True)
    assert "UserError" in result.stderr and "bands=4 there, 5 here" in result.stderr


# ---------------------------------------------------------------------------------- verification


@pytest.fixture
def store(photos, tmp_path):
    manifest = Manifest.create(FH, photos, 4)
    make_store(manifest, tmp_path / "store")
    return manifest, tmp_path / "store"


def problems(store):
    manifest, folder = store
    found = [
        p for i in range(manifest.num_shards) for p in verify_shard(manifest, i, folder, read_image)
    ]
    assert {problem.shard for problem in found} <= {0}
    return [problem.what for problem in found]


@pytest.mark.parametrize("suffix", [0, 1], ids=["tar", "idx"])
def test_verify_finds_any_flipped_byte(store, suffix):
    path = store[1] / shard_files(0)[suffix]
    good = path.read_bytes()
    missed = []
    positions = np.random.default_rng(0).integers(0, len(good), 100).tolist()
    for position in [0, 100, 150, 600, len(good) - 1, *positions]:
        bad = bytearray(good)
        bad[position] ^= 0x10
        path.write_bytes(bad)
        if not problems(store):
            missed.append(position)
    assert missed == []


@pytest.mark.parametrize("suffix", [0, 1])
def test_verify_finds_a_missing_file(store, suffix):
    path = store[1] / shard_files(0)[suffix]
    path.unlink()
    assert problems(store) == [f"{path} is missing"]


def test_verify_names_images_that_changed(store, photos):
    with open(photos[1]["file_name"], "ab") as file:
        file.write(b"one byte more")
    os.unlink(photos[3]["file_name"])
    changed, gone = problems(store)
    assert photos[1]["file_name"] in changed and "has changed" in changed
    assert photos[3]["file_name"] in gone and "no such image" in gone


def test_verify_compares_sizes_and_keys(store, photos):
    manifest, folder = store

    def turned(path):
        return read_image(path).transpose(1, 0, 2)

    (first, *_) = verify_shard(manifest, 0, folder, turned)
    assert "(48, 64)" in first.what and "(64, 48)" in first.what
    (folder / failures_name(0)).write_text(
        json.dumps([{"key": "a0.png", "file": "a0.png", "reason": "none"}])
    )
    assert "other images than the manifest: a0.png" in problems(store)[0]
    (folder / failures_name(0)).write_text("nonsense")
    assert failures_name(0) in problems(store)[0]


def test_verify_finds_a_shard_of_other_parameters(store, photos, tmp_path):
    other = Manifest.create(SourceSpec.named("fh", {"scales": [30]}), photos, 4)
    make_store(other, tmp_path / "other")
    for name in shard_files(0):
        shutil.copy(tmp_path / "other" / name, store[1] / name)
    assert "another store" in problems(store)[0]


@pytest.mark.parametrize("kind", SPECIAL)
def test_what_is_no_file_among_images_is_a_failure(photos, tmp_path, bands, kind):
    for place in (2, 4):
        put_special(Path(photos[place]["file_name"]), kind)
    manifest = Manifest.create(bands(), photos, 7)
    save_manifest(manifest, tmp_path / "store")
    failures = generate_shard(manifest, 0, tmp_path / "store", rmae_d2.data.read_image)
    reason = f"it is a {kind}, not a file"
    assert [(f.file, f.reason) for f in failures] == [
        (photos[i]["image_id"], reason) for i in (2, 4)
    ]
    assert verify_shard(manifest, 0, tmp_path / "store", rmae_d2.data.read_image) == ()
    put_special(Path(photos[0]["file_name"]), kind)
    (found,) = verify_shard(manifest, 0, tmp_path / "store", rmae_d2.data.read_image)
    assert photos[0]["file_name"] in found.what and reason in found.what


@pytest.mark.parametrize("kind", SPECIAL)
@pytest.mark.parametrize("name", [*shard_files(0), failures_name(0), MANIFEST])
def test_what_is_no_file_of_a_store_is_named(store, kind, name):
    manifest, folder = store
    put_special(folder / name, kind)
    said = f"{re.escape(str(folder / name))}.*it is a {kind}, not a file"
    with pytest.raises(UserError, match=said):
        if name == MANIFEST:
            save_manifest(manifest, folder)
        else:
            generate_shard(manifest, 0, folder, read_image)
    if name != MANIFEST:
        with pytest.raises(UserError, match=said):
            has_shard(folder, 0, manifest.header)
            read_failures(folder, 0)
        assert re.search(said, "".join(problems(store)))
    assert not list(folder.glob("*.tmp"))
