"""Training on images of an object store and of a web server is training on the same files here."""

import json
import tarfile

import numpy as np
import pytest
import torch
from detectron2.data import DatasetMapper
from PIL import Image

from rmae_d2 import commands
from rmae_d2.checkpoint import load_weights
from rmae_d2.data import images_from
from rmae_d2.data.datasets import detection_dataset
from rmae_d2.data.images import Photo
from rmae_d2.errors import ImageReadError, RemoteError, UserError
from rmae_d2.members import tar_member
from rmae_d2.pixels import upright_size
from rmae_d2.regions import RegionRecord, RegionStore, ShardHeader, ShardWriter, write_index
from tests.helpers import save_run, write_coco

STEPS = ["train.max_iter=3", "train.checkpointer.period=3", "dataloader.train.num_workers=2"]


def root(place) -> list[str]:
    return [f"dataloader.{part}.dataset.root={place}" for part in ("train", "test")]


@pytest.fixture(scope="session")
def local_run(runs, tmp_path_factory, metrics):
    """What three steps on the photos here compute."""
    out = tmp_path_factory.mktemp("local") / "run"
    runs.train(out, *STEPS)
    found = metrics(out)
    assert len(found) == 3
    return found


def photos_of(runs):
    return sorted(runs.photos.iterdir())


@pytest.fixture
def served(web, runs):
    """The photos at a web server that fails every tenth request and cuts every eleventh short."""
    for photo in photos_of(runs):
        (web.folder / photo.name).write_bytes(photo.read_bytes())
    web.trouble = lambda n, *_: 500 if n % 10 == 0 else "cut" if n % 11 == 0 else None
    return web


def test_a_list_of_web_addresses(runs, served, tmp_path, local_run, metrics):
    lines = [f"{served.url}/{photo.name}" for photo in photos_of(runs)]
    (tmp_path / "lists").mkdir()  # where no photo lies that an address could mean
    (tmp_path / "lists/list.txt").write_text("\n".join(lines))
    runs.train(tmp_path / "run", *STEPS, *root(tmp_path / "lists/list.txt"))
    assert metrics(tmp_path / "run") == local_run
    assert len(served.said) >= 24  # HEAD and GET of each


def test_a_json_and_a_remote_root(runs, served, tmp_path, local_run, metrics):
    images = []
    for k, photo in enumerate(photos_of(runs)):
        with Image.open(photo) as image:
            size = {"width": image.width, "height": image.height}
        images.append({"id": k, "file_name": photo.name, **size})
    (tmp_path / "labels.json").write_text(json.dumps({"images": images}))
    folder = [f"dataloader.{part}.dataset.image_root={served.url}" for part in ("train", "test")]
    runs.train(tmp_path / "run", *STEPS, *root(tmp_path / "labels.json"), *folder)
    assert metrics(tmp_path / "run") == local_run


def test_a_folder_of_a_store(runs, s3, tmp_path, local_run, metrics):
    for photo in photos_of(runs):
        s3.put_object(Bucket="photos", Key=f"set/{photo.name}", Body=photo.read_bytes())
    runs.train(tmp_path / "run", *STEPS, *root("s3://photos/set/"))
    assert metrics(tmp_path / "run") == local_run


def test_members_of_a_shard_in_a_store(runs, s3, tmp_path, local_run, metrics):
    with tarfile.open(tmp_path / "a.tar", "w") as tar:
        for photo in photos_of(runs):
            tar.add(photo, photo.name)
    s3.upload_file(str(tmp_path / "a.tar"), "photos", "shards/a.tar")
    with tarfile.open(tmp_path / "a.tar") as tar:
        places = [tar_member("s3://photos/shards/a.tar", m.offset_data, m.size) for m in tar]
    (tmp_path / "list.txt").write_text("\n".join(places))
    runs.train(tmp_path / "run", *STEPS, *root(tmp_path / "list.txt"))
    assert metrics(tmp_path / "run") == local_run


