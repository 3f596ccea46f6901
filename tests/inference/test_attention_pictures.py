"""Attention drawn and measured, from files to files."""

import json

import numpy as np
import pytest
import torch
from PIL import Image

from rmae_d2.errors import UserError
from rmae_d2.inference.attention import (
    Query,
    draw_attention_pictures,
    load_models,
    measure_attention,
    parse_query,
    share_table,
)


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    """Three photos and a json with instances of two of them."""
    from skimage import data

    folder = tmp_path_factory.mktemp("data")
    for name, photo in (("a", data.astronaut()), ("b", data.coffee()), ("c", data.chelsea())):
        Image.fromarray(photo[:120, :160]).save(folder / f"{name}.png")
    images = [
        {"id": i, "file_name": f"{x}.png", "height": 120, "width": 160} for i, x in enumerate("abc")
    ]
    # The right half; a square of 60; one of 4 pixels' side, smaller than half a patch.
    polygons = [(0, 80, 0, 80, 120), (0, 10, 10, 60, 60), (1, 30, 30, 4, 4), (1, 0, 0, 160, 120)]
    annotations = [
        {
            "id": i,
            "image_id": image,
            "category_id": 1,
            "bbox": [x, y, w, h],
            "area": w * h,
            "iscrowd": 0,
            "segmentation": [[x, y, x + w, y, x + w, y + h, x, y + h]],
        }
        for i, (image, x, y, w, h) in enumerate(polygons)
    ]
    content = {
        "images": images,
        "annotations": annotations,
        "categories": [{"id": 1, "name": "thing"}],
    }
    (folder / "labels.json").write_text(json.dumps(content))
    return folder


@pytest.fixture
def models(tmp_path, make_rmae):
    for name in ("one", "two"):
        torch.save({"model": make_rmae().state_dict()}, tmp_path / f"{name}.pth")
    weights = [str(tmp_path / f"{name}.pth") for name in ("one", "two")]
    return load_models(weights, num_heads=4)


def test_a_picture(models, data, tmp_path):
    queries = [parse_query("0,0"), parse_query("cls")]
    assert queries == [Query(0, 0), Query(None, None)]
    inputs = [str(data / "a.png"), str(data / "b.png")]
    written = draw_attention_pictures(models, inputs, tmp_path / "out", queries=queries, tile=160)
    assert [path.name for path in written] == ["a_attention.png", "b_attention.png"]
    picture = np.asarray(Image.open(written[0]))
    assert picture.shape[1] == 3 * 166 + 6
    # Two queries and the features.
    assert len(picture) > 3 * 120
    rows = [i for i in range(len(picture) - 120) if _is_photo(picture[i : i + 120, 6:166], data)]
    assert len(rows) == 2  # the first has a frame
    (rolled,) = draw_attention_pictures(
        models, inputs[:1], tmp_path / "rolled", queries=queries, layer="rollout", side=64, tile=160
    )
    assert rolled.read_bytes() != written[0].read_bytes()


def _is_photo(part, data):
    return np.array_equal(part, np.asarray(Image.open(data / "a.png")))


def test_wrong_queries(models, data, tmp_path):
    for text in ("5", "1,2,3", "a,b"):
        with pytest.raises(UserError, match="two whole numbers x,y"):
            parse_query(text)
    with pytest.raises(UserError, match="outside of the image of 160x120"):
        draw_attention_pictures(models, [str(data / "a.png")], tmp_path, queries=[Query(160, 0)])


def test_measuring(models, data, tmp_path):
    file = tmp_path / "new/share.json"
    result = measure_attention(models, json=str(data / "labels.json"), output=file)
    assert json.loads(file.read_text()) == result
    assert [entry["name"] for entry in result["models"]] == ["one", "two", "random weights"]
    for entry in result["models"]:
        assert (entry["instances"], entry["too_small"], entry["images"]) == (3, 1, 2)
        # Half, 3600 of 19200 pixels, all.
        assert entry["area"] == pytest.approx((0.5 + 0.1875 + 1) / 3)
        assert 0 < entry["share"] <= 1
    difference = result["models"][0]["share"] - result["models"][1]["share"]
    assert result["differences"][0]["difference"] == pytest.approx(difference)
    text = share_table(result)
    assert "one less two" in text and "3 (1 too small)" in text
    same = measure_attention(models, json=str(data / "labels.json"))
    assert same == result
    few = measure_attention(models, json=str(data / "labels.json"), max_images=1, layer="rollout")
    assert few["models"][0]["instances"] == 2


def test_measuring_a_case_by_hand(models, data):
    """With no difference between keys attention is uniform."""
    for block in models[0].vit.net.blocks:
        block.attn.qkv.weight.zero_()
        block.attn.qkv.bias.zero_()
    result = measure_attention(models[:1], json=str(data / "labels.json"))
    assert result["models"][0]["share"] == pytest.approx(result["models"][0]["area"], abs=1e-6)


def test_nothing_to_measure(models, data):
    with pytest.raises(UserError, match="no dataset is registered as 'nonesuch'"):
        measure_attention(models, names=["nonesuch"])
    with pytest.raises(UserError, match="--layer last"):
        measure_attention(models, json=str(data / "labels.json"), layer="last")
