"""Models of a comparison: names, sizes, what they see."""

import pytest
import torch
from timm.models.vision_transformer import VisionTransformer

from rmae_d2.config import get_config, save_config
from rmae_d2.errors import CheckpointError, UserError
from rmae_d2.inference.attention import describe_layer, load_models, patch_attention

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
    with pytest.raises(
        CheckpointError, match="3 heads do not divide its width 32: set --num-heads"
    ):
        load_models(files[:1], num_heads=3)
