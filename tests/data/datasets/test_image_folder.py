"""Folders of class folders: what is listed, how classes are numbered, what is said of mistakes."""

import json
import logging
import os
import tarfile
import tempfile
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image
from torchvision.datasets import ImageFolder

from rmae_d2.data.datasets.image_folder import class_names, classification_dataset, knn_dataset
from rmae_d2.errors import AnnotationError, UserError
from rmae_d2.photos.reading import read_image


def put(folder, *names):
    for name in names:
        path = Path(folder, name)
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (4, 3)).save(path)


@pytest.fixture
def root(tmp_path):
    put(tmp_path / "train", "cat/b.jpg", "cat/a.JPEG", "Dog/d.png", "ant/deep/er/c.webp")
    put(tmp_path / "val", "cat/v.jpg", "ant/w.jpg", "Dog/x.jpg")
    return tmp_path


def facts(dicts):
    return [(sample["image_id"], sample["label"]) for sample in dicts]


def test_classes_are_numbered_as_torchvision_does(root):
    dicts = classification_dataset(root)
    assert facts(dicts) == [
        ("train/Dog/d.png", 0),
        ("train/ant/deep/er/c.webp", 1),
        ("train/cat/a.JPEG", 2),
        ("train/cat/b.jpg", 2),
    ]
    theirs = ImageFolder(root / "train")
    assert class_names(root) == theirs.classes == ["Dog", "ant", "cat"]
    assert [(s["file_name"], s["label"]) for s in dicts] == theirs.samples
    assert facts(classification_dataset(str(root) + "/", "val", num_classes=3)) == [
        ("val/Dog/x.jpg", 0),
        ("val/ant/w.jpg", 1),
        ("val/cat/v.jpg", 2),
    ]


_NAMES = st.text(st.sampled_from("abZ 0_é."), min_size=1, max_size=4).filter(
    lambda name: not name.startswith(".") and name.strip() == name
)


@given(st.dictionaries(_NAMES, st.sets(_NAMES, min_size=1, max_size=3), min_size=1, max_size=4))
def test_any_names(classes):
    with tempfile.TemporaryDirectory() as folder:
        for name, files in classes.items():
            os.makedirs(os.path.join(folder, "train", name))
            for file in files:
                Path(folder, "train", name, file + ".jpg").touch()
        dicts = classification_dataset(folder)
        theirs = ImageFolder(os.path.join(folder, "train"))
        assert [(s["file_name"], s["label"]) for s in dicts] == theirs.samples
        few = classification_dataset(folder, per_class=1)
        assert [s["label"] for s in few] == list(range(len(classes)))


def test_default_is_imagenet(root, monkeypatch, tmp_path):
    (tmp_path / "home/imagenet").mkdir(parents=True)
    (root / "train").rename(tmp_path / "home/imagenet/train")
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    monkeypatch.setenv("DETECTRON2_DATASETS", "~")
    dicts = classification_dataset()
    assert len(dicts) == 4 and dicts[0]["file_name"].startswith(str(tmp_path / "home/imagenet"))


def test_links_are_followed_once(root, tmp_path):
    put(tmp_path / "elsewhere", "e.jpg")
    (root / "train/eel").symlink_to(tmp_path / "elsewhere")
    (root / "train/cat/loop").symlink_to(root / "train/cat")
    (root / "train/cat/z.jpg").symlink_to(root / "train/cat/a.JPEG")
    names = [s["image_id"] for s in classification_dataset(root)]
    assert names[2:] == [
        f"train/{x}" for x in ("cat/a.JPEG", "cat/b.jpg", "cat/z.jpg", "eel/e.jpg")
    ]


def test_what_is_no_image_is_left_out_loudly(root, caplog):
    for name in ("cat/notes.txt", "ant/deep/list.csv", "cat/.hidden.jpg", "cat/._a.jpg", ".git/x"):
        path = root / "train" / name
        path.parent.mkdir(exist_ok=True)
        path.touch()
    put(root / "train", "loose.jpg")
    (root / "train/README").touch()
    with caplog.at_level(logging.INFO):
        assert len(classification_dataset(root)) == 4
    assert (
        "1 images in" in caplog.text and "are in no class folder, such as loose.jpg" in caplog.text
    )
    assert "2 files in" in caplog.text
    assert "such as ant/deep/list.csv, cat/notes.txt" in caplog.text
    assert "4 images of 3 classes" in caplog.text


def test_missing_split_says_what_is_there(root):
    with pytest.raises(UserError) as error:
        classification_dataset(root, "test")
    found = "found there: train, val"
    for text in (str(root / "test"), found, "dataset.split=NAME", "image-net.org"):
        assert text in str(error.value)


def test_missing_root(tmp_path, monkeypatch):
    monkeypatch.setenv("DETECTRON2_DATASETS", str(tmp_path / "gone"))
    with pytest.raises(UserError, match=r"gone/imagenet/train: there is no such folder"):
        classification_dataset()


def test_imagenets_flat_validation_folder(root):
    for folder in sorted((root / "val").iterdir()):
        for file in folder.iterdir():
            file.rename(root / "val" / file.name)
        folder.rmdir()
    with pytest.raises(UserError, match=r"3 images, such as v\.jpg, w\.jpg, x\.jpg, lie in"):
        classification_dataset(root, "val")


