"""Photos without labels: folders, lists, jsons and names, and what is said where they are missing."""

import hashlib
import json
import logging
import os
import shutil
import tarfile

import numpy as np
import pytest
from detectron2.data import DatasetCatalog, MetadataCatalog, detection_utils
from PIL import Image

from rmae_d2.commands import run
from rmae_d2.data.datasets.images_only import images_from, pretrain_dataset
from rmae_d2.errors import UserError
from rmae_d2.photos.inputs import list_inputs
from rmae_d2.photos.reading import read_image
from rmae_d2.regions import StoredRegions
from tests.helpers import SPECIAL, put_special


@pytest.fixture
def photos(tmp_path):
    """A folder with images at several depths, and much that is none."""
    folder = tmp_path / "photos"
    for name in ("b.jpg", "a.JPEG", "deep/er/c.PNG", "deep/d.webp"):
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (4, 3)).save(path)
    for name in ("notes.txt", ".hidden.jpg", "._b.jpg", ".thumbnails/t.jpg"):
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(b"")
    return folder


def _ids(dicts):
    return [sample["image_id"] for sample in dicts]


def test_folder_is_searched_and_sorted(photos):
    dicts = images_from(photos)
    assert _ids(dicts) == ["a.JPEG", "b.jpg", "deep/d.webp", "deep/er/c.PNG"]
    assert all(sample["file_name"] == str(photos / sample["image_id"]) for sample in dicts)
    assert images_from(str(photos) + "/") and _ids(images_from(str(photos) + "/")) == _ids(dicts)


def test_links_are_followed_once(photos, tmp_path):
    (tmp_path / "elsewhere").mkdir()
    Image.new("RGB", (4, 3)).save(tmp_path / "elsewhere/e.jpg")
    (photos / "link").symlink_to(tmp_path / "elsewhere")
    (photos / "loop").symlink_to(photos)
    (photos / "z.jpg").symlink_to(photos / "b.jpg")
    assert _ids(images_from(photos)) == [
        *("a.JPEG", "b.jpg", "deep/d.webp", "deep/er/c.PNG", "link/e.jpg", "z.jpg")
    ]


def test_home_is_expanded(photos, monkeypatch):
    monkeypatch.setenv("HOME", str(photos.parent))
    assert len(images_from("~/photos")) == 4


def test_empty_folder_names_what_was_looked_for(tmp_path):
    with pytest.raises(
        UserError, match=r"(?s)not a data set.*images in it or below:.* \.jpeg .*\.png"
    ):
        images_from(tmp_path)


@pytest.mark.parametrize("root", ["gone", "gone.json", "gone.txt"])
def test_missing_root(tmp_path, root):
    with pytest.raises(UserError, match=f"there is no {tmp_path / root}"):
        images_from(tmp_path / root)


def test_other_file(photos):
    with pytest.raises(ValueError, match="b.jpg is not a data set in a known format: looked for"):
        images_from(photos / "b.jpg")


def test_text_list(photos):
    lines = ["# mine", "", "deep/d.webp", f"  {photos / 'b.jpg'}  ", "b.jpg", "https://host/x.jpg"]
    (photos / "list.txt").write_text("\n".join(lines))
    dicts = images_from(photos / "list.txt")
    assert _ids(dicts) == ["deep/d.webp", str(photos / "b.jpg"), "b.jpg", "https://host/x.jpg"]
    assert [sample["file_name"] for sample in dicts] == [
        *(str(photos / "deep/d.webp"), str(photos / "b.jpg"), str(photos / "b.jpg")),
        "https://host/x.jpg",
    ]


def test_text_list_naming_absent_files(photos):
    (photos / "list.txt").write_text("b.jpg\ngone/x.jpg\ny.jpg")
    with pytest.raises(UserError, match=r"2 of the 3 files .*gone/x\.jpg.*y\.jpg.*1%"):
        images_from(photos / "list.txt")
    (photos / "list.txt").write_text("# nothing")
    with pytest.raises(UserError, match="names no image"):
        images_from(photos / "list.txt")


