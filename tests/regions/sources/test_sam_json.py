"""Masks that SAM made elsewhere: both formats, the largest first, damage named."""

import json
import pickle

import numpy as np
import pytest
from pycocotools import mask as mask_util

from rmae_d2.regions.record.masks import unpack_bits
from rmae_d2.regions.sources.sam_json import SamJsonSource

SIZE = (60, 80)
IMAGE = np.zeros((*SIZE, 3), np.uint8)
SAMPLE = {"file_name": "/photos/sa_1.jpg", "image_id": "sa_1.jpg"}


def source_of(folder, content, **options):
    folder.mkdir(exist_ok=True)
    text = content if isinstance(content, str) else json.dumps(content)
    (folder / "sa_1.json").write_text(text)
    return pickle.loads(pickle.dumps(SamJsonSource(folder, **options)))


def encoded(mask):
    rle = mask_util.encode(np.asfortranarray(mask, np.uint8))
    return {"segmentation": {**rle, "counts": rle["counts"].decode()}}


def test_both_formats_in_any_order_give_the_largest_first(tmp_path):
    rng = np.random.default_rng(0)
    masks = rng.random((20, *SIZE)) < np.linspace(0.01, 0.9, 20)[:, None, None]
    annotations = [encoded(mask) for mask in masks]
    sa1b = {"image": {"height": SIZE[0], "width": SIZE[1]}, "annotations": annotations}
    for number, content in enumerate((sa1b, annotations, annotations[::-1])):
        record = source_of(tmp_path / str(number), content)(SAMPLE, IMAGE)
        found = unpack_bits(record.mask_bits, record.num_masks)
        np.testing.assert_array_equal(found, masks[np.argsort(-masks.sum((1, 2)))])
    few = source_of(tmp_path, annotations, max_masks=9)(SAMPLE, IMAGE)
    assert few.num_masks == 9 and few.params["max_masks"] == 9
    np.testing.assert_array_equal(unpack_bits(few.mask_bits, 9), found[:9])
    assert source_of(tmp_path, annotations, max_masks=None)(SAMPLE, IMAGE).num_masks == 20
    with pytest.raises(ValueError, match="max_masks=-1"):
        SamJsonSource(tmp_path, max_masks=-1)


def test_an_image_without_masks_is_an_empty_record(tmp_path):
    record = source_of(tmp_path, [])(SAMPLE, IMAGE)
    assert record.num_masks == 0 and record.size == SIZE


def mask(**changes):
    return [{"segmentation": {"size": [60, 80], "counts": [0, 4800], **changes}}]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("{", "not JSON"),
        ("3", "neither SA-1B"),
        ({"image": {}}, "neither SA-1B"),
        ({"image": {"height": 61, "width": 80}, "annotations": []}, r"\(61, 80\).*smaller"),
        ([1], "mask 0 has no segmentation"),
        (mask() + mask(size=[80, 60]), r"mask 1 has run lengths for size '\[80, 60\]'"),
        (mask(counts=[-1, 4801]), "below 0 or above the image's 4800"),
        (mask(counts=["x"]), "not a list of integers"),
        (mask(counts=""), "damaged or empty string"),
        (mask(counts="ppppppp"), "damaged or empty string"),
        (mask(counts="o" * 100 + "0"), "damaged string"),
        (mask(counts="11"), "add up to 2 pixels"),
    ],
)
def test_damaged_files_are_named(tmp_path, content, message):
    with pytest.raises(ValueError, match=rf"(?s)sa_1\.json.*{message}"):
        source_of(tmp_path, content)(SAMPLE, IMAGE)
