import pytest
import torch
from timm.models.vision_transformer import VisionTransformer
from torch import nn

from rmae_d2.checkpoint import load_pretrained
from rmae_d2.modeling import RMAE, VIT_SIZES, MaskedViT, build_parts, patchify, vit_kwargs

SIZE = {"img_size": 32, "patch_size": 8, "embed_dim": 32, "depth": 3, "num_heads": 4}


def randomise(model):
    for parameter in model.parameters():
        nn.init.normal_(parameter, std=0.2)
    return model


def test_is_timms_vit(make_rmae):
    """All patches visible, raster order: cls token and patches after the final norm."""
    theirs = randomise(VisionTransformer(**SIZE, num_classes=0)).eval()
    ours = make_rmae(depth=3, regions=None).eval()
    report = load_pretrained(ours, theirs.state_dict())
    assert report.kind == "timm"
    assert len([k for k in report.copied if k.startswith("backbone")]) == len(theirs.state_dict())
    images = torch.randn(2, 3, 32, 32)
    with torch.no_grad():
        expected = theirs.forward_features(images)
        assert torch.allclose(ours.backbone.encode_image(images), expected, atol=1e-5)
        # The same when all patches are named, in an order of their own.
        ids = torch.stack([torch.randperm(16), torch.arange(16)])
        shuffled = ours.backbone(patchify(images, 8), ids)
    assert torch.allclose(shuffled[:, :1], expected[:, :1], atol=1e-5)
    assert torch.allclose(
        shuffled[:, 1:], torch.take_along_dim(expected[:, 1:], ids[:, :, None], dim=1), atol=1e-5
    )


def test_hidden_patches_have_no_influence(make_rmae):
    net = make_rmae(regions=None).backbone.net
    patches, ids = torch.randn(2, 16, 192), torch.tensor([[3, 9, 0], [15, 2, 7]])
    out = net(patches, ids)
    assert out.shape == (2, 4, 32)
    hidden = torch.ones(2, 16, dtype=torch.bool).scatter(1, ids, False)
    patches[hidden] = torch.nan
    assert torch.equal(net(patches, ids), out)


def test_stochastic_depth_grows_linearly():
    net = MaskedViT(**SIZE, drop_path_rate=0.2)
    rates = [getattr(block.drop_path1, "drop_prob", 0.0) for block in net.blocks]
    assert rates == pytest.approx([0.0, 0.1, 0.2])


def test_initialisation_is_mae_s():
    net = MaskedViT(**SIZE)
    for block in net.blocks:
        for linear in (block.attn.qkv, block.attn.proj, block.mlp.fc1, block.mlp.fc2):
            bound = (6 / sum(linear.weight.shape)) ** 0.5
            assert bound * 0.95 < linear.weight.abs().max() <= bound
            assert not linear.bias.any()
    weight = net.patch_embed.proj.weight.flatten(1)
    bound = (6 / sum(weight.shape)) ** 0.5
    assert bound * 0.95 < weight.abs().max() <= bound
    assert not net.pos_embed.requires_grad
    assert all(m.eps == 1e-6 for m in net.modules() if isinstance(m, nn.LayerNorm))


def millions(module, trainable=True):
    return sum(p.numel() for p in module.parameters() if p.requires_grad or not trainable) / 1e6


def test_parameters_of_the_papers_vit_b():
    """Trainable numbers, as in reference/papers.md and performance.md: fixed positions do not count."""
    with torch.device("meta"):
        model = RMAE(**build_parts(**vit_kwargs("base"), pixel_decoder={}, region_branch={}))
    encoder = millions(model.backbone)
    mae = encoder + millions(model.pixel_decoder)
    assert encoder == pytest.approx(85.65, abs=0.005)
    assert mae == pytest.approx(111.66, abs=0.005)
    assert millions(model) == pytest.approx(112.35, abs=0.005)
    frozen = {name for name, p in model.named_parameters() if not p.requires_grad}
    assert frozen == {
        "backbone.net.pos_embed",
        "pixel_decoder.pos_embed",
        "region_branch.neck.pos_embed",
        "region_branch.encoder.pos_embed",
    }


# ViT, DeiT and MAE papers: 5.5, 21.7, 85.8, 303.3 and 630.8 M without a head, positions included.


def test_unknown_size():
    with pytest.raises(ValueError, match="'giant': one of tiny, small, base, large, huge"):
        vit_kwargs("giant")
    assert vit_kwargs("base") is not VIT_SIZES["base"]
