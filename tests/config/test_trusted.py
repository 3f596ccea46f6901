"""Configs of other people, of which nothing but networks is built."""

import pytest

from rmae_d2.config import get_config, load_config, save_config
from rmae_d2.config.trusted import load_trusted_config
from rmae_d2.errors import UserError

NETS = [
    "coco/mask_rcnn_vitdet_b_100ep.py",
    "coco/cascade_mask_rcnn_vitdet_b_100ep.py",
    "imagenet/finetune_vitb.py",
    "coco/mask_rcnn_vitdet_h_75ep.py",
    "ade20k/upernet_vitb_160k.py",
    "ade20k/linear_vitb.py",
    "ade20k/semantic_fpn_vitb_ade20k.py",
    "pretrain/rmae_vitb.py",
    "pretrain/automae_vitb_coco.py",
    "pretrain/automae_two_stage_vitb_coco.py",
]


@pytest.mark.parametrize("name", NETS)
def test_all_of_ours_are_trusted(name, tmp_path):
    save_config(get_config(name), tmp_path / "config.yaml")
    found, expected = (
        load(tmp_path / "config.yaml") for load in (load_trusted_config, load_config)
    )
    assert str(found) == str(expected)  # partial objects are never equal


@pytest.mark.parametrize(
    ("text", "what"),
    [
        ("model: !!python/object/apply:os.mkdir [mark]", "!!python/object/apply:os.mkdir"),
        ("model: {}\nx: [{y: !!python/object/apply:os.mkdir [mark]}]", "os.mkdir"),
        ("model: {}\nx: !!python/name:os.mkdir", "os.mkdir"),
        ("model: {}\nx: !!python/module:antigravity", "!!python/module:antigravity"),
        ("model: {}\nx: !!python/object/new:os.mkdir [mark]", "os.mkdir"),
        ("model: {_target_: os.mkdir, path: mark}", "os.mkdir"),
        ("model: {a: [{_target_: os.mkdir}]}", "os.mkdir"),
        ("model: {a: '${other}'}\nother: {_target_: os.mkdir, path: mark}", "os.mkdir"),
        ("model: {_target_: '${x}'}\nx: os.mkdir", "os.mkdir"),
        ("model: {_target_: torch.nn.functional.warnings.sys.exit}", "warnings.sys.exit"),
        ("model: {_target_: rmae_d2.modeling.rmae.math.sqrt}", "math.sqrt"),
        ("model: {_target_: torch.nn.NoSuch}", "torch.nn.NoSuch"),
        ("model: {_target_: torch.nn.functional}", "torch.nn.functional"),
        ("model: {_target_: rmae_d2.files.make_folder, path: mark}", "rmae_d2.files.make_folder"),
    ],
)
def test_nothing_else_is(text, what, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "config.yaml").write_text(text)
    with pytest.raises(UserError, match="which is not a part of a network") as caught:
        load_trusted_config("config.yaml")
    assert f"{what}, which" in str(caught.value)
    assert not (tmp_path / "mark").exists()


@pytest.mark.parametrize("text", ["a: [", "[]", "x: 1", "model: {a: '${b}'}"])
def test_no_config_at_all(text, tmp_path):
    (tmp_path / "config.yaml").write_text(text)
    with pytest.raises(UserError, match="config.yaml: no config of a model"):
        load_trusted_config(tmp_path / "config.yaml")
