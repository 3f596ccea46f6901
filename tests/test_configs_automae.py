"""AutoMAE's configs, and the policies that docs/automae.md compares it with: each trains a small step."""

import re
from pathlib import Path

import pytest
import torch
from detectron2.config import instantiate

from rmae_d2.config import config_root, load_config
from rmae_d2.modeling import (
    AttentionGuidedMasking,
    BlockMasking,
    BoxPriorMasking,
    GridMasking,
    LearnedMasking,
    MaskedViT,
    RandomMasking,
)
from tests.helpers import config_step, shrunk

ROOT = config_root()
SIZE = {"embed_dim": 32, "depth": 2, "num_heads": 4}
JOINT = [
    *("pretrain/automae_vitb_imagenet.py", "pretrain/automae_vitb_coco.py"),
    *("pretrain/automae_rmae_vitb.py", "demo/automae_vitt_scenes.py"),
    *("study/automae.py", "study/automae_rmae.py"),
]
TWO_STAGE = ["pretrain/automae_two_stage_vitb_coco.py", "demo/automae_two_stage_scenes.py"]
DOCS = Path(__file__).resolve().parents[1] / "docs" / "automae.md"
POLICIES = {
    *(RandomMasking, BlockMasking, GridMasking, BoxPriorMasking, AttentionGuidedMasking),
}


@pytest.fixture
def scorer_file(tmp_path):
    torch.save(MaskedViT(64, 16, **SIZE).state_dict(), tmp_path / "vit.pth")
    return tmp_path / "vit.pth"


def scorer(weights, where="model.masking.generator.scorer"):
    return [f"{where}.weights={weights}", *(f"{where}.net.{k}={v}" for k, v in SIZE.items())]


def test_every_config_is_here():
    found = {str(path.relative_to(ROOT)) for path in ROOT.glob("*/automae*.py")}
    assert found == {*JOINT, *TWO_STAGE}


@pytest.mark.parametrize("name", JOINT)
def test_joint(name, scorer_file):
    # With the last of two blocks where the config names one of six.
    cfg = shrunk(name, *scorer(scorer_file), "model.masking.generator.scorer.block=-1")
    model, losses, moved = config_step(cfg)
    assert {"loss_pixel", "loss_generator", "loss_discriminator"} <= set(losses)
    assert moved == {name for name, p in model.named_parameters() if p.requires_grad}
    assert sum(name.startswith("masking.") for name in moved) == 3 + 3


@pytest.mark.parametrize("name", JOINT)
def test_scorer_size(name):
    """Assigning a part of a config copies it: changes made to that copy would be missing here."""
    cfg = load_config(name)
    own, scorer = cfg.model.backbone.net, cfg.model.masking.generator.scorer.net
    assert [scorer[key] for key in SIZE] == [own[key] for key in SIZE]


@pytest.mark.parametrize("name", TWO_STAGE)
def test_two_stages(name, scorer_file, tmp_path):
    first = scorer(scorer_file)
    block = "scorer.block=-1"
    joint_name = JOINT[1] if name.startswith("pretrain") else JOINT[3]
    joint = instantiate(shrunk(joint_name, *first, f"model.masking.generator.{block}").model)
    torch.save({"model": joint.state_dict()}, tmp_path / "joint.pth")
    where = "model.masking.generator.generator"
    cfg = shrunk(
        name,
        *scorer(scorer_file, f"{where}.scorer"),
        f"{where}.{block}",
        f"model.masking.generator.weights={tmp_path / 'joint.pth'}",
    )
    model, losses, moved = config_step(cfg)
    assert set(losses) == {"loss_pixel"}
    assert moved and not any(name.startswith("masking.") for name in moved)
    for key, value in joint.masking.generator.state_dict().items():
        assert torch.equal(model.masking.generator.state_dict()[key], value)


def documented():
    """The values of ``model.masking=...`` in the docs' table."""
    return re.findall(r"`(model\.masking=\{[^`]*\})`", DOCS.read_text())


def test_documented_policies(scorer_file):
    """The overrides stand in the docs as a user would type them, on AutoMAE's config and on MAE's."""
    kinds = set()
    for override in documented():
        override = override.replace("VIT.pth", str(scorer_file))
        if "scorer" in override:
            for key, value in SIZE.items():
                override = re.sub(rf"\b{key}: \d+", f"{key}: {value}", override)
        model, losses, moved = config_step(shrunk("demo/mae_tiny_scenes.py", override))
        assert set(losses) == {"loss_pixel"} and moved
        kinds.add(type(model.masking))
    assert kinds == POLICIES and LearnedMasking not in kinds
