"""Weights, config and device of a run, as tools that show what it learned load them."""

from pathlib import Path

import pytest
import torch

from rmae_d2.config import get_config, save_config
from rmae_d2.errors import CheckpointError, UserError
from rmae_d2.inference import RegionPromptPredictor
from rmae_d2.inference.finished_run import config_beside, load_run, pick_device

SIZES = {"img_size": 32, "patch_size": 8, "embed_dim": 32, "depth": 2, "num_heads": 4}


def test_devices():
    there = torch.cuda.is_available()
    assert pick_device("cpu") == torch.device("cpu")
    assert pick_device("auto").type == ("cuda" if there else "cpu")
    if not there:
        with pytest.raises(UserError, match="train.device=cuda:1: there is no GPU"):
            pick_device("cuda:1")


@pytest.fixture(scope="module")
def run(make_run):
    """A folder as runs leave it: config.yaml and weights, untrained."""
    return Path(make_run()).parent


def test_from_the_files_of_a_run(run):
    settings = {"resolution": "window", "mask_ratio": 0.5, "seed": 4}
    made = RegionPromptPredictor.from_files(run / "model_final.pth", device="cpu", **settings)
    assert (made.resolution, made.mask_ratio, made.seed) == ("window", 0.5, 4)
    assert not made.model.training
    state = torch.load(run / "model_final.pth", weights_only=True)["model"]
    assert all(torch.equal(state[name], own) for name, own in made.model.state_dict().items())


def test_the_average_of_a_run(run, tmp_path):
    content = torch.load(run / "model_final.pth", weights_only=True)
    average = {f"module.{name}": value + 1 for name, value in content["model"].items()}
    weights = tmp_path / "model_final.pth"
    torch.save({**content, "iteration": 1, "trainer": {}, "ema": average}, weights)
    (tmp_path / "config.yaml").write_bytes((run / "config.yaml").read_bytes())
    for query, more in (("", 0), ("?key=ema", 1)):
        _, model = load_run(f"{weights}{query}")
        name = "backbone.net.cls_token"
        assert torch.equal(model.state_dict()[name], content["model"][name] + more)


def test_files_that_do_not_do(run, tmp_path):
    weights = run / "model_final.pth"
    with pytest.raises(CheckpointError, match="no such weight file"):
        load_run(str(run / "other.pth"))
    state = torch.load(weights, weights_only=True)["model"]
    lacking = {k: v for k, v in state.items() if not k.startswith("region_branch.pred")}
    torch.save({"model": lacking}, tmp_path / "lacking.pth")
    with pytest.raises(UserError, match="no config.yaml beside"):
        RegionPromptPredictor.from_files(tmp_path / "lacking.pth")
    with pytest.raises(CheckpointError, match="region_branch.pred"):
        RegionPromptPredictor.from_files(tmp_path / "lacking.pth", run / "config.yaml")
    with pytest.raises(UserError, match="no region branch"):
        RegionPromptPredictor.from_files(weights, overrides=["model.region_branch=null"])
    with pytest.raises(UserError, match="completes no regions"):
        small = [f"model.backbone.net.{key}={value}" for key, value in SIZES.items()]
        save_config(get_config("imagenet/finetune_vitb.py"), tmp_path / "classifier.yaml")
        RegionPromptPredictor.from_files(weights, tmp_path / "classifier.yaml", overrides=small)


@pytest.mark.parametrize("weights", ["hf://org/name", "https://host/run/model_final.pth"])
def test_a_config_that_came_over_a_network_is_not_read(weights):
    """Building it could run anything; nothing is fetched before that is said."""
    assert config_beside(weights) is None
    with pytest.raises(UserError, match=f"came with {weights} is not read.*--config-file"):
        load_run(weights)


def test_a_device_that_no_one_knows():
    with pytest.raises(UserError, match="train.device=gpu: no such device; auto, cpu, cuda"):
        pick_device("gpu")
