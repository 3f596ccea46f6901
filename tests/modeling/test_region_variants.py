"""What separates the length, batch and channel variants, and which branch hears of which."""

import pytest
import torch

from rmae_d2.errors import UserError
from rmae_d2.modeling import (
    IndependentMasking,
    patchify,
    random_shuffle,
    unpatchify,
)
from tests.helpers import region_samples

B, K = 2, 5
VARIANTS = {
    "length": {"variant": "length"},
    "attention": {"variant": "length", "query_pool": "attention"},
    "batch": {"variant": "batch"},
    "channel": {"variant": "channel", "num_regions": K},
}
FEEDINGS = ("pixel_to_region", "region_to_pixel", "both")
DEEP = {"neck_depth": 2, "encoder_depth": 2, "decoder_depth": 2}


def inputs(regions=K):
    torch.manual_seed(5)
    return (
        torch.randn(B, 3, 32, 32),
        torch.rand(B, regions, 32, 32) > 0.6,
        random_shuffle(torch.arange(B) + 3, 16),
    )


def predict(model, *arguments):
    with torch.no_grad():
        return model.forward_tensors(*arguments)


# ---- regions among themselves


@pytest.mark.parametrize("sizes", [{}, DEEP], ids=["one block", "deep"])
@pytest.mark.parametrize("name", VARIANTS)
def test_which_variants_are_equivariant(make_rmae, name, sizes):
    model = make_rmae(regions={**VARIANTS[name], **sizes})
    images, regions, ids = inputs()
    order = torch.tensor([3, 0, 4, 2, 1])
    out = predict(model, images, regions, ids)
    permuted = predict(model, images, regions[:, order], ids)
    same = torch.allclose(
        permuted["pred_regions"], out["pred_regions"][:, order], rtol=1e-4, atol=1e-4
    )
    assert same == (name != "channel")
    assert torch.allclose(permuted["loss_pixel"], out["loss_pixel"])


@pytest.mark.parametrize("name", VARIANTS)
def test_which_variants_let_regions_see_each_other(make_rmae, name):
    model = make_rmae(regions=VARIANTS[name])
    images, regions, ids = inputs()
    others = regions.clone()
    others[:, 1:] = ~others[:, 1:]
    first = predict(model, images, regions, ids)["pred_regions"][:, 0]
    beside_others = predict(model, images, others, ids)["pred_regions"][:, 0]
    assert torch.allclose(first, beside_others, atol=1e-5) == (name == "batch")


def test_any_number_of_regions(make_rmae):
    images, _, ids = inputs()
    for name in ("length", "attention", "batch"):
        model = make_rmae(regions=VARIANTS[name])
        for number in (1, 3, 9):
            regions = torch.rand(B, number, 32, 32) > 0.6
            assert predict(model, images, regions, ids)["pred_regions"].shape == (B, number, 16, 64)
    channel = make_rmae(regions=VARIANTS["channel"])
    with pytest.raises(ValueError, match=r"3 region maps given to a channel variant of num_reg"):
        predict(channel, images, torch.rand(B, 3, 32, 32) > 0.6, ids)


# ---- against a computation that spares nothing


def naive(branch, tokens, regions, ids, visible):
    """Logits (B, passes, L, P*P*C) of a channel or batch branch: everything embedded and predicted."""
    maps = regions.float()
    channels = branch.maps_a_pass
    passes = maps.shape[1] // channels
    stacks = maps.reshape(len(maps) * passes, channels, *maps.shape[2:])

    def rows(x, ids):
        return torch.stack([row[i] for row, i in zip(x, ids, strict=True)])

    encoder = branch.encoder
    x = encoder.patch_embed.proj(stacks - 0.5).flatten(2).transpose(1, 2) + encoder.pos_embed
    many = ids.repeat_interleave(passes, dim=0)
    x = rows(x, many[:, :visible])
    for block in encoder.blocks:
        x = block(x)
    decoder = branch.decoder
    x = decoder.embed(x)
    hidden = decoder.mask_token.expand(len(x), ids.shape[1] - visible, -1)
    x = rows(torch.cat([x, hidden], dim=1), many.argsort(dim=1)) + decoder.pos_embed
    memory = branch.neck.norm(branch.neck(tokens, ids[:, :visible]))[:, 1:]
    x = x + memory.repeat_interleave(passes, dim=0)
    for block in decoder.blocks:
        x = block(x)
    return decoder.pred(decoder.norm(x))


@pytest.mark.parametrize("name", ["batch", "channel"])
def test_hidden_only_computing_changes_nothing(make_rmae, name):
    model = make_rmae(regions={**VARIANTS[name], **DEEP, "encoder_dim": 24})
    branch = model.region_branch
    images, regions, ids = inputs()
    with torch.no_grad():
        tokens = model.backbone(patchify(images, 8), ids[:, :4])
        everywhere = naive(branch, tokens, regions, ids, visible=4)
        # Of a patch the channels come last, as patchify cuts images.
        pictures = unpatchify(everywhere, (4, 4), 8)
        expected = patchify(pictures.reshape(B * K, 1, 32, 32), 8).unflatten(0, (B, K))
    out = predict(model, images, regions, ids)
    hidden = out["mask"][:, None, :, None].expand_as(expected)
    assert torch.allclose(out["pred_regions"][hidden], expected[hidden], rtol=1e-4, atol=1e-5)


