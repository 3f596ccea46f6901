"""The pre-training encoder with windows: against explicit masks, and against the ViTDet backbone."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from rmae_d2.errors import UserError
from rmae_d2.modeling import MaskedViT, MaskRequest, ViT, WindowMasking
from rmae_d2.modeling.attention_maps import AttentionViT
from rmae_d2.modeling.block_features import block_features
from rmae_d2.modeling.patches import patchify, window_of_patches

SIZES = {"patch_size": 4, "embed_dim": 16, "depth": 3, "num_heads": 2}
WINDOWS = {"window_size": 2, "window_block_indexes": [0, 2]}


def encoder(img_size=(16, 24), **options):
    net = MaskedViT(img_size, **{**SIZES, **WINDOWS, **options})
    with torch.no_grad():
        for parameter in net.parameters():
            parameter += 0.1 * torch.randn_like(parameter)
    return net.eval()


def plan(seeds, grid=(4, 6), visible=12, window=2):
    images = torch.zeros(len(seeds), 3, 1, 1)
    request = MaskRequest(torch.tensor(seeds), grid, visible, images)
    return WindowMasking(window)(request).ids_shuffle


def test_windows_of_patches():
    assert window_of_patches((4, 6), 2).view(4, 6).tolist() == [
        [0, 0, 1, 1, 2, 2],
        [0, 0, 1, 1, 2, 2],
        [3, 3, 4, 4, 5, 5],
        [3, 3, 4, 4, 5, 5],
    ]


@given(st.lists(st.integers(0, 2**62), min_size=1, max_size=3), st.integers(1, 3))
def test_each_window_shows_as_many_patches(seeds, each):
    """A permutation, whose first V are as many of each window; another prefix, too."""
    order = plan(seeds, visible=6 * each)
    assert torch.equal(order.sort(dim=1).values, torch.arange(24).expand_as(order))
    window = window_of_patches((4, 6), 2)[order]
    for n in range(1, 5):
        counts = torch.stack([row.bincount(minlength=6) for row in window[:, : 6 * n]])
        assert (counts == n).all()


def test_masks_are_uniform_within_windows():
    order = plan(list(range(8000)), visible=6)
    shown = torch.zeros(24).index_add(0, order[:, :6].flatten(), torch.ones(48_000))
    # A quarter of 8000 each: five standard deviations.
    assert (shown - 2000).abs().max() < 5 * (8000 * 0.25 * 0.75) ** 0.5


def test_windows_are_attention_with_a_mask():
    """Each block on all visible tokens with an explicit mask: the patches' windows, or none."""
    net = encoder()
    images = torch.randn(2, 3, 16, 24)
    order = plan([1, 2])
    visible = order[:, :12][:, torch.randperm(12)]  # in any order
    found = net(patchify(images, 4), visible)
    window = window_of_patches((4, 6), 2)[visible]
    same = window[:, :, None] == window[:, None]
    plain = MaskedViT((16, 24), **SIZES).eval()
    plain.load_state_dict(net.state_dict())
    taken = {}
    plain.blocks[0].register_forward_pre_hook(lambda _, x: taken.update(x=x[0]))
    plain(patchify(images, 4), visible)
    x = taken["x"]
    for i, block in enumerate(plain.blocks):
        if i == 1:
            x = block(x)
            continue
        out = []
        for tokens, mask in zip(x, same, strict=True):
            rows = [tokens[:1]]
            for q in range(12):
                seen = tokens[1:][mask[q]]
                at = int(mask[q][:q].sum())
                rows.append(block(seen[None])[0, at : at + 1])
            out.append(torch.cat(rows))
        x = torch.stack(out)
    torch.testing.assert_close(found, plain.norm(x), atol=1e-5, rtol=1e-5)


