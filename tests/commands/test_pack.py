"""rmae-d2 pack: what is in the shards, who reads them, and what survives kill -9 and a flipped byte."""

import importlib.util
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import tarfile
import time
from itertools import groupby
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from rmae_d2 import commands
from rmae_d2.commands.pack import num_bytes
from rmae_d2.data import images_from, pretrain_dataset, read_image
from rmae_d2.data.scenes.dataset import write_scenes
from rmae_d2.errors import StoreError, UserError
from rmae_d2.files import read_bytes
from rmae_d2.packed import PackedImages
from rmae_d2.regions import RegionRecord, RegionStore, StoredRegions
from rmae_d2.regions.jobs.manifest import load_manifest
from rmae_d2.regions.store.tar_members import unescape_key
from tests.helpers import wait_for

ROOT = Path(__file__).resolve().parents[2]
TOOL = [sys.executable, "-m", "rmae_d2", "pack"]
FH = ["--source", "fh", "scales=[100]"]


def pack(*words):
    """The command in this process."""
    return commands.run(["pack", *map(str, words), "--workers", "0"])


def contents(folder):
    return {path.name: path.read_bytes() for path in Path(folder).iterdir()}


@pytest.fixture(scope="module")
def photos(tmp_path_factory):
    """Rendered scenes as JPEGs and PNGs, under names that are not mere words."""
    scenes = tmp_path_factory.mktemp("scenes") / "scenes"
    write_scenes(scenes, num_train=9, num_val=1, workers=1)
    folder = tmp_path_factory.mktemp("photos")
    jpegs = sorted((scenes / "train").glob("*.jpg"))
    names = ["a.b.c.JPG", "deep/er/7.jpeg", "日本/é ü.jpg", "%2E.jpg", f"{'l' * 120}.jpg", "9.jpg"]
    for name, jpeg in zip(names, jpegs, strict=False):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(jpeg, folder / name)
    for name, jpeg in zip(["deep/7.png", "z.png"], jpegs[6:], strict=False):
        Image.open(jpeg).save(folder / name)
    return folder


@pytest.fixture(scope="module")
def store(photos, tmp_path_factory):
    """The regions of the photos by themselves."""
    folder = tmp_path_factory.mktemp("regions") / "store"
    words = [*FH, "--images", str(photos), "--output", str(folder), "--workers", "0"]
    assert commands.run(["regions", *words]) == 0
    return folder


@pytest.fixture(scope="module")
def shards(photos, store, tmp_path_factory):
    """Both together, in several shards."""
    folder = tmp_path_factory.mktemp("packed") / "shards"
    assert pack(photos, "--output", folder, "--regions", store, "--max-bytes", "40K") == 0
    return folder


# ------------------------------------------------------------------------- what is in the shards


def test_shards_have_the_files_and_the_records(photos, store, shards):
    listed, packed = images_from(photos), images_from(shards)
    assert isinstance(packed, PackedImages) and len(packed) == 8
    assert [d["image_id"] for d in packed] == [d["image_id"] for d in listed]
    for file, member in zip(listed, packed, strict=True):
        assert read_bytes(member["file_name"]) == Path(file["file_name"]).read_bytes()
        image = read_image(member["file_name"])
        assert (member["height"], member["width"]) == image.shape[:2]
    regions, together = RegionStore(store), RegionStore(shards)
    assert together.params == regions.params and list(together.keys()) == list(regions.keys())
    for key in regions.keys():  # noqa: SIM118
        assert together.get(key) == regions.get(key)
        assert together.image_digest(key) == regions.image_digest(key)
    source = StoredRegions(shards)
    record = source(packed[3], read_image(packed[3]["file_name"])).data
    assert record == regions.get(packed[3]["image_id"])


def test_shards_are_cut_by_bytes_alone(photos, shards):
    manifest = load_manifest(shards)
    assert 1 < manifest.num_shards < 8
    sizes = [Path(d["file_name"]).stat().st_size for d in images_from(photos)]
    ends = [*manifest.starts[1:], 8]
    spans = [sizes[start:end] for start, end in zip(manifest.starts, ends, strict=True)]
    assert all(sum(span) <= 40 << 10 or len(span) == 1 for span in spans)
    follow = zip(spans, spans[1:], strict=False)
    assert all(sum(span) + following[0] > 40 << 10 for span, following in follow)