def test_empty_folders(tmp_path, root, caplog):
    (tmp_path / "none/train").mkdir(parents=True)
    with pytest.raises(UserError, match="the folder has no class folders"):
        classification_dataset(tmp_path / "none")
    (tmp_path / "bare/train/cat").mkdir(parents=True)
    with pytest.raises(UserError, match=r"no image in the 1 class folders .*\.jpeg"):
        classification_dataset(tmp_path / "bare")
    (root / "train/bee").mkdir()
    with pytest.raises(UserError, match="1 of the 4 class folders .* no image, such as bee"):
        classification_dataset(root)
    # Nobody is hurt where these are only tested, be the folder empty or absent.
    (root / "val/bee").mkdir()
    assert len(classification_dataset(root, "val")) == 3
    (root / "val/bee").rmdir()
    with caplog.at_level(logging.WARNING):
        dicts = classification_dataset(root, "val", num_classes=4)
    assert [label for _, label in facts(dicts)] == [0, 1, 3]
    assert "1 of 4 classes have no image in" in caplog.text and "such as bee" in caplog.text


def test_classes_of_test_and_training_must_agree(root):
    put(root / "val", "cats/a.jpg")
    with pytest.raises(
        AnnotationError, match=r"1 of the 4 class folders .*val are not in .*train, such as cats"
    ):
        classification_dataset(root, "val")


def test_test_images_alone(root, caplog):
    (root / "train").rename(root / "away")
    with caplog.at_level(logging.INFO):
        dicts = classification_dataset(root, "val", num_classes=3)
    assert [label for _, label in facts(dicts)] == [0, 1, 2]
    assert "numbered by the folders of val itself" in caplog.text
    with pytest.raises(
        UserError, match="has 3 class folders, the model 1000 classes: set model.num_cl"
    ):
        classification_dataset(root, "val", num_classes=1000)


@pytest.mark.parametrize("per_class", [0, -1, 1.5, "all"])
def test_images_of_each_class_are_counted_from_one(root, per_class):
    with pytest.raises(UserError, match=f"per_class={per_class}: .* 1 or more; null for all"):
        classification_dataset(root, per_class=per_class)


def test_no_split_is_the_root_itself(root):
    alone = classification_dataset(root / "train", "")
    assert classification_dataset(root / "train", None) == alone and len(alone) == 4
    assert len(knn_dataset(root / "train", None, None)) == 4


def test_knn_dataset(root):
    dicts = knn_dataset(root, bank_per_class=1)
    assert [s["bank"] for s in dicts] == [True] * 3 + [False] * 3
    assert [s["label"] for s in dicts] == [0, 1, 2] * 2
    single = knn_dataset(root / "train", bank_split="", query_split=None)
    assert [s["image_id"] for s in single][0] == "Dog/d.png"
    assert len(single) == 4 and all(s["bank"] for s in single)
    put(root / "val", "cats/a.jpg")
    with pytest.raises(AnnotationError, match="such as cats"):
        knn_dataset(root)


def test_a_folder_without_permission(root):
    if os.geteuid() == 0:
        pytest.skip("root may list everything")
    (root / "train/cat").chmod(0)
    try:
        with pytest.raises(UserError, match="cat: this user may not list it"):
            classification_dataset(root)
    finally:
        (root / "train/cat").chmod(0o755)


def test_real_imagenet_photos(shared_data):
    if not (shared_data / "imagenet/train").is_dir():
        pytest.skip("no imagenet folder")
    dicts = classification_dataset(shared_data / "imagenet")
    assert len({s["label"] for s in dicts}) == len(class_names(shared_data / "imagenet")) > 10


def test_splits_by_their_other_names(root):
    """As Hugging Face's imagefolder has them."""
    (root / "val").rename(root / "validation")
    assert facts(classification_dataset(root, "val"))[0] == ("validation/Dog/x.jpg", 0)


def test_classes_of_shards(tmp_path):
    """From a Parquet table and from a tar: numbers, pixels, and the model's number of classes."""
    pa = pytest.importorskip("pyarrow", reason="an extra, rmae_d2[parquet]")
    import pyarrow.parquet as pq

    put(tmp_path / "x", "a.png", "b.png")
    images = [{"bytes": (tmp_path / f"x/{n}.png").read_bytes(), "path": n} for n in "ab"]
    feature = {"label": {"names": ["cat", "dog"], "_type": "ClassLabel"}}
    about = json.dumps({"info": {"features": {"image": {"_type": "Image"}, **feature}}})
    for split, labels in (("train", [1, 0]), ("test", [0, 0])):
        table = pa.table({"image": images, "label": labels})
        table = table.replace_schema_metadata({"huggingface": about})
        (tmp_path / "hf/data").mkdir(parents=True, exist_ok=True)
        pq.write_table(table, tmp_path / f"hf/data/{split}-00000-of-00001.parquet")
    name = "data/train-00000-of-00001.parquet"
    dicts = classification_dataset(tmp_path / "hf", "train", num_classes=2)
    assert facts(dicts) == [(f"{name}/1", 0), (f"{name}/0", 1)]
    assert read_image(dicts[0]["file_name"]).shape == (3, 4, 3)
    assert class_names(tmp_path / "hf") == ["cat", "dog"]
    with pytest.raises(UserError, match="hf#test has 2 classes, the model 5 classes"):
        classification_dataset(tmp_path / "hf", "test", num_classes=5)
    with pytest.raises(UserError, match="has no split val: it has test, train"):
        classification_dataset(tmp_path / "hf", "val")
    with tarfile.open(tmp_path / "shard-train-0.tar", "w") as tar:
        (tmp_path / "x/a.cls").write_text("1")
        for file in ("a.png", "a.cls"):
            tar.add(tmp_path / "x" / file, file)
    dicts = classification_dataset(tmp_path / "shard-train-0.tar", None)
    assert facts(dicts) == [("shard-train-0.tar/a.png", 1)]
    assert read_image(dicts[0]["file_name"]).shape == (3, 4, 3)
