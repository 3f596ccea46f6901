"""Attention as it is computed for looking at, against what the networks themselves compute."""

import pytest
import torch
from timm.models.vision_transformer import VisionTransformer

from rmae_d2.checkpoint.encoder import load_encoder
from rmae_d2.modeling import MaskedViT, ViT, patchify
from rmae_d2.modeling.attention_maps import AttentionViT, roll_out
from rmae_d2.modeling.block_features import block_states
from tests.helpers import jittered

SIZE = {"img_size": 32, "patch_size": 8, "embed_dim": 32, "depth": 3, "num_heads": 4}


def test_timms_unfused_attention():
    """All layers; a hook where timm has the weights before it applies them."""
    theirs = jittered(VisionTransformer(**SIZE, num_classes=0)).eval()
    seen = []
    for block in theirs.blocks:
        block.attn.fused_attn = False
        block.attn.attn_drop.register_forward_hook(lambda _, inputs, __: seen.append(inputs[0]))
    _, net, _ = load_encoder(theirs.state_dict(), num_heads=4)
    vit = AttentionViT(net)
    images = torch.randn(2, 3, 32, 32)
    with torch.no_grad():
        features = theirs.forward_features(images)
    assert len(seen) == vit.depth == 3
    for block, expected in enumerate(seen):
        torch.testing.assert_close(vit.attention(images, block), expected)
    torch.testing.assert_close(vit.features(images), features[:, 1:])


@pytest.mark.parametrize("rel_pos", [False, True])
def test_the_backbone_without_a_cls_token(rel_pos):
    """The weights, applied to the values, give what the block's own attention gives; on another grid too."""
    net = ViT(**SIZE, use_rel_pos=rel_pos, pretrain_img_size=32)
    vit = AttentionViT(jittered(net))
    images = torch.randn(2, 3, 40, 24)
    with torch.no_grad():
        x, *_ = block_states(net, images)
        block = net.blocks[0]
        expected = block.attn(block.norm1(x))
        values = block.attn.qkv(block.norm1(x)).unflatten(3, (3, 4, 8))[:, :, :, 2]
        mixed = vit.attention(images, 0) @ values.flatten(1, 2).transpose(1, 2)
        got = block.attn.proj(mixed.transpose(1, 2).flatten(2)).view_as(expected)
        features = net(images)["last_feat"].flatten(2).transpose(1, 2)
    assert vit.prefix == 0
    torch.testing.assert_close(got, expected)
    torch.testing.assert_close(vit.features(images), features)
    rows = torch.tensor([7, 2])
    torch.testing.assert_close(
        vit.attention(images, -1, rows), vit.attention(images, 2)[:, :, rows]
    )


@pytest.mark.parametrize("rel_pos", [False, True])
def test_the_backbone_with_its_cls_token(rel_pos):
    net = jittered(ViT(**SIZE, use_rel_pos=rel_pos, pretrain_img_size=32, keep_cls_token=True))
    vit, images = AttentionViT(net), torch.randn(2, 3, 40, 24)
    with torch.no_grad():
        x, *_ = block_states(net, images)
        block = net.blocks[0]
        expected = block.attn(block.norm1(x), (5, 3))
        values = block.attn.qkv(block.norm1(x)).unflatten(2, (3, 4, 8))[:, :, 2]
        mixed = vit.attention(images, 0) @ values.transpose(1, 2)
        features = net(images)["last_feat"].flatten(2).transpose(1, 2)
    assert vit.prefix == 1 and vit.rollout(images).shape == (2, 16, 16)
    torch.testing.assert_close(block.attn.proj(mixed.transpose(1, 2).flatten(2)), expected)
    torch.testing.assert_close(vit.features(images), features)


def test_blocks_with_windows_are_refused():
    net = ViT(**SIZE, window_size=2, window_block_indexes=[0, 1], pretrain_img_size=32)
    vit, images = AttentionViT(net), torch.randn(1, 3, 32, 32)
    assert vit.attention(images, 2).shape == (1, 4, 16, 16)
    with pytest.raises(ValueError, match=r"block 1 .* window only; .* whole image are 2"):
        vit.attention(images, 1)
    with pytest.raises(ValueError, match=r"no rollout: in the blocks 0, 1"):
        vit.rollout(images)
    with pytest.raises(ValueError, match="has 3, numbered 0 to 2"):
        vit.attention(images, 3)


def test_twice_the_resolution_and_the_same_one():
    net = jittered(MaskedViT(**SIZE))
    vit = AttentionViT(net)
    images = torch.randn(1, 3, 64, 64)
    weights = vit.attention(images, -1)
    assert weights.shape == (1, 4, 65, 65) and vit.grid(images) == (8, 8)
    torch.testing.assert_close(weights.sum(-1), torch.ones(1, 4, 65))
    assert vit.rollout(images).shape == (1, 65, 65)
    assert vit.features(images).shape == (1, 64, 32)
    with torch.no_grad():
        small = images[:, :, :32, :32]
        assert torch.equal(vit.features(small), net(patchify(small, 8))[:, 1:])
    with pytest.raises(ValueError, match="not a positive multiple of the patch size"):
        vit.attention(images[:, :, :60], 0)


def test_rollout_in_closed_form():
    """Two blocks by hand; and n of uniform attention J / T: I / 2^n + (1 - 1 / 2^n) J / T."""
    first = torch.tensor([[[1.0, 0.0], [0.5, 0.5]]])
    second = torch.tensor([[[0.0, 1.0], [1.0, 0.0]]])
    expected = torch.tensor([[[0.625, 0.375], [0.625, 0.375]]])
    torch.testing.assert_close(roll_out(iter([first, second])), expected)
    uniform = torch.full((1, 5, 5), 0.2)
    expected = torch.eye(5) / 8 + (1 - 1 / 8) * uniform
    torch.testing.assert_close(roll_out(iter([uniform] * 3)), expected)


def test_rollout_is_of_the_blocks_attention():
    vit = AttentionViT(jittered(MaskedViT(**SIZE)))
    images = torch.randn(2, 3, 32, 32)
    expected = torch.eye(17).expand(2, -1, -1)
    for block in range(3):
        expected = (vit.attention(images, block).mean(1) + torch.eye(17)) / 2 @ expected
    torch.testing.assert_close(vit.rollout(images), expected)
