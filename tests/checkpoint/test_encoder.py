"""ViTs whose size is read off their files."""

import pytest
import torch
from timm.models.vision_transformer import VisionTransformer

from rmae_d2.checkpoint.encoder import load_encoder
from rmae_d2.errors import CheckpointError
from rmae_d2.modeling import MaskedViT, ViT
from rmae_d2.modeling.pixel_encoder import LayerNorm
from tests.helpers import jittered

SIZE = {"img_size": 32, "patch_size": 8, "embed_dim": 64, "depth": 2}


def test_our_own_on_a_grid_that_is_not_square(make_rmae, tmp_path):
    ours = make_rmae(img_size=(24, 40), depth=3)
    torch.save({"model": ours.state_dict()}, tmp_path / "model_final.pth")
    size, net, kind = load_encoder(str(tmp_path / "model_final.pth"), num_heads=4)
    assert (kind, size.grid, size.depth, size.num_heads) == ("rmae_d2", (3, 5), 3, 4)
    assert isinstance(net, MaskedViT) and not net.training
    for name, value in ours.backbone.net.state_dict().items():
        assert torch.equal(net.state_dict()[name], value), name


def test_a_timm_file_of_half_precision_and_mean_pooling():
    theirs = VisionTransformer(**SIZE, num_heads=1, global_pool="avg", class_token=True)
    size, net, _ = load_encoder({k: v.half() for k, v in theirs.state_dict().items()})
    assert size.num_heads == 1 and not size.norm and isinstance(net.norm, torch.nn.Identity)
    assert net.pos_embed.dtype == torch.float32


def test_moco_small_has_twelve_heads():
    theirs = VisionTransformer(img_size=32, embed_dim=384, depth=1, num_heads=12, num_classes=0)
    state = {f"module.base_encoder.{k}": v for k, v in theirs.state_dict().items()}
    state["module.base_encoder.head.0.weight"] = torch.zeros(4, 4)
    size, _, kind = load_encoder({"state_dict": state})
    assert (kind, size.num_heads) == ("moco_v3", 12)
    assert load_encoder(theirs.state_dict())[0].num_heads == 6


def test_a_vitdet_tells_its_windows_by_its_relative_positions():
    sizes = {**SIZE, "img_size": 64, "depth": 3, "num_heads": 1, "pretrain_img_size": 32}
    windows = {"use_rel_pos": True, "window_size": 2, "window_block_indexes": [0, 2]}
    theirs = ViT(**sizes, **windows, norm_layer=LayerNorm)
    weights = {f"backbone.net.{k}": v for k, v in theirs.state_dict().items()}
    size, net, kind = load_encoder({**weights, "roi_heads.x": torch.zeros(1)})
    assert (kind, size.grid) == ("detectron2", (4, 4))
    assert (size.window, size.windowed, size.rel_grid) == (2, (0, 2), 8)
    images = torch.randn(1, 3, 64, 48)
    with torch.no_grad():
        got, expected = (vit.eval()(images)["last_feat"] for vit in (net, theirs))
    assert torch.equal(got, expected)
    without = {k: v for k, v in weights.items() if "rel_pos" not in k}
    assert load_encoder(without)[0].windowed == ()
    assert load_encoder(without, window=(2, [1]))[0].windowed == (1,)


def test_a_segmentation_backbone_with_cls_token_and_relative_positions():
    sizes = {**SIZE, "num_heads": 1, "pretrain_img_size": 32, "norm_layer": LayerNorm}
    theirs = jittered(ViT(**sizes, use_rel_pos=True, keep_cls_token=True)).eval()
    weights = {f"backbone.net.{k}": v for k, v in theirs.state_dict().items()}
    size, net, _ = load_encoder(weights)
    assert (size.cls_token, size.rel_grid) == (True, 4)
    images = torch.randn(1, 3, 32, 48)
    with torch.no_grad():
        assert torch.equal(net(images)["last_feat"], theirs(images)["last_feat"])
    weights["backbone.net.blocks.0.attn.rel_pos_h"] = torch.zeros(3, 64)
    with pytest.raises(CheckpointError, match="a cls token beside windows: not a plain ViT"):
        load_encoder(weights)


def test_what_is_no_plain_vit_is_refused():
    plain = VisionTransformer(**SIZE, num_heads=1).state_dict()
    with pytest.raises(CheckpointError, match=r'not a plain ViT.*\s*Unexpected key.*"memory"'):
        load_encoder({**plain, "memory": torch.ones(1, 4, plain["cls_token"].shape[2])})
    with pytest.raises(CheckpointError, match=r'Missing key.*"blocks\.1\.norm2\.bias"'):
        load_encoder({k: v for k, v in plain.items() if k != "blocks.1.norm2.bias"})
    with pytest.raises(CheckpointError, match="no position embedding"):
        load_encoder({k: v for k, v in plain.items() if k != "pos_embed"})
    narrow = VisionTransformer(**{**SIZE, "embed_dim": 32}, num_heads=4).state_dict()
    with pytest.raises(CheckpointError, match="no tensor tells the heads of a ViT of width 32"):
        load_encoder(narrow)


def test_random_weights_of_the_same_size(make_rmae):
    size, net, _ = load_encoder(make_rmae().state_dict(), num_heads=4)
    before = torch.random.get_rng_state()
    one, same, other = size.build(1), size.build(1), size.build(2)
    assert torch.equal(torch.random.get_rng_state(), before)
    names = net.state_dict().keys()
    assert one.state_dict().keys() == names
    assert all(torch.equal(one.state_dict()[n], same.state_dict()[n]) for n in names)
    assert not torch.equal(one.blocks[0].attn.qkv.weight, other.blocks[0].attn.qkv.weight)