# ---- learning


@pytest.mark.parametrize("feeding", FEEDINGS)
@pytest.mark.parametrize("name", VARIANTS)
def test_gradients_reach_every_part(make_rmae, name, feeding):
    model = make_rmae(regions={**VARIANTS[name], **DEEP}, feeding=feeding)
    model.forward_tensors(*inputs())["loss"].backward()
    for parameter_name, parameter in model.named_parameters():
        if not parameter.requires_grad:
            continue
        assert parameter.grad is not None, parameter_name
        # Where the neck hears nothing of the pixels it is given zeros, which make no gradient.
        silent = (
            feeding == "region_to_pixel" and parameter_name == "region_branch.neck.embed.weight"
        )
        assert bool(parameter.grad.any()) != silent, parameter_name


@pytest.mark.parametrize("name", VARIANTS)
def test_bf16_autocast_is_close_to_fp32(make_rmae, name):
    model = make_rmae(regions={**VARIANTS[name], **DEEP}, feeding="both")
    expected = model.forward_tensors(*inputs())
    with torch.autocast("cpu", torch.bfloat16):
        out = model.forward_tensors(*inputs())
    out["loss"].backward()
    for loss in ("loss_pixel", "loss_region"):
        assert out[loss].dtype == torch.float32
        assert out[loss].item() == pytest.approx(expected[loss].item(), rel=0.02)
    assert all(p.grad.isfinite().all() for p in model.parameters() if p.requires_grad)


@pytest.mark.parametrize(
    "name", [pytest.param(n, marks=[pytest.mark.slow] * (n != "length")) for n in VARIANTS]
)
def test_what_is_compiled_computes_the_same(make_rmae, name):
    """Captured as one graph; the compiler's own code is not the point, so none is made."""
    model = make_rmae(regions=VARIANTS[name], feeding="both", masking=IndependentMasking()).train()
    samples = region_samples(regions=K)
    expected = model(samples)
    torch.compiler.reset()
    model.compile(backend="aot_eager", fullgraph=True)
    out = model(samples)
    for loss in expected:
        assert torch.allclose(out[loss], expected[loss], rtol=1e-5)


# ---- feeding


@pytest.mark.parametrize("feeding", FEEDINGS)
@pytest.mark.parametrize("name", VARIANTS)
def test_who_hears_of_whom(make_rmae, name, feeding):
    model = make_rmae(regions=VARIANTS[name], feeding=feeding)
    images, regions, ids = inputs()
    out = predict(model, images, regions, ids)
    other_image = predict(model, torch.randn_like(images), regions, ids)
    other_regions = predict(model, images, ~regions, ids)
    pixels_reach_regions = not torch.equal(other_image["pred_regions"], out["pred_regions"])
    regions_reach_pixels = not torch.equal(other_regions["pred_pixels"], out["pred_pixels"])
    assert pixels_reach_regions == (feeding != "region_to_pixel")
    assert regions_reach_pixels == (feeding != "pixel_to_region")


@pytest.mark.parametrize("feeding", FEEDINGS)
@pytest.mark.parametrize("name", VARIANTS)
def test_nothing_hidden_leaks(make_rmae, name, feeding):
    model = make_rmae(regions=VARIANTS[name], feeding=feeding)
    images, regions, ids = inputs()
    out = predict(model, images, regions, ids)
    hidden = out["mask"]
    pixels = patchify(images, 8)
    pixels[hidden] = torch.randn_like(pixels[hidden])
    maps = patchify(regions.flatten(0, 1)[:, None], 8).unflatten(0, (B, K))
    maps = torch.where(hidden[:, None, :, None], ~maps, maps)
    other = predict(
        model,
        unpatchify(pixels, (4, 4), 8),
        unpatchify(maps.flatten(0, 1), (4, 4), 8)[:, 0].unflatten(0, (B, K)),
        ids,
    )
    for what in ("pred_pixels", "pred_regions"):
        assert torch.equal(other[what], out[what])


def test_the_default_feeding_adds_no_tensor(make_rmae):
    names = make_rmae().state_dict().keys()
    assert make_rmae(feeding="both").state_dict().keys() - names == {
        "region_to_pixel.weight",
        "region_to_pixel.bias",
    }


# ---- regions as input only, as targets only

INPUT_ONLY = {"ratio": 0, "feeding": "region_to_pixel"}
TARGET_ONLY = {"ratio": 1, "feeding": "pixel_to_region"}
ENDS = pytest.mark.parametrize("end", [INPUT_ONLY, TARGET_ONLY], ids=["input", "target"])
KINDS = pytest.mark.parametrize("name", ["length", "batch", "channel"])


