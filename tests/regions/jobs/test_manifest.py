"""Manifests: the same text whoever writes it, a hash of what matters, differences named."""

import json
import os
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rmae_d2.errors import UserError
from rmae_d2.regions.jobs.manifest import (
    MANIFEST,
    Manifest,
    load_manifest,
    save_manifest,
    starts_by_bytes,
)
from rmae_d2.regions.sources.spec import SourceSpec

FH = SourceSpec.named("fh", {"scales": [20]})


def contents(folder):
    return {path.name: path.read_bytes() for path in Path(folder).iterdir()}


def test_names_are_relative_to_the_common_folder_and_ids_keep_their_type(photos):
    photos[0]["image_id"] = 7
    manifest = Manifest.create(FH, photos, 3)
    assert manifest.root == os.path.dirname(photos[0]["file_name"])
    assert manifest.images[0] == (7, "a0.png")
    assert manifest.images[5] == ("b/b0.png", "b/b0.png")
    assert manifest.dataset_dicts() == photos
    assert (manifest.num_shards, manifest.num_images) == (3, 7)
    assert [manifest.shard_size(i) for i in range(3)] == [3, 3, 1]
    assert [image for i in range(3) for image in manifest.part(i).images] == manifest.images
    with pytest.raises(IndexError, match="shard 3 of a manifest of 3"):
        manifest.part(3)


def test_hash_is_of_parameters_images_and_division_only(photos, tmp_path):
    manifest = Manifest.create(FH, photos, 3)
    cached = SourceSpec.named("fh", {"scales": [20], "cache_dir": str(tmp_path / "cache")})
    moved = Path(photos[0]["file_name"]).parent.rename(tmp_path / "elsewhere")
    elsewhere = [{**d, "file_name": str(moved / d["image_id"])} for d in photos]
    same = Manifest.create(cached, elsewhere, 3)
    assert same.hash == manifest.hash == manifest.moved(elsewhere).hash
    assert same.root == manifest.moved(elsewhere).root == str(moved)
    others = [
        Manifest.create(SourceSpec.named("fh", {"scales": [21]}), photos, 3),
        Manifest.create(FH, photos, 4),
        Manifest.create(FH, photos[:-1], 3),
        Manifest.create(FH, photos[::-1], 3),
        Manifest.create(FH, [{**d, "image_id": "x" + d["image_id"]} for d in photos], 3),
    ]
    assert len({m.hash for m in (manifest, *others)}) == 6
    with pytest.raises(UserError, match="7 images there, 6 here"):
        manifest.moved(elsewhere[:-1])


names = st.text(st.characters(exclude_characters="/\0", codec=None), min_size=1, max_size=8)


@given(st.lists(st.tuples(st.integers() | names, names), min_size=1, unique_by=lambda p: str(p[0])))
def test_text_round_trip(pairs):
    dicts = [{"image_id": id_, "file_name": f"/data/{name}"} for id_, name in pairs]
    manifest = Manifest.create(FH, dicts, 2)
    text = manifest.to_text()
    assert Manifest.from_text(text, "here") == manifest
    assert text == Manifest.create(FH, dicts, 2).to_text()
    text.encode("ascii")


@pytest.mark.parametrize(
    ("ids", "message"),
    [
        ([], "no image"),
        ([1, "1"], "same image_id"),
        ([None], "neither text nor an int"),
        ([1.5], "neither text nor an int"),
        ([""], "neither text nor an int"),
    ],
)
def test_image_ids_that_make_no_keys(ids, message):
    dicts = [{"image_id": id_, "file_name": f"/data/{i}"} for i, id_ in enumerate(ids)]
    with pytest.raises(UserError, match=message):
        Manifest.create(FH, dicts)


@pytest.mark.parametrize(
    "text",
    [
        *("", "{}", "[]", '{"format": 1}', '{"format": 2}', "\x00\xff", None),
        *("[" * 100_000, "9" * 5000),
        {"images_per_shard": 0},
        {"images_per_shard": "7"},
        {"root": 1},
        {"images": [[1, 2]]},
        {"images": [[{}, "a.png"]]},
        {"images": [7]},
        {"source": {"target": 1, "arguments": {}}},
    ],
)
def test_files_that_are_no_manifest(photos, tmp_path, text):
    whole = Manifest.create(FH, photos)
    if text is None:  # changed by hand
        text = whole.to_text().replace("a1.png", "a9.png")
    elif isinstance(text, dict):
        text = json.dumps({**json.loads(whole.to_text()), **text})
    (tmp_path / MANIFEST).write_text(text, encoding="latin1")
    with pytest.raises(UserError, match=MANIFEST):
        load_manifest(tmp_path)


