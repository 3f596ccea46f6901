"""Hiera as pixel encoder and as pyramid: parity with timm's, hidden units, weights from one to the other."""

import pytest
import timm
import torch

import rmae_d2
from rmae_d2.checkpoint import load_pretrained
from rmae_d2.errors import UserError
from rmae_d2.modeling import (
    RMAE,
    HieraPyramid,
    HieraStages,
    MaskedHiera,
    PixelDecoder,
    PixelEncoder,
    RegionBranch,
)
from rmae_d2.modeling.patches import patchify

SMALL = {"embed_dim": 64, "stages": (1, 1, 2, 1)}


def encoder(side=96, kind=MaskedHiera):
    net = kind(side, **SMALL)
    with torch.no_grad():
        for parameter in net.parameters():
            parameter += 0.05 * torch.randn_like(parameter)
    return net.eval()


@pytest.fixture(scope="module")
def pair():
    """timm's Hiera-T for 256 pixels with random weights, and ours with the same, by name."""
    torch.manual_seed(0)
    theirs = timm.create_model("hiera_tiny_224", img_size=256, abs_win_pos_embed=True).eval()
    ours = HieraStages(256, embed_dim=768, stages=(1, 2, 7, 2)).eval()
    left = ours.hiera.load_state_dict(theirs.state_dict(), strict=False)
    assert not left.missing_keys and {k.split(".")[0] for k in left.unexpected_keys} == {"head"}
    return theirs, ours


def test_all_units_as_timm(pair):
    theirs, ours = pair
    images = torch.randn(2, 3, 256, 256)
    expected = theirs.forward_intermediates(images, intermediates_only=True)
    found = ours.stages(images)
    assert [x.shape[1:] for x in found] == [(96, 64, 64), (192, 32, 32), (384, 16, 16), (768, 8, 8)]
    for mine, other in zip(found, expected, strict=True):
        torch.testing.assert_close(mine, other)


def test_visible_units_as_timm(pair):
    theirs, ours = pair
    images = torch.randn(2, 3, 256, 256)
    visible = torch.rand(2, 64).argsort(dim=1) < 20
    _, expected = theirs.forward_features(images, visible, return_intermediates=True)
    for mine, other in zip(ours.stages(images, visible), expected, strict=True):
        torch.testing.assert_close(mine, other)


def test_units_come_in_the_order_asked_for():
    net = encoder()
    patches = patchify(torch.randn(2, 3, 96, 96), 32)
    ids = torch.stack([torch.randperm(9)[:5] for _ in range(2)])
    found, turned = net(patches, ids), net(patches, ids.flip(1))
    assert found.shape == (2, 6, 64)
    torch.testing.assert_close(turned[:, 1:], found[:, 1:].flip(1))
    torch.testing.assert_close(turned[:, 0], found[:, 0])
    torch.testing.assert_close(found[:, 0], found[:, 1:].mean(dim=1))
    every = net(patches, torch.arange(9).expand(2, 9))
    torch.testing.assert_close(net(patches), every)


def test_hidden_pixels_are_not_seen():
    """Neither by attention nor by the overlapping convolution at the border of a visible unit."""
    net = encoder()
    patches = patchify(torch.randn(1, 3, 96, 96), 32)
    ids = torch.tensor([[4, 0]])
    other = torch.randn_like(patches)
    other[:, [0, 4]] = patches[:, [0, 4]]
    torch.testing.assert_close(net(patches, ids), net(other, ids))
    other[:, 4, 5] += 10
    assert not torch.allclose(net(patches, ids), net(other, ids))


def rmae(side=96, **options):
    net = encoder(side)
    facts = (net.embed_dim, net.grid, net.patch_size)
    decoder = PixelDecoder(*facts, dim=16, depth=1, num_heads=2)
    sizes = {"encoder_dim": 16, "encoder_num_heads": 2, "decoder_dim": 16, "decoder_num_heads": 2}
    branch = RegionBranch(*facts, **sizes)
    options = {"mask_ratio": 0.6, **options}
    return RMAE(backbone=PixelEncoder(net), pixel_decoder=decoder, region_branch=branch, **options)


def test_a_training_step_and_a_picture():
    """Gradients reach every parameter; evaluation predicts 32 x 32 pixels of each hidden unit."""
    model = rmae().train()
    samples = [
        {"image": torch.randint(0, 256, (3, 96, 96), dtype=torch.uint8)}
        | {"regions": torch.rand(2, 96, 96) > 0.5}
        for _ in range(2)
    ]
    sum(model(samples).values()).backward()
    for name, parameter in model.named_parameters():
        assert not parameter.requires_grad or parameter.grad.abs().sum() > 0, name
    output = model.eval()(samples)[0]
    assert output["pred_pixels"].shape == (9, 32 * 32 * 3) and (~output["mask"]).sum() == 3
    assert output["reconstruction"].shape == (3, 96, 96)


def test_the_pyramid_takes_the_encoders_weights():
    """By name, in another size; its scales are the stages, without the parts that fuse them."""
    model = rmae()
    pyramid = HieraPyramid(HieraStages(128, **SMALL), out_channels=8)
    detector = torch.nn.Module()
    detector.backbone = pyramid
    report = load_pretrained(detector, model.state_dict())
    assert all(key.startswith("backbone.fpn.") for key in report.new)
    for name, tensor in pyramid.net.state_dict().items():
        assert torch.equal(tensor, model.state_dict()[f"backbone.net.{name}"]), name
    found = pyramid.eval()(torch.randn(1, 3, 128, 128))
    shapes = pyramid.output_shape()
    assert list(found) == list(shapes) == ["p2", "p3", "p4", "p5", "p6"]
    for name, value in found.items():
        side = 128 // shapes[name].stride
        assert value.shape == (1, 8, side, side)
    assert pyramid.padding_constraints == {"size_divisibility": 32, "square_size": 128}


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: HieraStages(96, patch_size=16), "patch_size=16: Hiera's mask units are of 32"),
        (lambda: HieraStages(100), "not a positive multiple of the patch size 32"),
        (lambda: HieraStages(96, embed_dim=60), "embed_dim=60"),
        (lambda: HieraStages(96, stages=(1, 1)), r"stages=\[1, 1\]"),
        (
            lambda: encoder()(torch.zeros(1, 9, 3072), None, torch.ones(1, 9)),
            "needs a plain ViT: set model.masking=null",
        ),
        (lambda: rmae_d2.features(rmae(), torch.zeros(1, 3, 96, 96)), "without a plain ViT"),
    ],
)
def test_what_is_refused(make, message):
    with pytest.raises(UserError, match=message):
        make()