def test_regions_on_the_way_are_those_of_rmae_d2_regions(photos, shards, tmp_path):
    assert pack(photos, *FH, "--output", tmp_path / "fh", "--max-bytes", "40K") == 0
    made, copied = contents(tmp_path / "fh"), contents(shards)
    assert made.pop("manifest.json") != copied.pop("manifest.json")  # it names the source
    assert made.keys() == copied.keys()
    assert all(made[name] == copied[name] for name in made if name.endswith(".idx.npz"))


def test_images_alone(photos, tmp_path, capsys):
    folder = tmp_path / "images"
    assert pack(photos, "--output", folder) == 0
    assert sorted(path.name for path in folder.glob("*.tar")) == ["regions-00000.tar"]
    assert len(images_from(folder)) == 8
    assert pack("--output", folder, "--verify") == 0
    assert "every image and record is as it was written" in capsys.readouterr().out
    with pytest.raises(StoreError, match="holds images without regions: pack them with --source"):
        RegionStore(folder)


def test_ids_of_a_json_stay_numbers_and_members_of_tars_are_packed_again(photos, shards, tmp_path):
    images = [{"id": 7, "file_name": "z.png"}, {"id": 3, "file_name": "9.jpg"}]
    (photos.parent / "some.json").write_text(json.dumps({"images": images}))
    words = ["--image-root", photos, "--output", tmp_path / "json"]
    assert pack(photos.parent / "some.json", *words) == 0
    packed = images_from(tmp_path / "json")
    assert [d["image_id"] for d in packed] == [7, 3]
    assert read_bytes(packed[0]["file_name"]) == (photos / "z.png").read_bytes()
    assert pack(shards, "--regions", shards, "--output", tmp_path / "again") == 0
    again, before = images_from(tmp_path / "again"), images_from(shards)
    for one, other in zip(again, before, strict=True):
        assert {**one, "file_name": ""} == {**other, "file_name": ""}
        assert read_bytes(one["file_name"]) == read_bytes(other["file_name"])
    # Addresses have no extension: it is that of the format.
    kinds = [{"jpeg": "jpg"}.get(parts[0], parts[0]) for _, parts in by_key(shards)]
    assert [parts for _, parts in by_key(tmp_path / "again")] == [[k, "regions"] for k in kinds]


def test_a_registered_name(photos, tmp_path):
    from detectron2.data import DatasetCatalog

    DatasetCatalog.register("photos_of_this_test", lambda: list(images_from(photos)))
    try:
        assert pack("photos_of_this_test", "--output", tmp_path / "shards") == 0
    finally:
        DatasetCatalog.remove("photos_of_this_test")
    assert len(images_from(tmp_path / "shards")) == 8


# ------------------------------------------------------------------------------- who reads them


def by_key(shards):
    """Neighbouring members of one name up to the first dot, as WebDataset puts them together."""
    for path in sorted(shards.glob("*.tar")):
        with tarfile.open(path) as tar:
            members = [member for member in tar if member.isfile()]
            for name, group in groupby(members, lambda member: member.name.partition(".")[0]):
                extensions = [member.name[len(name) + 1 :] for member in group]
                yield unescape_key(name), extensions


def test_tar_readers_find_a_sample_an_image(photos, shards):
    found = list(by_key(shards))
    keys = [sample["image_id"] for sample in images_from(photos)]
    assert [key for key, _ in found] == keys
    kinds = {".JPG": "jpg", ".jpeg": "jpeg", ".jpg": "jpg", ".png": "png"}
    assert [parts for _, parts in found] == [[kinds[Path(key).suffix], "regions"] for key in keys]


def test_webdataset_streams_images_and_regions(photos, store, shards):
    wds = pytest.importorskip("webdataset")
    tars = sorted(map(str, shards.glob("*.tar")))
    stored, found = RegionStore(store), []
    for sample in wds.WebDataset(tars, shardshuffle=False):
        key = unescape_key(sample["__key__"])
        found.append(key)
        (extension,) = {"jpg", "jpeg", "png"} & sample.keys()
        assert sample[extension] == (photos / key).read_bytes()
        assert sample["regions"] == stored.get(key)
        record = RegionRecord.from_bytes(sample["regions"])
        assert record.size == read_image(photos / key).shape[:2]
    assert found == [sample["image_id"] for sample in images_from(photos)]
    pictures = wds.WebDataset(tars, shardshuffle=False).decode("rgb8")
    first = next(iter(pictures))
    np.testing.assert_array_equal(first["jpg"], read_image(photos / "%2E.jpg"))


