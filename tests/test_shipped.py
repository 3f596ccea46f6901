"""Weights by name, and those that come with the package."""

import os

import pytest
import torch
from omegaconf import OmegaConf
from safetensors.torch import load_file

from rmae_d2.checkpoint import load_pretrained, load_weights, local_path
from rmae_d2.config import apply_overrides, get_config, load_config, save_config
from rmae_d2.errors import CheckpointError
from rmae_d2.inference.finished_run import load_run
from rmae_d2.shipped import DEFAULT, FOLDER

#: Of a transfer config, to take this encoder.
ENCODER = [
    f"model.backbone.net.{size}"
    for size in ("embed_dim=192", "depth=6", "num_heads=3", "patch_size=12", "img_size=72")
]


def test_another_name_is_refused_with_those_that_there_are(monkeypatch, tmp_path):
    monkeypatch.setattr("rmae_d2.shipped.FOLDER", tmp_path)
    says = "rmae-d2://scenes: no weights of that name come with rmae_d2; there are "
    with pytest.raises(CheckpointError, match=f"{says}none"):
        load_run("rmae-d2://scenes")
    for name in ("b", "a"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "model.safetensors").write_bytes(b"")
    (tmp_path / "c").mkdir()
    for load in (load_run, load_weights, local_path):
        with pytest.raises(CheckpointError, match=f"{says}rmae-d2://a, rmae-d2://b$"):
            load("rmae-d2://scenes")
    assert local_path("rmae-d2://b?key=model") == tmp_path / "b/model.safetensors"


def test_what_is_there_is_small_and_of_no_machine(shipped):
    assert sum(path.stat().st_size for path in shipped.parent.iterdir()) <= 12e6
    tensors = load_file(shipped)
    assert {tensor.dtype for tensor in tensors.values()} == {torch.float16}
    text = (shipped.parent / "config.yaml").read_text()
    assert not [word for word in text.split() if os.path.isabs(word.strip("',\"[]{}"))]


def test_the_model_card_is_filled_in(shipped):
    card = (shipped.parent / "README.md").read_text()
    assert "FILL" not in card and DEFAULT in card and "Apache-2.0" in card


def test_the_whole_model_loads_by_name_in_fp32(shipped):
    _, model = load_run(DEFAULT, overrides=["train.device=cpu"])
    tensors = load_file(shipped)
    state = model.state_dict()
    assert state.keys() == tensors.keys()
    for name, own in state.items():
        assert own.dtype == torch.float32 and torch.equal(own, tensors[name].float()), name


def test_the_config_is_that_of_its_recipe(tmp_path):
    """Of what commands read: a config's names are those that a run saves."""
    save_config(get_config("study/rmae_wide.py"), tmp_path / "config.yaml")
    own, recipe = (
        OmegaConf.to_container(load_config(folder / "config.yaml"))
        for folder in (FOLDER / "rmae_scenes", tmp_path)
    )
    assert own["model"] == recipe["model"]
    assert own["dataloader"]["train"]["mapper"] == recipe["dataloader"]["train"]["mapper"]


@pytest.mark.parametrize("name", ["demo/linear_tiny_scenes.py", "demo/semantic_tiny_scenes.py"])
def test_its_encoder_is_where_another_training_begins(shipped, name):
    """With a smaller table of positions, resampled; all else bit for bit."""
    from detectron2.config import instantiate

    model = instantiate(apply_overrides(get_config(name), ENCODER).model)
    report = load_pretrained(model, DEFAULT)
    assert list(report.resampled) == ["backbone.net.pos_embed"]
    assert sum(key.startswith("backbone.net.blocks.") for key in report.copied) == 6 * 12
    own = model.state_dict()["backbone.net.blocks.3.mlp.fc1.weight"]
    assert torch.equal(own, load_file(shipped)["backbone.net.blocks.3.mlp.fc1.weight"].float())
