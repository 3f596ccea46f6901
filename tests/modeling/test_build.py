"""Facts of the encoder reach the other parts from where they stand once."""

import pytest
import torch
from detectron2.config import LazyConfig, instantiate
from omegaconf import OmegaConf

from rmae_d2.config import apply_overrides, get_config
from rmae_d2.modeling import MaskDiscriminator, RegionBranch, part

SIZES = {"dim": 128, "num_heads": 8}
NET = "${model.backbone.net.%s}"
GRID = {"image_size": NET % "img_size", "patch_size": NET % "patch_size"}

# As rmae_d2 0.1 wrote it to config.yaml, with smaller numbers.
WRITTEN_BY_0_1 = """
model:
  _target_: rmae_d2.modeling.rmae.RMAE
  backbone:
    _target_: rmae_d2.modeling.pixel_encoder.PixelEncoder
    net: {_target_: rmae_d2.modeling.pixel_encoder.MaskedViT, img_size: 32, patch_size: 8, in_chans: 3,
          embed_dim: 32, depth: 1, num_heads: 4}
  pixel_decoder:
    _target_: rmae_d2.modeling.pixel_decoder.PixelDecoder
    in_dim: ${model.backbone.net.embed_dim}
    grid: {_target_: rmae_d2.modeling.patches.grid_of, image_size: '${model.backbone.net.img_size}',
           patch_size: '${model.backbone.net.patch_size}'}
    patch_size: ${model.backbone.net.patch_size}
    in_chans: ${model.backbone.net.in_chans}
    dim: 16
    depth: 1
    num_heads: 4
  region_branch: {_target_: rmae_d2.modeling.region_branch.RegionBranch, in_dim: 32, grid: [4, 4],
                  patch_size: 8}
"""


def test_what_a_constructor_takes_and_is_not_given():
    node = part(RegionBranch, patch_size=4, neck_depth=2)
    assert node._target_ is RegionBranch and (node.patch_size, node.neck_depth) == (4, 2)
    written = OmegaConf.to_container(part(MaskDiscriminator, dims=(1, 2)), resolve=False)
    assert set(written) == {"_target_", "grid", "dims"}
    assert {key: written["grid"][key] for key in GRID} == GRID


@pytest.mark.parametrize(
    "overrides, grid, patch",
    [
        (["img_size=64"], (4, 4), 16),
        (["img_size=32", "patch_size=8"], (4, 4), 8),
        (["img_size=[32,64]", "patch_size=8", "in_chans=1", "embed_dim=24"], (4, 8), 8),
    ],
)
def test_the_encoders_facts_are_overridden_once(overrides, grid, patch):
    shape = [f"model.backbone.net.{x}" for x in ("depth=1", "num_heads=4", *overrides)]
    if "in_chans=1" in overrides:
        shape += ["model.pixel_mean=[1.0]", "model.pixel_std=[1.0]"]
    cfg = apply_overrides(
        get_config("pretrain/rmae_vitb.py"),
        [*shape, "model.pixel_decoder.dim=16", "model.pixel_decoder.depth=1"],
    )
    with torch.device("meta"):
        model = instantiate(cfg.model)
    net, decoder, branch = model.backbone.net, model.pixel_decoder, model.region_branch
    assert net.grid == tuple(decoder.grid) == tuple(branch.grid) == grid
    assert decoder.pred.out_features == patch * patch * net.in_chans
    assert branch.pred[1].out_features == patch * patch
    assert decoder.embed.in_features == branch.neck.embed.in_features == net.embed_dim


def test_a_config_of_0_1_builds_the_same_model(tmp_path, make_rmae):
    (tmp_path / "config.yaml").write_text(WRITTEN_BY_0_1)
    model = instantiate(LazyConfig.load(str(tmp_path / "config.yaml")).model)
    today = make_rmae(
        depth=1, regions={f"{x}_{k}": v for x in ("encoder", "decoder") for k, v in SIZES.items()}
    )
    shapes = {name: value.shape for name, value in model.state_dict().items()}
    assert shapes == {name: value.shape for name, value in today.state_dict().items()}
