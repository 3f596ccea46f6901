"""What is said and shown of a region store."""

import numpy as np
import pytest
from PIL import Image

from rmae_d2.data import images_from, read_image
from rmae_d2.errors import StoreError
from rmae_d2.regions import FelzenszwalbSource, ShardHeader, ShardWriter, write_index
from rmae_d2.visualization.store_sheet import inspect_store


@pytest.fixture(scope="module")
def photos(make_photos, tmp_path_factory):
    return make_photos(tmp_path_factory.mktemp("photos"), 4)


@pytest.fixture(scope="module")
def store(photos, tmp_path_factory):
    folder, source = tmp_path_factory.mktemp("store"), FelzenszwalbSource(scales=(50,))
    with ShardWriter(folder, 0, ShardHeader(source.params, 1, "hash of the list")) as writer:
        for sample in images_from(photos):
            record = source(sample, read_image(sample["file_name"]))
            writer.add(sample["image_id"], record.to_bytes(), b"0" * 16)
    write_index(folder)
    return str(folder)


def test_statistics_and_a_row_an_image(store, photos, tmp_path):
    told, few = (
        inspect_store(store, output=tmp_path / f"new/{rows}.png", images=str(photos), rows=rows)
        for rows in (9, 2)
    )
    assert f"{store}: 4 images in 1 of 1 shards" in told and "felzenszwalb" in told.lower()
    assert "contact sheet of 4 images: " in told and "contact sheet of 2 images: " in few
    with Image.open(tmp_path / "new/9.png") as four, Image.open(tmp_path / "new/2.png") as two:
        assert four.width == two.width and four.height == 2 * two.height
        # An image and its regions, in colours.
        assert np.ptp(np.asarray(two).reshape(-1, 3).astype(int), axis=1).max() > 100


def test_regions_without_their_image_are_shown_over_gray(store, tmp_path):
    inspect_store(store, ["photo01.jpg"], tmp_path / "a.png")
    with Image.open(tmp_path / "a.png") as sheet:
        assert (np.asarray(sheet)[60:150, 20:200] == 128).all()


def test_an_id_that_is_not_there(store, tmp_path):
    with pytest.raises(StoreError, match="no image 7; ids look like photo00.jpg, photo01.jpg"):
        inspect_store(store, ["7"], tmp_path / "a.png")
