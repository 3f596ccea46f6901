"""Features of photos as a table: what is in it, and what becomes of files that cannot be read."""

import json

import numpy as np
import pytest
import torch
from PIL import Image

import rmae_d2
from rmae_d2.data import read_image
from rmae_d2.errors import CheckpointError, UserError
from rmae_d2.inference.embedding_run import embed_files
from tests.helpers import write_coco

pq = pytest.importorskip("pyarrow.parquet")
WEIGHTS = "rmae-d2://rmae_scenes"


def column(table, name, *shape):
    """Numbers of a column of lists."""
    values = table[name].combine_chunks().flatten().to_numpy(zero_copy_only=False)
    return values.reshape(len(table), *shape)


def test_rows_are_the_models_features_in_order(make_photos, tmp_path):
    photos = make_photos(tmp_path / "photos", 7)
    (photos / "photo03.jpg").write_bytes(b"no image")
    Image.fromarray(read_image(photos / "photo00.jpg")[:20]).save(photos / "flat.png")
    output = tmp_path / "out/features.parquet"
    embed_files([str(photos)], output, WEIGHTS, patches=True, batch_size=3, device="cpu")
    table = pq.read_table(output)
    names = ["flat.png", *(f"photo{k:02}.jpg" for k in (0, 1, 2, 4, 5, 6))]
    assert table["file_name"].to_pylist() == [str(photos / name) for name in names]
    assert table["image_id"].to_pylist() == [1, 2, 3, 4, 6, 7, 8]
    assert table["height"].to_pylist() == [20, *[48] * 6]
    assert table["width"].to_pylist() == [60] * 7
    model = rmae_d2.load(WEIGHTS, device="cpu")
    images = [read_image(photos / name) for name in names]
    (expected,) = rmae_d2.features(model, images, size=96)
    features, patches = column(table, "features", 192), column(table, "patches", 8, 8, 192)
    assert features.dtype == np.float32 and patches.dtype == np.float16
    np.testing.assert_allclose(features, expected.patches.mean(dim=(2, 3)), atol=1e-5)
    np.testing.assert_allclose(patches, expected.patches.permute(0, 2, 3, 1), atol=4e-3)
    assert json.loads(table.schema.metadata[b"rmae_d2"]) == {
        "rmae_d2": rmae_d2.__version__,
        "weights": WEIGHTS,
        "size": [96, 96],
        "grid": [8, 8],
        "layer": -1,
        "normalization": None,
    }
    assert [path.name for path in output.parent.iterdir()] == ["features.parquet"]


def test_choices(make_photos, tmp_path):
    photos, output = make_photos(tmp_path / "photos", 2), tmp_path / "x.parquet"
    more = {"layer": 2, "size": [48, 120], "normalization": "half"}
    embed_files([str(photos)], output, WEIGHTS, device="cpu", **more)
    table = pq.read_table(output)
    assert table.column_names == ["image_id", "file_name", "height", "width", "features"]
    model = rmae_d2.load(WEIGHTS, device="cpu")
    images = [read_image(path) for path in sorted(photos.iterdir())]
    (expected,) = rmae_d2.features(model, images, [2], size=(48, 120), normalization="half")
    assert expected.patches.shape == (2, 192, 4, 10)
    found = column(table, "features", 192)
    np.testing.assert_allclose(found, expected.patches.mean(dim=(2, 3)), atol=1e-5)


def test_ids_of_a_json(tmp_path):
    write_coco(tmp_path, [(2, 1, 1, 9, 9)])
    content = json.loads((tmp_path / "labels.json").read_text())
    for image, identifier in zip(content["images"], (70, 5, 31), strict=True):
        image["id"] = identifier
    content["annotations"] = []
    (tmp_path / "labels.json").write_text(json.dumps(content))
    output = tmp_path / "x.parquet"
    embed_files([str(tmp_path / "labels.json")], output, WEIGHTS, device="cpu")
    table = pq.read_table(output)
    rows = zip(table["image_id"].to_pylist(), table["file_name"].to_pylist(), strict=True)
    assert {(k, path.rpartition("/")[2]) for k, path in rows} == {
        (70, "a.png"),
        (5, "b.png"),
        (31, "c.png"),
    }


def test_unreadable_images_are_told_even_where_a_part_has_no_other(make_photos, tmp_path, caplog):
    photos = make_photos(tmp_path / "photos", 40)
    for path in sorted(photos.iterdir())[:32]:
        path.write_bytes(b"")
    output = tmp_path / "x.parquet"
    embed_files([str(photos)], output, WEIGHTS, batch_size=1, device="cpu")
    assert len(pq.read_table(output)) == 8
    assert "skipped 32 of 40 images, named above" in caplog.text
    assert f"skipped {photos / 'photo00.jpg'}: the file is empty" in caplog.text
    assert pq.read_metadata(output).num_row_groups == 1


def test_mistakes_write_nothing(tmp_path, make_run):
    (tmp_path / "a.jpg").write_bytes(b"no image")
    output = tmp_path / "x.parquet"
    for given, weights, more, error, says in (
        (
            "a.jpg",
            WEIGHTS,
            {},
            UserError,
            "none of the 1 images can be read, such as .*a.jpg: it is no",
        ),
        ("a.jpg", "none.pth", {}, CheckpointError, "no such folder or weight file"),
        ("nothing", WEIGHTS, {}, UserError, "nothing"),
        (
            "a.jpg",
            WEIGHTS,
            {"size": [50]},
            UserError,
            "50x50 is not a positive multiple of the patch size 12",
        ),
        ("a.jpg", WEIGHTS, {"layer": 6}, UserError, "a list of blocks, 0 to 5"),
    ):
        with pytest.raises(error, match=says):
            embed_files([str(tmp_path / given)], output, weights, device="cpu", **more)
        assert [path.name for path in tmp_path.iterdir()] == ["a.jpg"]


def test_a_detectors_backbone(tmp_path, make_photos):
    from rmae_d2.config import save_config
    from tests.helpers import save_random, small_detector

    run = tmp_path / "run"
    run.mkdir()
    save_config(small_detector(), run / "config.yaml")
    save_random(small_detector(), run / "model_final.pth")
    photos, output = make_photos(tmp_path / "photos", 2), tmp_path / "x.parquet"
    embed_files([str(photos)], output, str(run), device="cpu")
    facts = json.loads(pq.read_schema(output).metadata[b"rmae_d2"])
    assert facts["size"] == [64, 64] and facts["grid"] == [4, 4]
    found = column(pq.read_table(output), "features", 32)
    images = [read_image(path) for path in sorted(photos.iterdir())]
    (expected,) = rmae_d2.features(rmae_d2.load(run, device="cpu"), images, size=64)
    assert torch.equal(expected.patches.mean(dim=(2, 3)), torch.from_numpy(found))