def test_few_absent_files_are_left_out_loudly(photos, caplog):
    (photos / "list.txt").write_text("\n".join(["b.jpg"] * 3 + ["gone.jpg"]))
    with caplog.at_level(logging.WARNING):
        assert len(images_from(photos / "list.txt", allow_missing=0.25)) == 3
    assert "1 of the 4 files" in caplog.text and "gone.jpg" in caplog.text


@pytest.mark.parametrize(
    ("json_path", "image_folder"),
    [
        ("photos.json", "."),
        ("annotations/instances_train2017.json", "train2017"),
        ("annotations/instances_train2017.json", "images/train2017"),
        ("annotations/train.json", "images"),
        ("annotations/labels.json", "JPEGImages"),
        ("labels.json", "images"),
    ],
)
def test_json_finds_its_images(tmp_path, json_path, image_folder):
    path = tmp_path / "set" / json_path
    for folder in (path.parent, tmp_path / "set" / image_folder / "sub"):
        folder.mkdir(parents=True, exist_ok=True)
    images = [
        {"id": 5, "file_name": "sub/a.jpg", "height": 3, "width": 4},
        {"id": 2, "file_name": "sub/b.jpg"},
    ]
    for image in images:
        Image.new("RGB", (4, 3)).save(tmp_path / "set" / image_folder / image["file_name"])
    path.write_text(json.dumps({"images": images}))
    dicts = images_from(path)
    assert _ids(dicts) == [5, 2]
    assert dicts[0]["height"] == 3 and dicts[0]["width"] == 4 and "height" not in dicts[1]
    assert all(os.path.exists(sample["file_name"]) for sample in dicts)


def test_json_with_image_root(photos, tmp_path):
    (tmp_path / "far").mkdir()
    (tmp_path / "far/set.json").write_text(
        json.dumps({"images": [{"id": 1, "file_name": "b.jpg"}]})
    )
    assert _ids(images_from(tmp_path / "far/set.json", image_root=photos)) == [1]
    with pytest.raises(UserError, match=r"b\.jpg.*(?s:.*)nowhere"):
        images_from(tmp_path / "far/set.json", image_root=tmp_path / "nowhere")


def test_json_naming_absent_files(photos):
    images = [{"id": i, "file_name": f"gone{i}.jpg"} for i in range(9)]
    (photos / "set.json").write_text(json.dumps({"images": images}))
    with pytest.raises(UserError, match=r"names 9 images, such as gone0") as caught:
        images_from(photos / "set.json")
    assert str(photos) in str(caught.value) and "image_root" in str(caught.value)
    images.append({"id": 9, "file_name": "b.jpg"})
    (photos / "set.json").write_text(json.dumps({"images": images}))
    with pytest.raises(UserError, match=r"9 of the 10 files"):
        images_from(photos / "set.json")


@pytest.mark.parametrize(
    ("content", "says"),
    [
        ("{", "is cut off"),
        ("[1]", "COCO's format"),
        ('{"annotations": []}', "it has '\"annotations\"'"),
        ('{"images": [{"id": 1}]}', "file_name 'null' names no file"),
    ],
)
def test_bad_json(tmp_path, content, says):
    (tmp_path / "set.json").write_text(content)
    with pytest.raises(ValueError, match=says):
        images_from(tmp_path / "set.json")


# --- by name


@pytest.fixture
def registered(photos):
    """Two registered folders whose relative paths collide."""
    names = ("test_photos_a", "test_photos_b")
    for name in names:
        DatasetCatalog.register(name, lambda: images_from(photos))
        MetadataCatalog.get(name).set(image_root=str(photos))
    yield names
    for name in names:
        DatasetCatalog.remove(name)
        MetadataCatalog.remove(name)