def test_the_same_images_are_held_out(photos, shards):
    for held_out in (True, False):
        listed, packed = (
            pretrain_dataset((), root, held_out=held_out) for root in (photos, shards)
        )
        assert [d["image_id"] for d in packed] == [d["image_id"] for d in listed]
        assert len(packed) == (1 if held_out else 7)


def test_other_commands_take_them(shards, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    words = ["--images", str(shards), "--output", "store", "--workers", "0"]
    assert commands.run(["regions", *FH, *words]) == 0
    assert list(RegionStore("store").keys()) == list(RegionStore(shards).keys())
    assert commands.run(["inspect", str(shards), "--output", "sheet.png"]) == 0
    assert Path("sheet.png").stat().st_size > 10_000


# ------------------------------------------------------------------------- what goes wrong


def test_images_that_cannot_be_read_are_left_out(photos, tmp_path, capsys):
    some, folder = tmp_path / "some", tmp_path / "shards"
    shutil.copytree(photos, some)
    (some / "9.jpg").write_bytes((some / "9.jpg").read_bytes()[:500])
    (some / "empty.png").write_bytes(b"")
    assert pack(some, *FH, "--output", folder, "--max-failures", "0.5") == 0
    out = capsys.readouterr().out
    assert "2 images are left out or have no regions (failures-*.json), such as" in out
    assert f"{some / 'empty.png'}: the file is empty (0 bytes)" in out
    assert [d["image_id"] for d in images_from(folder)] == [
        d["image_id"] for d in images_from(photos) if d["image_id"] != "9.jpg"
    ]
    assert pack("--output", folder, "--verify") == 0
    shutil.copy(photos / "9.jpg", some / "9.jpg")
    (some / "empty.png").write_bytes((photos / "z.png").read_bytes())
    assert pack("--output", folder, "--retry-failures") == 0
    assert len(images_from(folder)) == len(RegionStore(folder)) == 9


def test_images_that_the_store_lacks_are_packed_without_regions(photos, tmp_path, store, capsys):
    more, folder = tmp_path / "more", tmp_path / "shards"
    shutil.copytree(photos, more)
    shutil.copy(photos / "z.png", more / "zz.png")
    words = [more, "--regions", store, "--output", folder]
    assert pack(*words, "--max-failures", "0.5") == 0
    assert "zz.png has no regions in" in capsys.readouterr().out
    assert len(images_from(folder)) == 9 and "zz.png" not in RegionStore(folder)
    assert ("zz.png", ["png"]) in by_key(folder)
    assert pack("--output", folder, "--verify") == 0


def test_verify_finds_a_flipped_byte_of_an_image_and_tells_how_to_repair(shards, tmp_path, capsys):
    folder = tmp_path / "shards"
    shutil.copytree(shards, folder)
    before = contents(folder)
    victim = images_from(folder)[4]
    tar, offset = re.fullmatch(r"tar://(.*)\?(\d+)\+\d+", victim["file_name"]).groups()
    damaged = bytearray(Path(tar).read_bytes())
    damaged[int(offset) + 700] ^= 1
    Path(tar).write_bytes(damaged)
    capsys.readouterr()
    assert pack("--output", folder, "--verify") == 1
    out = capsys.readouterr().out
    assert f"{victim['image_id']} (" in out
    assert f"the image's bytes in {tar} do not match their digest" in out
    assert "1 problems in 1 shards" in out
    remove, make = [line.strip() for line in out.splitlines() if line.startswith("  ")]
    subprocess.run(remove, shell=True, check=True)
    assert make == f"rmae-d2 pack --output {folder}"
    with pytest.raises(StoreError, match=r"shards is not complete: regions-0000\d is missing; run"):
        images_from(folder)
    assert pack(*make.split()[2:]) == 0
    assert contents(folder) == before


@pytest.mark.parametrize("suffix", [".tar", ".idx.npz"])
def test_verify_finds_any_flipped_byte(shards, tmp_path, suffix):
    shutil.copytree(shards, tmp_path / "shards")
    path = tmp_path / f"shards/regions-00000{suffix}"
    good, missed = path.read_bytes(), []
    for position in np.random.default_rng(0).integers(0, len(good), 15).tolist():
        path.write_bytes(good[:position] + bytes([good[position] ^ 4]) + good[position + 1 :])
        if pack("--output", tmp_path / "shards", "--verify") != 1:
            missed.append(position)
    assert missed == []


def test_errors_are_one_message_and_exit_code_1(photos, store, shards, tmp_path, capsys):
    new = tmp_path / "new"
    for words, message in [
        (["--output", new], "say what to pack: rmae-d2 pack IMAGES --output FOLDER"),
        (["--output", new, "--verify"], "no manifest.json: rmae-d2 pack has not made it"),
        (["absent", "--output", new], "there is no .*absent: looked for"),
        ([photos, "--output", new, "--regions", tmp_path], "no complete shard"),
        ([photos, "--output", new, "--source", "hf"], "no region source 'hf'"),
        ([photos, "--output", new, "scales=[1]"], "arguments of a source need --source"),
        (["scales=[1]", "--output", shards], "arguments of a source need --source"),
        ([photos, "--output", store], "is a region store, without images: give another --output"),
        ([photos, "--output", shards, *FH, "sigma=0.5"], "the source is .*Stored.* there, .*Felz"),
        (["--output", shards, "--max-bytes", "1G"], r"divided by bytes into \d shards there, 1 h"),
        ([photos / "deep", "--output", shards], "8 images there, 2 here"),
    ]:
        assert pack(*words) == 1
        error = capsys.readouterr().err
        assert re.search(message, error) and "Traceback" not in error, error
    with pytest.raises(UserError, match="has no split val: packed images have none"):
        images_from(f"{shards}#val")
    with pytest.raises(SystemExit):
        pack(photos, "--output", new, "--max-bytes", "much")
    assert "argument --max-bytes: much: must be bytes, as 1500000, 512M" in capsys.readouterr().err
    assert not new.exists()


def test_sizes():
    sizes = {
        "7": 7,
        "512M": 512 << 20,
        "1G": 1 << 30,
        "1.5g": 3 << 29,
        "2 KiB": 2048,
        "1TB": 1 << 40,
    }
    assert {text: num_bytes(text) for text in sizes} == sizes


# ------------------------------------------------------------------------------ real processes


@pytest.mark.slow
def test_killed_resumed_and_done_by_twins(photos, tmp_path):
    many, shards, expected = tmp_path / "many", tmp_path / "shards", tmp_path / "expected"
    many.mkdir()
    for i in range(24):
        shutil.copy(photos / "9.jpg", many / f"{i:02}.jpg")
    (tmp_path / "slow.py").write_text(SLOW)
    words = [str(many), "--source", f"{tmp_path / 'slow.py'}:Slow", "--max-bytes", "60K"]
    assert pack(*words, "--output", expected) == 0
    assert len(list(expected.glob("*.tar"))) > 4
    command = [*TOOL, *words, "--output", str(shards), "--workers", "1"]
    environment = os.environ | {"PAUSE": "0.2"}
    for _ in range(2):
        before = set(shards.glob("*.tmp"))
        job = subprocess.Popen(command, cwd=ROOT, env=environment, start_new_session=True)
        wait_for(lambda b=before: set(shards.glob("regions-*.tmp")) - b)
        time.sleep(0.5)
        os.killpg(job.pid, signal.SIGKILL)
        job.wait()
    assert len(list(shards.glob("*.idx.npz"))) < len(list(expected.glob("*.idx.npz")))
    with pytest.raises(UserError):
        images_from(shards)
    twins = [subprocess.Popen(command, cwd=ROOT) for _ in range(2)]
    assert [twin.wait(timeout=600) for twin in twins] == [0, 0]
    assert contents(shards) == contents(expected)


SLOW = """
import os
import time

import numpy as np
from rmae_d2.regions import RegionRecord

class Slow:
    params = {"source": "slow"}

    def __call__(self, dataset_dict, image_HWC):
        time.sleep(float(os.environ.get("PAUSE", 0)))
        return RegionRecord.from_labels(image_HWC[..., 0].astype(np.int64) // 32, params=self.params)
"""


@pytest.mark.slow
@pytest.mark.skipif(importlib.util.find_spec("ray") is None, reason="needs Ray")
def test_ray_packs_the_same_bytes(photos, shards, store, tmp_path):
    words = [str(photos), "--regions", str(store), "--max-bytes", "40K"]
    options = ["--engine", "ray", "--ray-address", "local", "--workers", "1"]
    command = [*TOOL, *words, "--output", str(tmp_path / "shards"), *options]
    subprocess.run(command, cwd=ROOT, check=True, timeout=600)
    assert contents(tmp_path / "shards") == contents(shards)
