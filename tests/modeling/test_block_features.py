"""Features behind chosen blocks, against those of timm's network with the same weights."""

import pytest
import torch
from timm.models.vision_transformer import VisionTransformer

from rmae_d2.checkpoint import convert
from rmae_d2.errors import UserError
from rmae_d2.modeling import MaskedViT, ViT, patchify
from rmae_d2.modeling.block_features import block_features, encoder_of
from tests.helpers import jittered

SIZE = {"img_size": 32, "patch_size": 8, "embed_dim": 32, "depth": 3, "num_heads": 4}


@pytest.fixture(scope="module")
def pair(make_rmae):
    """An R-MAE's encoder, and timm's network with the weights that conversion makes of it."""
    model = make_rmae(depth=3)
    weights = convert(model.state_dict(), "timm").tensors
    theirs = VisionTransformer(**SIZE, num_classes=0, dynamic_img_size=True)
    theirs.load_state_dict(weights)
    return model.backbone.net.eval(), theirs.eval()


@pytest.mark.parametrize("size", [(32, 32), (48, 24), (16, 72)])
@pytest.mark.parametrize("norm", [False, True])
@pytest.mark.parametrize("reshape", [False, True])
def test_timms_get_intermediate_layers(pair, size, norm, reshape):
    ours, theirs = pair
    images = torch.randn(2, 3, *size)
    more = {"reshape": reshape, "norm": norm}
    with torch.no_grad():
        for layers in (1, 2, [0, 2]):
            expected = theirs.get_intermediate_layers(
                images, n=layers, return_prefix_tokens=True, **more
            )
            found = block_features(ours, images, layers, **more)
            assert len(found) == len(expected)
            for (patches, cls_token), (their_patches, their_prefix) in zip(
                found, expected, strict=True
            ):
                torch.testing.assert_close(patches, their_patches)
                torch.testing.assert_close(cls_token, their_prefix[:, 0])
                assert patches.is_contiguous() or not reshape


def test_the_nets_own_forward(pair):
    net, _ = pair
    images = torch.randn(2, 3, 32, 32)
    tokens = net(patchify(images, 8))
    ((patches, cls_token),) = block_features(net, images, reshape=False)
    assert torch.equal(patches, tokens[:, 1:]) and torch.equal(cls_token, tokens[:, 0])
    patches.sum().backward()  # as training uses it
    assert net.blocks[0].attn.qkv.weight.grad.abs().sum() > 0
    net.zero_grad()


@pytest.mark.parametrize(
    "more", [{"window_size": 2, "window_block_indexes": [0]}, {"keep_cls_token": True}]
)
def test_the_transfer_backbone(more):
    net = jittered(
        ViT(**SIZE, use_rel_pos=True, pretrain_img_size=32, out_indices=[0, 1], **more)
    ).eval()
    images = torch.randn(2, 3, 40, 24)
    with torch.no_grad():
        expected = net(images)
        found = block_features(net, images, [2, 0, -2])
    names = ["last_feat", "block0", "block1"]
    for name, (patches, cls_token) in zip(names, found, strict=True):
        torch.testing.assert_close(patches, expected[name])
        assert (cls_token is None) != ("keep_cls_token" in more)


def test_blocks_that_are_not_there(pair):
    net, _ = pair
    images = torch.zeros(1, 3, 32, 32)
    for layers in (0, 4, -1, [], [3], [-4]):
        with pytest.raises(UserError, match="1 to 3, or a list of blocks, 0 to 2"):
            block_features(net, images, layers)
    with pytest.raises(UserError, match="30x32 is not a positive multiple of the patch size 8"):
        block_features(net, torch.zeros(1, 3, 30, 32))


def test_where_the_encoder_is(make_rmae):
    model = make_rmae()
    for holder in (model, model.backbone, model.backbone.net):
        assert encoder_of(holder) is model.backbone.net
    with pytest.raises(UserError, match="a Linear without a plain ViT"):
        encoder_of(torch.nn.Linear(2, 2))
    assert isinstance(encoder_of(model), MaskedViT)