def test_many_writers_of_one_manifest(photos, tmp_path):
    manifest = Manifest.create(FH, photos, 3)
    folder = tmp_path / "made" / "by" / "them"
    with ThreadPoolExecutor(8) as pool:
        list(pool.map(save_manifest, [manifest] * 8, [folder] * 8))
    assert contents(folder) == {MANIFEST: manifest.to_text().encode()}
    assert load_manifest(folder) == manifest


def test_folder_of_something_else_names_the_difference(photos, tmp_path, bands):
    folder = tmp_path / "store"
    save_manifest(Manifest.create(FH, photos, 3), folder)
    before = contents(folder)
    renamed = [{**photos[0], "file_name": photos[0]["file_name"] + "x"}, *photos[1:]]
    for other, message in [
        (Manifest.create(SourceSpec.named("fh"), photos, 3), r"scales=\[20\] there, \[500, 1000"),
        (Manifest.create(bands(), photos, 3), r"source is .*Felz.* there, .*:Bands here"),
        (Manifest.create(FH, photos, 2), "3 images per shard there, 2 here"),
        (Manifest.create(FH, photos[1:], 3), "7 images there, 6 here"),
        (Manifest.create(FH, renamed, 3), "image 0 is a0.png .* there, a0.pngx"),
    ]:
        with pytest.raises(UserError, match=message) as caught:
            save_manifest(other, folder)
        assert "--output" in str(caught.value) and str(folder) in str(caught.value)
    assert contents(folder) == before


def test_file_in_place_of_the_folder(photos, tmp_path):
    (tmp_path / "store").write_text("not a folder")
    for folder in (tmp_path / "store", tmp_path / "store" / "below"):
        with pytest.raises(UserError, match="a file in place of the folder"):
            save_manifest(Manifest.create(FH, photos), folder)


# ---------------------------------------------------------------------------- packed with images


def test_division_by_bytes_is_a_function_of_the_sizes(tmp_path):
    files = []
    for number, size in enumerate([10, 20, 30, 100, 5, 5, 60]):
        files.append(str(tmp_path / str(number)))
        Path(files[-1]).write_bytes(bytes(size))
    absent = str(tmp_path / "absent")
    assert starts_by_bytes(files, 60) == [0, 3, 4, 6]
    assert starts_by_bytes([*files[:3], absent, *files[3:]], 60) == [0, 4, 5, 7]
    assert starts_by_bytes(files, 1) == [0, 1, 2, 3, 4, 5, 6]
    assert starts_by_bytes(files, 10**9) == [0]
    members = [f"tar://{files[3]}?0+30", f"stored://{files[1]}?", f"tar://{absent}?0+11"]
    assert starts_by_bytes(members, 50) == [0, 2]
    many = files * 700  # more than are looked at together
    assert starts_by_bytes(many, 230) == list(range(0, 4900, 7))


def test_a_packed_manifest_says_where_shards_start(photos, tmp_path):
    manifest = Manifest.create(FH, photos, [0, 2, 3])
    assert manifest.packed and manifest.num_shards == 3
    assert [manifest.shard_size(i) for i in range(3)] == [2, 1, 4]
    assert [x[0] for x in manifest.part(2).images] == ["a3.png", "a4.png", "b/b0.png", "b/b1.png"]
    assert manifest.part(1).part(1) == manifest.part(1)
    save_manifest(manifest, tmp_path / "shards")
    assert load_manifest(tmp_path / "shards") == manifest
    assert not Manifest.create(FH, photos, 3).packed
    for other, message in [
        (Manifest.create(FH, photos, [0, 3]), "divided by bytes into 3 shards there, 2 here"),
        (Manifest.create(FH, photos, 3), "with images there, without here"),
    ]:
        with pytest.raises(UserError, match=message):
            save_manifest(other, tmp_path / "shards")
    for starts in ([], [1, 2], [0, 0], [0, 7], [0, 2.0], [2, 0]):
        with pytest.raises(UserError, match="where shards start"):
            Manifest.create(FH, photos, starts)
