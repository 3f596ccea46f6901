"""Folders of Hugging Face's datasets: images in Parquet files, and beside metadata files."""

import io
import json

import numpy as np
import pytest
from PIL import Image

from rmae_d2.annotations.coco import read_annotations, read_images
from rmae_d2.annotations.image_labels import read_image_labels
from rmae_d2.errors import AnnotationError, UserError
from rmae_d2.files import opened
from tests.annotations.formats.helpers import held, photo, text

pa = pytest.importorskip("pyarrow", reason="an extra, rmae_d2[parquet]")
pq = pytest.importorskip("pyarrow.parquet")

NAMES = ["cat", "dog", "bird"]
CLASS_LABEL = {"names": NAMES, "_type": "ClassLabel"}
OBJECTS = {"bbox": [[10, 20, 30, 40], [1, 2, 3, 4]], "category": [1, 0]}


def png(value, size=(80, 100)):
    file = io.BytesIO()
    Image.new("RGB", size[::-1], (value, 7, 9)).save(file, "PNG")
    return {"bytes": file.getvalue(), "path": f"{value}.png"}


def write(path, columns, features=None):
    """A table as `datasets` writes it, in groups of two rows."""
    path.parent.mkdir(parents=True, exist_ok=True)
    table = pa.table(columns)
    if features is not None:
        whole = {"image": {"_type": "Image"}} | features
        content = json.dumps({"info": {"features": whole}})
        table = table.replace_schema_metadata({"huggingface": content})
    pq.write_table(table, path, row_group_size=2)


def pixel(file_name):
    with opened(file_name) as file, Image.open(file) as image:
        return np.asarray(image)[0, 0].tolist()


@pytest.fixture
def shards(tmp_path):
    """Two shards to train on and one for validation, as of push_to_hub."""
    for shard, (first, labels) in enumerate(((0, [1, 0, 1]), (3, [2, 1]))):
        name = f"data/train-{shard:05d}-of-00002-abc.parquet"
        images = [png(first + k) for k in range(len(labels))]
        write(tmp_path / name, {"image": images, "label": labels}, {"label": CLASS_LABEL})
    columns = {"image": [png(77)], "label": [0]}
    write(tmp_path / "data/validation-00000-of-00001.parquet", columns, {"label": CLASS_LABEL})
    return tmp_path


def test_images_are_read_in_place(shards):
    images = read_images(f"parquet:{shards}#train")
    assert [image.id for image in images] == [
        *(f"data/train-00000-of-00002-abc.parquet/{k}" for k in range(3)),
        *(f"data/train-00001-of-00002-abc.parquet/{k}" for k in range(2)),
    ]
    assert [pixel(i.file_name) for i in images] == [[k, 7, 9] for k in range(5)]
    assert pixel(images[4].file_name) == [4, 7, 9] == pixel(images[4].file_name)
    assert len(read_images(f"parquet:{shards}")) == 6


def test_classes_of_images(shards):
    train = read_image_labels(f"{shards}#train")
    assert [category.name for category in train.categories] == NAMES
    assert [number for _, number in train.images] == [1, 0, 1, 2, 1]
    val = read_image_labels(f"{shards}#val")
    assert [number for _, number in val.images] == [0] and len(val.categories) == 3
    assert pixel(val.images[0][0].file_name) == [77, 7, 9]


@pytest.mark.parametrize("as_dict", [True, False])
def test_objects(tmp_path, as_dict):
    objects = [OBJECTS, {"bbox": [], "category": []}]
    if not as_dict:
        keys = ("bbox", "category")
        objects = [
            [dict(zip(keys, v, strict=True)) for v in zip(*(o[k] for k in keys), strict=True)]
            for o in objects
        ]
    columns = {"image": [png(1), png(2, (60, 50))], "objects": objects}
    features = {"objects": {"feature": {"category": CLASS_LABEL}, "_type": "Sequence"}}
    write(tmp_path / "train.parquet", columns, features)
    first, second = held(str(tmp_path)).values()
    assert first == [("dog", [10, 20, 40, 60], None), ("cat", [1, 2, 4, 6], None)] and not second
    sizes = [(image.height, image.width) for image, _ in read_annotations(str(tmp_path))]
    assert sizes == [(80, 100), (60, 50)]
    assert [c.name for c in read_annotations(str(tmp_path)).categories] == NAMES