def at_the_end(make_rmae, name, end, **arguments):
    regions = {**VARIANTS[name], **DEEP, "mask_ratio": end["ratio"]}
    return make_rmae(regions=regions, feeding=end["feeding"], **arguments)


def test_regions_that_are_input_only(make_rmae):
    """No region loss, and gradients from the pixels' loss to the region encoder."""
    for name in ("length", "batch", "channel"):
        model = at_the_end(make_rmae, name, INPUT_ONLY)
        out = model.forward_tensors(*inputs())
        assert out["loss_region"] == 0 and torch.equal(out["loss"], out["loss_pixel"])
        assert not out["region_mask"].any() and out["pred_regions"].shape == (B, K, 16, 64)
        out["loss"].backward()
        trained = {n: p.grad for n, p in model.named_parameters() if p.requires_grad}
        assert all(grad.isfinite().all() for grad in trained.values())  # none is missing: for DDP
        for part, used in (("encoder.", True), ("neck.", False), ("decoder.", False)):
            grads = [g for n, g in trained.items() if n.startswith(f"region_branch.{part}")]
            assert grads and all(bool(g.any()) == used for g in grads), (name, part)
        images, regions, ids = inputs()
        other = predict(model, images, ~regions, ids)
        assert not torch.allclose(other["pred_pixels"], out["pred_pixels"])


def test_regions_that_are_targets_only(make_rmae):
    """All hidden patches of pixels, none visible: predictions see the image alone."""
    for name in ("length", "batch", "channel"):
        model = at_the_end(make_rmae, name, TARGET_ONLY)
        images, regions, ids = inputs()
        out = model.forward_tensors(images, regions, ids)
        assert out["region_mask"].all() and out["loss_region"] > 0
        other = predict(model, images, ~regions, ids)
        assert torch.equal(other["pred_regions"], out["pred_regions"])
        # Nothing tells one region from another; of channels, their place does.
        alike = torch.allclose(out["pred_regions"], out["pred_regions"][:, :1], atol=1e-6)
        assert alike == (name != "channel")
        assert not torch.allclose(*predict(model, images, regions, ids)["pred_regions"][:, 0])
        out["loss_region"].backward()
        net = model.backbone.net
        assert net.blocks[0].attn.qkv.weight.grad.any()
        trained = {n: p.grad for n, p in model.region_branch.named_parameters() if p.requires_grad}
        assert all(grad.isfinite().all() for grad in trained.values())
        assert all(grad.any() for n, grad in trained.items() if n.startswith("neck."))
        assert not any(grad.any() for n, grad in trained.items() if n.startswith("encoder."))


@KINDS
@ENDS
def test_the_ends_in_training_and_evaluation(make_rmae, name, end):
    model = at_the_end(make_rmae, name, end).train()
    samples = region_samples(regions=K)
    with torch.autocast("cpu", torch.bfloat16):
        losses = model(samples)
    sum(losses.values()).backward()
    assert all(p.grad.isfinite().all() for p in model.parameters() if p.requires_grad)
    exact = model(samples)
    for loss, value in losses.items():
        assert value.item() == pytest.approx(exact[loss].item(), rel=0.03)
    copy = at_the_end(make_rmae, name, end)
    copy.load_state_dict(model.state_dict())
    for sample, one, other in zip(
        samples, model.eval()(samples), copy.eval()(samples), strict=True
    ):
        assert all(torch.equal(one[key], other[key]) for key in one)
        shown = torch.equal(one["region_probability"], sample["regions"].float())
        assert shown == (end is INPUT_ONLY)


@pytest.mark.parametrize("ratio", [0, 1])
def test_ends_without_a_meaning_are_refused(make_rmae, ratio):
    right = {0: "region_to_pixel", 1: "pixel_to_region"}[ratio]
    for feeding in set(FEEDINGS) - {right}:
        with pytest.raises(UserError, match=f"mask_ratio={ratio} with .*model.feeding={right}"):
            make_rmae(regions={"mask_ratio": ratio}, feeding=feeding)
    with pytest.raises(UserError, match="leaves 0 of 16 patches visible"):
        make_rmae(regions={"mask_ratio": 0.99})


# ---- errors


def test_options_that_cannot_be(make_rmae):
    for wrong, message in (
        ({"feeding": "sideways"}, "feeding='sideways'"),
        ({"feeding": "both", "decoder": None}, "needs a region branch and a pixel decoder"),
        ({"feeding": "region_to_pixel", "regions": None}, "needs a region branch and a pixel"),
        ({"region_criterion": "l1"}, "region_criterion='l1'"),
        ({"region_dropout": True, "regions": VARIANTS["channel"]}, "whose K is fixed"),
        ({"regions": {"variant": "depth"}}, "unknown region variant 'depth'"),
        ({"regions": {"query_pool": "max"}}, "query_pool='max'"),
        ({"regions": {"query_pool": "attention", "mask_ratio": 1}}, "no region patch is visible"),
    ):
        with pytest.raises(ValueError, match=message):
            make_rmae(**wrong)
