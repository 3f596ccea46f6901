"""Weights are found by what they are, in whatever dicts and behind whatever beginning of their names."""

import argparse
import logging

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from timm.models.vision_transformer import VisionTransformer

from rmae_d2.checkpoint import convert, load_pretrained, load_weights
from rmae_d2.checkpoint.formats import read_weights
from rmae_d2.errors import CheckpointError
from tests.checkpoint.helpers import SIZE, same

CONTAINERS = [
    "model",
    "state_dict",
    "net",
    "module",
    "teacher",
    "model_ema",
    "ema_state_dict",
    "x.y",
]
PREFIXES = ["_orig_mod.", "module.", "backbone.", "encoder.", "vit.", "model.", "student."]


@pytest.fixture(scope="module")
def vit():
    torch.manual_seed(0)
    return VisionTransformer(**SIZE, num_classes=0).state_dict()


def other(weights):
    """A network like it, of other numbers."""
    return {name: value + 1 for name, value in weights.items()}


def ours(weights):
    return {f"backbone.net.{name}": value for name, value in weights.items()}


def nested(weights, containers=(), prefix=""):
    content = {prefix + name: value for name, value in weights.items()}
    for container in reversed(containers):
        content = {container: content, "epoch": 3, "scores": {0: torch.ones(1)}}
    return content


def kinds(make_rmae):
    model = make_rmae(regions=None).state_dict()
    mae, hub = (convert(model, to, transformers=4).tensors for to in ("mae", "huggingface"))
    bare = {n.removeprefix("vit."): v for n, v in hub.items() if n.startswith("vit.")}
    encoder = {n: v for n, v in model.items() if n.startswith("backbone.")}
    return [("rmae_d2", model, model), ("mae", mae, model), ("hf_vitmae", hub, model)] + [
        ("hf_vitmae", bare, encoder)
    ]


@given(data=st.data())
def test_any_nesting_of_any_kind(make_rmae, data):
    kind, theirs, expected = data.draw(st.sampled_from(kinds(make_rmae)))
    containers = data.draw(st.lists(st.sampled_from(CONTAINERS), max_size=3))
    prefix = "".join(data.draw(st.lists(st.sampled_from(PREFIXES), max_size=3)))
    found = load_weights(nested(theirs, containers, prefix))
    assert found[0] == kind and same(found[1], expected)


@pytest.mark.parametrize(
    ("first", "second"),
    [
        ("teacher", "student"),
        ("model_ema", "model"),
        ("ema_state_dict", "state_dict"),
        ("state_dict_ema", "model"),
        ("EMA", "net"),
        ("target_encoder", "encoder"),
        ("model", "student"),
        ("model", "state_dict"),
        ("state_dict", "schema"),  # which is no "ema"
        ("net", "best"),
        ("anything", "student"),
    ],
)
@pytest.mark.parametrize("flat", [False, True])
def test_which_of_two(vit, first, second, flat, caplog):
    content = {second: other(vit), first: vit}
    if flat:
        content = {
            f"{name}.{n}": v for name, weights in content.items() for n, v in weights.items()
        }
    with caplog.at_level(logging.WARNING):
        assert same(load_weights(content)[1], ours(vit))
    assert f"taking the weights under {first}; there are others, under {second}" in caplog.text
    assert "?key=" in caplog.text


def test_the_key_of_a_file_chooses(vit, make_rmae, tmp_path):
    """As DINO writes them: student and teacher, each with a backbone and a head."""
    path = str(tmp_path / "dino.pth")
    content = {
        "student": nested(
            {**other(vit), "head.mlp.0.weight": torch.ones(2)}, (), "module.backbone."
        ),
        "teacher": nested(vit, (), "backbone.") | {"head.last_layer.weight": torch.ones(3)},
        "optimizer": {"state": {0: {"exp_avg": torch.ones(2)}}},
        "args": argparse.Namespace(lr=0.1),
        "epoch": 100,
    }
    torch.save(content, path)
    assert same(load_weights(path)[1], ours(vit))
    assert read_weights(path).others == ["head.last_layer.weight"]
    for key in ("student", "student.module", "student.module.backbone"):
        kind, found = load_weights(f"{path}?key={key}")
        assert kind == "timm"
        assert same({n: v for n, v in found.items() if "head" not in n}, ours(other(vit)))
    left = convert(path, "timm").not_taken
    assert left == {"head.last_layer.weight": "beside the weights, under other names"}
    with pytest.raises(
        CheckpointError, match=r"no such key; weights are under student\.module\.backbone, teacher"
    ):
        load_weights(f"{path}?key=head")
    model = make_rmae(regions=None)
    load_pretrained(model, f"{path}?key=student")
    assert torch.equal(model.backbone.net.cls_token, vit["cls_token"] + 1)


def test_of_two_that_are_as_good_neither_is_guessed(vit, tmp_path):
    path = str(tmp_path / "two.pth")
    torch.save({"left": vit, "right": other(vit)}, path)
    with pytest.raises(
        CheckpointError, match=r"several weights.*left, right\. .*two\.pth\?key=left'"
    ):
        load_weights(path)
    assert same(load_weights(f"{path}?key=right")[1], ours(other(vit)))


