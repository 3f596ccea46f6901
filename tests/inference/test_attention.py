"""Attention of several models: names and sizes, what they see, pictures and numbers, from files to files."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from timm.models.vision_transformer import VisionTransformer

from rmae_d2.config import get_config, save_config
from rmae_d2.errors import CheckpointError, UserError
from rmae_d2.inference.attention import (
    Query,
    describe_layer,
    draw_attention_pictures,
    load_models,
    measure_attention,
    parse_query,
    patch_attention,
    share_table,
)
from tests.helpers import write_coco

SIZE = {"img_size": 32, "patch_size": 8, "embed_dim": 64, "depth": 2, "num_heads": 1}


@pytest.fixture
def files(tmp_path, make_rmae):
    """A run with a config, and a timm file."""
    cfg = get_config("demo/rmae_tiny_scenes.py")
    cfg.model.backbone.net.num_heads = 4
    (tmp_path / "rmae").mkdir()
    save_config(cfg, tmp_path / "rmae/config.yaml")
    torch.save({"model": make_rmae().state_dict()}, tmp_path / "rmae/model_final.pth")
    torch.save(VisionTransformer(**SIZE).state_dict(), tmp_path / "vit.pth")
    return [str(tmp_path / "rmae/model_final.pth"), str(tmp_path / "vit.pth")]


def test_names_heads_and_what_they_see(files):
    ours, theirs = load_models(files, normalizations=["imagenet", "half"])
    assert (ours.name, theirs.name) == ("model_final", "vit")
    # 32 channels do not tell the heads: the config beside the weights does.
    assert (ours.size.num_heads, theirs.size.num_heads) == (4, 1)
    assert [m.name for m in load_models([files[0]] * 2)] == ["rmae/model_final"] * 2
    state = torch.load(files[1], weights_only=True)
    both = str(Path(files[1]).parent / "both.pth")
    torch.save({"student": state, "teacher": {k: v + 1 for k, v in state.items()}}, both)
    student, teacher = load_models([f"{both}?key=student", f"{both}?key=teacher"])
    assert (student.name, teacher.name) == ("both student", "both teacher")
    assert torch.equal(teacher.vit.net.pos_embed, student.vit.net.pos_embed + 1)
    image = torch.full((50, 100, 3), 255, dtype=torch.uint8).numpy()
    assert ours.prepare(image).shape == (1, 3, 32, 64)
    assert ours.prepare(image, 70).shape == (1, 3, 72, 144)
    assert ours.prepare(image[:1, :], 8).shape == (1, 3, 8, 800)
    torch.testing.assert_close(theirs.prepare(image), torch.ones(1, 3, 32, 64))
    expected = (255 - 123.675) / 58.395
    torch.testing.assert_close(ours.prepare(image)[0, 0], torch.full((32, 64), expected))


def test_layers_and_heads(files):
    ours, theirs = load_models(files)
    images = torch.randn(1, 3, 32, 32)
    every = ours.vit.attention(images, 1)[0]
    torch.testing.assert_close(patch_attention(ours, images), every.mean(0))
    torch.testing.assert_close(patch_attention(ours, images, "1", head=2), every[2])
    rolled = patch_attention(ours, images, "rollout")
    torch.testing.assert_close(rolled, ours.vit.rollout(images)[0])
    assert describe_layer(ours, "-1", None) == "block 1, mean of 4 heads"
    for layer, head, message in (
        ("2", None, "model_final: --layer 2: block 2: this ViT has 2"),
        ("last", None, "--layer last: the number of a block, -1, or rollout"),
        ("0", 4, "model_final has 4 heads"),
        ("rollout", 0, "--head with --layer rollout"),
    ):
        with pytest.raises(UserError, match=message):
            patch_attention(ours, images, layer, head)
    again = theirs.with_random_weights("random", 1)
    assert (again.name, again.kind, again.size) == ("random", "random", theirs.size)


def test_wrong_options(files):
    with pytest.raises(UserError, match="--names: 1 given for 2 weight files"):
        load_models(files, ["one"])
    with pytest.raises(UserError, match="--normalize x: one of imagenet, half"):
        load_models(files, normalizations=["x"])
    with pytest.raises(CheckpointError, match="3 heads do not divide .* 32: set --num-heads"):
        load_models(files[:1], num_heads=3)


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    """The right half of a; a square of 60; one of 4 pixels' side, smaller than half a patch; all of b."""
    boxes = [(0, 80, 0, 80, 120), (0, 10, 10, 60, 60), (1, 30, 30, 4, 4), (1, 0, 0, 160, 120)]
    return write_coco(tmp_path_factory.mktemp("data"), boxes)


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
    shown = {"queries": queries, "layer": "rollout", "side": 64, "tile": 160}
    (rolled,) = draw_attention_pictures(models, inputs[:1], tmp_path / "rolled", **shown)
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