def test_names(registered):
    one = pretrain_dataset(registered[0])
    assert _ids(one) == ["a.JPEG", "b.jpg", "deep/d.webp", "deep/er/c.PNG"]
    both = pretrain_dataset(registered)
    assert len(set(_ids(both))) == 8 and _ids(both)[0] == "test_photos_a/a.JPEG"


def test_root_wins_over_names(photos):
    assert len(pretrain_dataset(("no_such_name",), root=photos)) == 4


def test_unknown_name_suggests_near_ones():
    with pytest.raises(ValueError, match="did you mean .*coco_2017_train"):
        pretrain_dataset("coco2017_train")


@pytest.mark.parametrize(
    ("name", "get_it"),
    [
        ("coco_2017_train", "zips/train2017.zip"),
        ("coco_2017_unlabeled", "zips/unlabeled2017.zip"),
        ("imagenet_1k_train", "image-net.org"),
        ("scenes_train", "rmae-d2 scenes"),
        ("coco_2017_train_panoptic", "dataset.root=/photos"),
    ],
)
def test_missing_dataset_says_what_to_do(tmp_path, monkeypatch, name, get_it):
    metadata = MetadataCatalog.get(name)
    for key, value in metadata.as_dict().items():
        if isinstance(value, str) and key != "name" and ("/" in value):
            monkeypatch.setitem(metadata.__dict__, key, str(tmp_path / "datasets" / key))
    with pytest.raises(UserError) as caught:
        pretrain_dataset((name,))
    own = "dataset.root=/photos"
    for part in (name, str(tmp_path), "DETECTRON2_DATASETS", get_it, own, "make demo"):
        assert part in str(caught.value)


def test_real_folders_and_jsons(shared_data):
    train = images_from(shared_data / "coco/train2017")
    labelled = images_from(shared_data / "coco/annotations/instances_train2017.json")
    assert {sample["file_name"] for sample in train} >= {sample["file_name"] for sample in labelled}
    assert all({"height", "width"} <= set(sample) for sample in labelled)
    assert images_from(shared_data / "lvis/lvis_v1_train.json", allow_missing=1.0)
    assert len(images_from(shared_data / "imagenet/train")) > 10


def test_what_is_no_file_is_left_out_and_named(photos, caplog):
    for kind in SPECIAL:
        put_special(photos / f"{kind}.jpg", kind)
    (photos / "nowhere.jpg").symlink_to(photos / "absent")
    # What links lead to is the reader's, for that would take as many more looks at the storage.
    found = _ids(images_from(photos))
    assert found == ["a.JPEG", "b.jpg", "deep/d.webp", "deep/er/c.PNG", "device.jpg", "nowhere.jpg"]
    (warning,) = caplog.messages
    assert "2 FIFOs, sockets or devices" in warning and "FIFO.jpg, socket.jpg" in warning


def test_held_out_images(photos, tmp_path):
    """A tenth, at least one and at most 1000, by their names alone: wherever they lie, the same."""
    listed = tmp_path / "photos.txt"
    listed.write_text("".join(f"https://there/{i}.jpg\n" for i in range(20_000)))

    def names(root, **more):
        return [sample["image_id"] for sample in pretrain_dataset((), root, **more)]

    kept, others = (names(listed, held_out=part) for part in (True, False))
    assert len(kept) == 1000 and sorted(kept + others) == sorted(names(listed))
    listed.write_text("".join(f"https://there/{i}.jpg\n" for i in range(40)))
    kept = names(listed, held_out=True)
    hashes = {name: hashlib.sha256(name.encode()).hexdigest() for name in names(listed)}
    assert set(kept) == set(sorted(hashes, key=hashes.get)[:4])
    moved = photos.parent / "elsewhere"
    shutil.copytree(photos, moved)
    assert names(photos, held_out=True) == names(moved, held_out=True)
    assert len(names(photos, held_out=True)) == 1
    listed.write_text("https://there/0.jpg\n" * 3)
    with pytest.raises(UserError, match="has one image.*train.eval_period=0"):
        names(listed, held_out=False)


# ------------------------------------------------------------------------- data sets with labels