def test_ours_gives_the_model_that_was_evaluated(make_rmae, tmp_path):
    model = make_rmae().state_dict()
    average = {f"module.{name}": value + 1 for name, value in model.items()}
    content = {"model": model, "iteration": 7, "trainer": {"x": 1}}
    content["ema"] = {"n_averaged": torch.tensor(3), **average}
    path = str(tmp_path / "model_final.pth")
    torch.save(content, path)
    assert same(load_weights(path)[1], model)
    found = load_weights(f"{path}?key=ema")[1]
    assert same(found, {name: value + 1 for name, value in model.items()})


def test_networks_around_a_vit_are_left_out(vit):
    segmentor = nested(vit, (), "backbone.") | {"decode_head.conv.weight": torch.ones(2)}
    found = read_weights({"state_dict": segmentor})
    assert found.key == "state_dict.backbone" and found.others == ["decode_head.conv.weight"]
    assert same(load_weights({"state_dict": segmentor})[1], ours(vit))


def test_keys_that_are_no_text(vit, tmp_path):
    path = str(tmp_path / "keys.pth")
    torch.save({**vit, 7: torch.ones(2), None: torch.ones(1), ("a", 1): {"b": torch.ones(1)}}, path)
    assert same(load_weights(path)[1], ours(vit))
    assert read_weights(path).others == ["7", "None"]
    torch.save({1: torch.ones(1), "x": {2: torch.ones(1)}}, path)
    with pytest.raises(
        CheckpointError, match=r"holds 1 tensor at its top level \(1\); 1 tensor in x \(2\)"
    ):
        load_weights(path)


@pytest.mark.parametrize(
    ("content", "says"),
    [
        ({}, "It holds no entry at all"),
        ({"model": {}}, r"It holds model \(empty\)"),
        ({"epoch": 3, "args": [1]}, r"It holds epoch \(int\); args \(list\)"),
        (
            {"conv1.weight": torch.zeros(1), "layer1.0.bn1.weight": torch.zeros(1)},
            r"It holds 2 tensors at its top level \(conv1\.weight, layer1\.0\.bn1\.weight\)",
        ),
        (
            {"net": {str(i): torch.zeros(1) for i in range(9)}, "epoch": 3},
            r"It holds 9 tensors in net \(0, 1, 2, 3, \.\.\.\); epoch \(int\)",
        ),
    ],
)
def test_where_nothing_fits_it_is_said_what_there_is(content, says):
    with pytest.raises(CheckpointError, match=f"not weights of MAE, .*{says}$"):
        load_weights(content)


def test_scores_and_states_of_numpy_in_a_checkpoint(vit, tmp_path):
    path = str(tmp_path / "numpy.pth")
    scores = {"best": np.float64(81.25), "epoch": np.int64(7), "done": np.bool_(True)}
    torch.save({"model": vit, **scores, "random": np.random.get_state()}, path)
    assert same(load_weights(path)[1], ours(vit))


def test_tokens_of_an_unknown_name_are_refused(make_rmae, vit, name="memory"):
    model = make_rmae(regions=None)
    hub = convert(vit, "huggingface", transformers=4).tensors
    for theirs, key in (
        (vit, name),
        (hub, f"embeddings.{name}"),
        (ours(vit), f"backbone.net.{name}"),
    ):
        content = {**theirs, key: torch.ones(1, 4, 32)}
        with pytest.raises(CheckpointError, match=rf"backbone\.net\.{name}: the model has no such"):
            load_pretrained(model, content)
        assert list(convert(content, "mae").refused) == [key]
        assert not convert(content, "mae", drop=[key]).refused


def test_a_mask_token_without_a_decoder_is_no_part_of_the_features(make_rmae, vit):
    model = make_rmae(regions=None)
    hub = convert(vit, "huggingface", transformers=4).tensors
    for theirs, key in ((vit, "mask_token"), (hub, "embeddings.mask_token")):
        load_pretrained(model, {**theirs, key: torch.ones(1, 32)})
        assert torch.equal(model.backbone.net.pos_embed, vit["pos_embed"])


@pytest.mark.parametrize("bad", [float("nan"), float("inf"), float("-inf")])
def test_weights_that_are_not_finite_are_refused(make_rmae, vit, bad):
    damaged = {name: value.clone() for name, value in vit.items()}
    damaged["blocks.1.mlp.fc2.bias"][3] = bad
    says = r"1 of 30 tensors hold NaN or infinite numbers \(blocks\.1\.mlp\.fc2\.bias\)"
    with pytest.raises(CheckpointError, match=says):
        load_pretrained(make_rmae(), damaged)
    with pytest.raises(CheckpointError, match=says):
        convert(damaged, "detectron2")
    assert not convert({**vit, "mask_token": torch.tensor([bad])}, "mae").refused