def test_what_parquet_does_not_hold_is_said(shards, tmp_path):
    with pytest.raises(UserError, match="has no split test: it has train, val"):
        read_images(f"{shards}#test")
    write(tmp_path / "b/train.parquet", {"features": [[1.0], [2.0]]})
    with pytest.raises(
        UserError, match="(?s)not a data set in a known format: looked for.*parquet"
    ):
        read_images(str(tmp_path / "b"))
    with pytest.raises(AnnotationError, match="no column of images: it has .'features'"):
        read_images(f"parquet:{tmp_path / 'b'}")
    (tmp_path / "b/train.parquet").write_bytes(b"PAR1 but not whole")
    with pytest.raises(AnnotationError, match="is not a complete Parquet table"):
        read_images(f"parquet:{tmp_path / 'b'}")
    write(
        tmp_path / "c.parquet",
        {"image": [png(1)], "objects": [{"bbox": [[1, 2, 3]], "category": [1]}]},
    )
    with pytest.raises(AnnotationError, match=r"c\.parquet/0:1.*bbox '\[1, 2, 3\]' is not"):
        held(str(tmp_path / "c.parquet"))


@pytest.mark.parametrize("suffix", ["jsonl", "csv"])
def test_imagefolder(tmp_path, suffix):
    """Text labels are numbered over all splits; file names are relative to the metadata."""
    rows = {"train": [("a.png", "dog"), ("b.png", "cat")], "validation": [("c.png", "dog")]}
    for split, members in rows.items():
        for name, _ in members:
            photo(tmp_path / split / "files" / name)
        entries = [{"file_name": f"files/{name}", "label": label} for name, label in members]
        lines = [json.dumps(e) for e in entries]
        if suffix == "csv":
            lines = ["file_name,label", *(",".join(e.values()) for e in entries)]
        text(tmp_path / split / f"metadata.{suffix}", "\n".join(lines))
    labels = read_image_labels(f"{tmp_path}#val")
    assert [category.name for category in labels.categories] == ["cat", "dog"]
    ((image, number),) = labels.images
    assert image.file_name == f"{tmp_path}/validation/files/c.png" and number == 1
    assert [n for _, n in read_image_labels(f"{tmp_path}#train").images] == [1, 0]


def test_objects_of_an_imagefolder(tmp_path):
    photo(tmp_path / "a.png", (80, 100), orientation=6)
    photo(tmp_path / "b.png")
    bad = {"bbox": [[1, 2, 3, 4]], "categories": [1, 1]}
    good = {"bbox": [[10, 20, 30, 40]], "categories": [3]}
    lines = [{"file_name": "a.png", "objects": good}, {"file_name": "b.png", "objects": {}}]
    text(tmp_path / "metadata.jsonl", "\n".join(map(json.dumps, lines)))
    assert held(str(tmp_path)) == {"a.png": [("3", [10, 20, 40, 60], None)], "b.png": []}
    lines[1]["objects"] = bad
    text(tmp_path / "metadata.jsonl", "\n".join(map(json.dumps, lines)) + "\n")
    with pytest.raises(AnnotationError, match="objects has lists of several lengths"):
        held(f"imagefolder:{tmp_path}")
    text(tmp_path / "metadata.jsonl", '{"label": 1}')
    with pytest.raises(AnnotationError, match="metadata.jsonl has a row without file_name"):
        held(f"imagefolder:{tmp_path}#")