@pytest.fixture
def voc(tmp_path):
    for name in ("a", "b"):
        for folder in ("JPEGImages", "SegmentationClass", "Annotations"):
            (tmp_path / "voc" / folder).mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (30, 20)).save(tmp_path / f"voc/JPEGImages/{name}.jpg")
        Image.new("L", (30, 20)).save(tmp_path / f"voc/SegmentationClass/{name}.png")
        size = "<size><width>30</width><height>20</height></size>"
        (tmp_path / f"voc/Annotations/{name}.xml").write_text(f"<annotation>{size}</annotation>")
    (tmp_path / "voc/ImageSets/Main").mkdir(parents=True)
    (tmp_path / "voc/ImageSets/Main/val.txt").write_text("b\n")
    return str(tmp_path / "voc")


def test_photos_of_a_labelled_set(voc, tmp_path):
    """Without its label images; of one split where that is named; a folder of labelled photos whole."""
    assert _ids(images_from(voc)) == ["JPEGImages/a.jpg", "JPEGImages/b.jpg"]
    (sample,) = images_from(f"{voc}#val")
    assert sample == {
        "file_name": f"{voc}/JPEGImages/b.jpg",
        "image_id": "JPEGImages/b.jpg",
        "height": 20,
        "width": 30,
    }
    assert images_from(voc, split="val") == [sample] == pretrain_dataset(root=voc, split="val")
    assert len(images_from(voc, format="images")) == 4
    (tmp_path / "me").mkdir()
    for name in ("a", "b"):
        Image.new("RGB", (30, 20)).save(tmp_path / f"me/{name}.jpg")
    (tmp_path / "me/a.json").write_text(json.dumps({"shapes": [], "imagePath": "a.jpg"}))
    assert _ids(images_from(tmp_path / "me")) == ["a.jpg", "b.jpg"]
    assert _ids(images_from(tmp_path / "me", format="labelme")) == ["a.jpg"]


def test_one_split_of_a_folder_of_folders(photos):
    (photos / "deep").rename(photos / "valid")
    assert _ids(images_from(f"{photos}#val")) == ["d.webp", "er/c.PNG"]
    with pytest.raises(UserError, match="has no split train: it has val"):
        images_from(photos, split="train")


def test_photos_in_shards(tmp_path):
    """Read in place, by our reader and by Detectron2's."""
    Image.new("RGB", (30, 20), (9, 200, 5)).save(tmp_path / "a.png")
    with tarfile.open(tmp_path / "x.tar", "w") as tar:
        tar.add(tmp_path / "a.png", "0001.png")
    (sample,) = images_from(tmp_path / "x.tar")
    assert sample["image_id"] == "x.tar/0001.png"
    for read in (read_image, detection_utils.read_image):
        assert read(sample["file_name"])[0, 0].tolist() == [9, 200, 5]
    (image,) = list_inputs([str(tmp_path / "x.tar")])
    assert (image.image_id, image.picture) == (1, "x.tar/0001.jpg")


def test_regions_of_photos_in_shards(tmp_path):
    """Made, kept and found again by their place in the shard."""
    rng = np.random.default_rng(0)
    with tarfile.open(tmp_path / "x.tar", "w") as tar:
        for name in ("0001.png", "0002.png"):
            Image.fromarray(rng.integers(0, 255, (24, 32, 3), np.uint8)).save(tmp_path / name)
            tar.add(tmp_path / name, name)
    command = [*("regions", "--source", "fh", "--images", f"webdataset:{tmp_path / 'x.tar'}")]
    command += ["--output", str(tmp_path / "store"), "--workers", "0", "scales=[50]"]
    assert run(command) == 0
    assert run(["regions", "--output", str(tmp_path / "store"), "--verify"]) == 0
    source = StoredRegions(str(tmp_path / "store"))
    for sample in images_from(tmp_path / "x.tar"):
        record = source(sample, read_image(sample["file_name"]))
        assert record.size == (24, 32)
