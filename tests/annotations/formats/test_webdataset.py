"""Shards of images: read where they stand, by the same names that WebDataset's own reader gives."""

import io
import tarfile

import numpy as np
import pytest
from PIL import Image

from rmae_d2.annotations.coco import read_images
from rmae_d2.annotations.image_labels import read_image_labels
from rmae_d2.errors import AnnotationError
from rmae_d2.files import opened


def png(value):
    file = io.BytesIO()
    Image.new("RGB", (20, 10), (value, 7, 9)).save(file, "PNG")
    return file.getvalue()


def write(path, members):
    path.parent.mkdir(parents=True, exist_ok=True)
    with tarfile.open(path, "w") as tar:
        for name, content in members.items():
            info = tarfile.TarInfo(name)
            info.size = len(content)
            tar.addfile(info, io.BytesIO(content))


@pytest.fixture
def shards(tmp_path):
    first = {"x/1.png": png(1), "x/1.cls": b"2", "x/2.PNG": png(2), "x/2.cls": b" 0\n"}
    write(tmp_path / "set-train-000000.tar", first | {"x/2.json": b"{}", "note.txt": b"hi"})
    write(tmp_path / "set-train-000001.tar", {"3.cls": b"1", "3.left.png": png(3)})
    write(tmp_path / "set-val-000000.tar", {"4.png": png(4), "4.cls": b"1"})
    return tmp_path


def pixel(file_name):
    with opened(file_name) as file, Image.open(file) as image:
        return np.asarray(image)[0, 0].tolist()


def test_images_and_classes(shards):
    images = read_images(f"{shards}#train")
    assert [image.id for image in images] == [
        "set-train-000000.tar/x/1.png",
        "set-train-000000.tar/x/2.PNG",
        "set-train-000001.tar/3.left.png",
    ]
    assert [pixel(image.file_name) for image in images] == [[k, 7, 9] for k in (1, 2, 3)]
    labels = read_image_labels(f"{shards}#train")
    assert [number for _, number in labels.images] == [2, 0, 1]
    assert [category.name for category in labels.categories] == ["0", "1", "2"]
    assert [pixel(image.file_name) for image, _ in read_image_labels(f"{shards}#val").images] == [
        [4, 7, 9]
    ]


def test_the_same_samples_as_webdatasets(shards):
    webdataset = pytest.importorskip("webdataset", reason="an extra of development")
    path = str(shards / "set-train-000000.tar")
    theirs = {
        s["__key__"]: s["cls"]
        for s in webdataset.WebDataset(path, shardshuffle=False)
        if "cls" in s
    }
    ours = {image.id: number for image, number in read_image_labels(path).images}
    assert {name.removeprefix("set-train-000000.tar/")[:3]: n for name, n in ours.items()} == {
        key: int(value) for key, value in theirs.items()
    }


def test_damage_is_named(shards):
    path = shards / "set-val-000000.tar"
    path.write_bytes(path.read_bytes()[:600])
    with pytest.raises(
        AnnotationError, match="set-val-000000.tar is not a complete, uncompressed tar"
    ):
        read_images(f"webdataset:{shards}#val")
    write(shards / "set-val-000000.tar", {"4.png": png(4), "4.cls": b"dog"})
    with pytest.raises(
        AnnotationError, match="set-val-000000.tar/4.png.*.cls '\"dog\"' is not a whole"
    ):
        read_image_labels(f"webdataset:{shards}#validation")


def test_a_member_beyond_the_end_of_its_shard(shards):
    (image,) = read_images(f"{shards}#val")
    path = shards / "set-val-000000.tar"
    path.write_bytes(path.read_bytes()[:520])
    with (
        pytest.raises(OSError, match="ends within its member at byte 512"),
        opened(image.file_name),
    ):
        pass