def test_vitdets_backbone_computes_the_same():
    """All blocks in windows, nothing hidden: the weights as they are, by name."""
    every = {"window_size": 2, "window_block_indexes": [0, 1, 2]}
    net = encoder(16, **every)
    vitdet = ViT(
        **{**SIZES, "img_size": 16, **every},
        norm_layer=lambda dim: nn.LayerNorm(dim, eps=1e-6),
        pretrain_img_size=16,
    ).eval()
    left = vitdet.load_state_dict(net.state_dict(), strict=False)
    assert not left.missing_keys
    images = torch.randn(2, 3, 16, 16)
    (ours,) = block_features(net, images, norm=False)
    torch.testing.assert_close(ours.patches, vitdet(images)["last_feat"], atol=1e-5, rtol=1e-5)


def test_features_of_all_patches_are_those_of_forward():
    """Of every grid that windows divide."""
    net = encoder()
    images = torch.randn(2, 3, 16, 24)
    (last,) = block_features(net, images, reshape=False)
    expected = net(patchify(images, 4))
    torch.testing.assert_close(last.patches, expected[:, 1:])
    torch.testing.assert_close(last.cls_token, expected[:, 0])
    assert block_features(net, torch.randn(1, 3, 32, 40))[0].patches.shape == (1, 16, 8, 10)
    with pytest.raises(UserError, match="windows of 2 x 2 patches do not divide a grid of 4 x 5"):
        block_features(net, torch.randn(1, 3, 16, 20))


def test_attention_is_of_blocks_that_see_the_whole_image():
    vit = AttentionViT(encoder())
    images = torch.randn(1, 3, 16, 24)
    assert vit.attention(images, 1).shape == (1, 2, 25, 25)
    with pytest.raises(UserError, match="those that see the whole image are 1"):
        vit.attention(images, 0)


def test_a_training_step(make_rmae):
    """Trains, with region branch, recomputation and partial decoding; gradients reach all blocks."""
    model = make_rmae(
        img_size=(32, 32), patch_size=4, masking=WindowMasking(4), use_act_checkpoint=True,
        window_size=4, window_block_indexes=[0], decoder={"hidden_attention": False}, decode_ratio=0.5,
    )  # fmt: skip
    images = torch.randint(0, 256, (2, 3, 32, 32), dtype=torch.uint8)
    samples = [{"image": image, "regions": torch.rand(2, 32, 32) > 0.5} for image in images]
    losses = model.train()(samples)
    sum(losses.values()).backward()
    assert all(
        p.grad.abs().sum() > 0 for n, p in model.backbone.named_parameters() if p.requires_grad
    )
    outputs = model.eval()(samples)
    # 64 patches in four windows, of 16 the int(16 * 0.25) visible ones.
    assert all((~out["mask"]).sum() == 16 for out in outputs)
    other = model(samples, mask_ratio=0.8)
    assert all((~out["mask"]).sum() == 4 * 3 for out in other)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: encoder(window_size=3), "windows of 3 x 3 patches do not divide a grid of 4 x 6"),
        (lambda: encoder(window_size=0), "give both, or neither"),
        (lambda: encoder(window_block_indexes=[]), "give both, or neither"),
        (lambda: encoder(window_block_indexes=[3]), r"window_block_indexes \[3\]: the ViT has blocks 0 to 2"),
        (lambda: plan([0], visible=7), "7 visible patches in 6 windows: not equally many"),
        (lambda: encoder()(torch.randn(1, 24, 48), torch.arange(7)[None]), "7 visible patches in 6 windows"),
    ],
)  # fmt: skip
def test_what_is_refused(make, message):
    with pytest.raises(UserError, match=message):
        make()


def test_other_masks_are_refused(make_rmae):
    windows = {"img_size": (32, 32), "patch_size": 4, "window_size": 4, "window_block_indexes": [0]}
    with pytest.raises(UserError, match=r"model.masking._target_=rmae_d2.modeling.WindowMasking"):
        make_rmae(**windows)
    with pytest.raises(UserError, match="model.masking.window_size=4"):
        make_rmae(**windows, masking=WindowMasking(2))
