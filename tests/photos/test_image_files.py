"""Files that are named as on another machine: found where a name means one file, said once."""

import json

import pytest
from PIL import Image

from rmae_d2.data.datasets import images_from
from rmae_d2.errors import UserError
from rmae_d2.photos.image_files import image_files

FILES = ("train/a.jpg", "train/My Photo.JPG", "val/a.jpg", "val/b.png", "val/c.jpg", "val/c.png")


@pytest.fixture
def folder(tmp_path):
    for name in FILES:
        (tmp_path / "set" / name).parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (4, 3)).save(tmp_path / "set" / name)
    return tmp_path / "set"


@pytest.mark.parametrize(
    ("name", "file"),
    [
        ("train/a.jpg", "train/a.jpg"),
        ("./train/a.jpg", "./train/a.jpg"),
        ("train\\a.jpg", "train/a.jpg"),
        ("D:\\data\\val\\a.jpg", "val/a.jpg"),
        ("/home/somebody/set/train/a.jpg", "train/a.jpg"),
        ("train/My%20Photo.JPG", "train/My Photo.JPG"),
        ("https://labels.example/val/a.jpg", "val/a.jpg"),
        ("train/my photo.jpg", "train/My Photo.JPG"),
        ("TRAIN/A.JPG", "train/a.jpg"),
        ("val/b", "val/b.png"),
        ("b", "val/b.png"),
        ("b.png", "val/b.png"),
    ],
)
def test_one_file_is_meant(folder, caplog, name, file):
    with caplog.at_level("INFO"):
        found = image_files("labels.json", [name, "val/c.jpg"], str(folder))
    assert found == [f"{folder}/{file}", f"{folder}/val/c.jpg"]
    assert caplog.text.count("1 file names are written in another way") == (name != file)


@pytest.mark.parametrize("name", ["a.jpg", "c", "VAL/C", "b.jpg", "train/b.jpeg", "q.jpg"])
def test_none_or_several_files_are_meant(folder, name):
    """Two files of the name, two extensions, or another extension than the name's."""
    assert image_files("labels.json", [name, "val/c.jpg"], str(folder))[0] == f"{folder}/{name}"


def test_what_is_absent_is_said_with_the_nearest_file(folder):
    labels = folder / "labels.json"
    names = ["val/a.jpg", "val/bb.png"]
    labels.write_text(json.dumps({"images": [{"id": n, "file_name": n} for n in names]}))
    with pytest.raises(
        UserError, match=r"1 of the 2 files.*bb\.png.*nearest file is .*/val/b\.png"
    ):
        images_from(labels)
    labels.write_text(json.dumps({"images": [{"id": 1, "file_name": "val/bb.png"}]}))
    with pytest.raises(UserError, match="names 1 images, such as val/bb.png.*(?s:.*)image_root"):
        images_from(labels)


def test_the_folder_is_found_by_names_of_another_machine(folder):
    labels = folder / "annotations/labels.json"
    labels.parent.mkdir()
    names = ["C:\\x\\train\\a.jpg", "C:\\x\\train\\My Photo.JPG"]
    labels.write_text(json.dumps({"images": [{"id": n, "file_name": n} for n in names]}))
    files = [sample["file_name"] for sample in images_from(labels)]
    assert files == [f"{folder}/train/a.jpg", f"{folder}/train/My Photo.JPG"]


def test_an_address_is_no_file_that_happens_to_lie_near(folder):
    """A list and a json without a folder say where their images are."""
    url = "https://labels.example/val/c.jpg"
    (folder / "list.txt").write_text(f"{url}\nval/c.jpg\n")
    expected = [url, f"{folder}/val/c.jpg"]
    assert [sample["file_name"] for sample in images_from(folder / "list.txt")] == expected
    assert image_files(str(folder / "labels.json"), [url, "val/c.jpg"], None) == expected
    assert image_files(str(folder / "labels.json"), [url], None) == [url]
    assert image_files(str(folder / "labels.json"), [url], str(folder)) == expected[1:]


def test_a_photo_that_is_lost_is_not_taken_from_a_copy_beside(folder, tmp_path):
    """As data/v1 beside data/v2; all others would come from there, too."""
    names = [f"train/{k}.png" for k in range(4)]
    for place, count in (("copy", 4), ("set", 3)):
        for name in names[:count]:
            (tmp_path / place / name).parent.mkdir(parents=True, exist_ok=True)
            Image.new("RGB", (4, 3)).save(tmp_path / place / name)
    labels = folder / "labels.json"
    assert image_files(str(labels), names, None) == [f"{folder}/{name}" for name in names]


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16", "utf-16-le"])
def test_lists_in_other_encodings_and_with_other_slashes(folder, encoding):
    (folder / "list.txt").write_bytes("train\\a.jpg\r\nval/b.png\r\n".encode(encoding))
    files = [sample["file_name"] for sample in images_from(folder / "list.txt")]
    assert files == [f"{folder}/train/a.jpg", f"{folder}/val/b.png"]