def test_what_is_listed(runs, s3, web, tmp_path):
    names = ["b/2.jpg", "1.png", "b/.hidden.jpg", ".thumbs/3.jpg", "note.txt"]
    for name in names:
        s3.put_object(Bucket="photos", Key=f"set/{name}", Body=photos_of(runs)[0].read_bytes())
    found = images_from("s3://photos/set")
    assert [(d["image_id"], d["file_name"]) for d in found] == [
        ("1.png", "s3://photos/set/1.png"),
        ("b/2.jpg", "s3://photos/set/b/2.jpg"),
    ]
    with pytest.raises(UserError, match="there is no s3://photos/other: looked for"):
        images_from("s3://photos/other")
    with pytest.raises(UserError, match="no image in s3://photos/empty or its"):
        s3.put_object(Bucket="photos", Key="empty/a.txt", Body=b"")
        images_from("s3://photos/empty")
    # A list and a json in the store, of files beside them.
    s3.put_object(Bucket="photos", Key="set/list.txt", Body=b"1.png\nb/2.jpg\n")
    assert [d["file_name"] for d in images_from("s3://photos/set/list.txt")] == [
        d["file_name"] for d in found
    ]
    content = json.dumps({"images": [{"id": 7, "file_name": "2.jpg", "height": 4, "width": 4}]})
    s3.put_object(Bucket="photos", Key="set/annotations/x_b.json", Body=content.encode())
    assert images_from("s3://photos/set/annotations/x_b.json")[0]["file_name"] == (
        "s3://photos/set/b/2.jpg"
    )
    with pytest.raises(
        UserError, match=r"none of those tried is in any of\n  s3://photos/nothing\n"
    ):
        images_from("s3://photos/set/annotations/x_b.json", "s3://photos/nothing")
    # Addresses in a json stand for themselves.
    url = f"{web.url}/a.jpg"
    (tmp_path / "x.json").write_text(content.replace("2.jpg", url))
    assert images_from(tmp_path / "x.json")[0]["file_name"] == url


def test_one_absent_image_is_passed_over_and_a_server_that_fails_is_not(web, runs, monkeypatch):
    monkeypatch.setenv("RMAE_D2_REMOTE_TRIES", "1")
    with pytest.raises(ImageReadError, match="there is no such file"):
        Photo(f"{web.url}/absent.jpg")
    assert upright_size(f"{web.url}/absent.jpg") is None
    (web.folder / "a.jpg").write_bytes(photos_of(runs)[0].read_bytes())
    assert upright_size(f"{web.url}/a.jpg") == (48, 60)
    web.trouble = lambda *_: 500
    for read in (Photo, upright_size):
        with pytest.raises(RemoteError, match=r"b\.jpg: no whole answer in 1 tries"):
            read(f"{web.url}/b.jpg")


def test_detection_on_a_store(s3, tmp_path):
    write_coco(tmp_path, [(0, 10, 20, 30, 40), (2, 0, 0, 50, 60)])
    for name in ("a.png", "b.png", "c.png", "labels.json"):
        s3.upload_file(str(tmp_path / name), "photos", f"coco/{name}")
    here = detection_dataset(json=str(tmp_path / "labels.json"), root=str(tmp_path))
    there = detection_dataset(json="s3://photos/coco/labels.json", root="s3://photos/coco")
    assert there == detection_dataset(root="s3://photos/coco/labels.json")
    assert [d["file_name"] for d in there] == ["s3://photos/coco/a.png", "s3://photos/coco/c.png"]
    mapper = DatasetMapper(is_train=False, augmentations=[], image_format="RGB")
    for one, other in zip(here, there, strict=True):
        assert {**one, "file_name": ""} == {**other, "file_name": ""}
        assert torch.equal(mapper(one)["image"], mapper(other)["image"])


def test_weights_and_regions_in_a_store(s3, tmp_path):
    (tmp_path / "run").mkdir()
    weights = save_run(tmp_path / "run")
    s3.upload_file(str(weights), "photos", "run/model_final.pth")
    kind, state = load_weights("s3://photos/run/model_final.pth")
    expected_kind, expected = load_weights(str(weights))
    assert kind == expected_kind and state.keys() == expected.keys()
    assert all(torch.equal(state[name], expected[name]) for name in state)
    (tmp_path / "store").mkdir()
    record = RegionRecord.from_labels(np.arange(12).reshape(3, 4)).to_bytes()
    with ShardWriter(tmp_path / "store", 0, ShardHeader(params={}, num_shards=1)) as writer:
        writer.add("a.jpg", record, b"\0" * 16)
    write_index(tmp_path / "store")
    for file in (tmp_path / "store").iterdir():
        s3.upload_file(str(file), "photos", f"store/{file.name}")
    assert RegionStore("s3://photos/store").get("a.jpg") == record


def test_packed_shards_in_a_store(runs, s3, tmp_path, metrics):
    """Images and regions of one folder in a bucket: as from the same shards here."""
    shards = tmp_path / "shards"
    words = ["pack", runs.photos, "--output", shards, "--source", "fh", "scales=[100]"]
    words += ["--max-bytes", "10K", "--workers", "0"]
    assert commands.run([str(word) for word in words]) == 0
    assert len(list(shards.glob("*.tar"))) > 1
    for file in shards.iterdir():
        s3.put_object(Bucket="photos", Key=f"packed/{file.name}", Body=file.read_bytes())
    found = []
    for name, place in (("here", shards), ("there", "s3://photos/packed")):
        regions = f"dataloader.train.mapper.regions.path={place}"
        runs.train(tmp_path / name, *STEPS, *root(place), regions)
        found.append(metrics(tmp_path / name))
    assert len(found[0]) == 3 and found[0] == found[1]
