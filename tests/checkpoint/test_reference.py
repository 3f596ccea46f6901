import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from rmae_d2.checkpoint import build_from_reference, load_pretrained

CONFIG = {
    "img_size": 32,
    "patch_size": 8,
    "embed_dim": 32,
    "depth": 1,
    "num_heads": 4,
    "decoder_embed_dim": 16,
    "decoder_depth": 1,
    "decoder_num_heads": 4,
    "region_enc_dim": 16,
    "region_enc_depth": 1,
    "region_enc_num_heads": 4,
    "region_dec_dim": 24,
    "region_dec_depth": 1,
    "region_dec_num_heads": 4,
    "region_cross_layer": 3,
    "num_region": 8,
}


def test_every_entry_arrives():
    model = build_from_reference(
        {
            **CONFIG,
            "mask_ratio": 0.5,
            "region_mask_ratio": 0.75,
            "norm_pix_loss": False,
            "bg_loss_weight": 0.1,
            "region_loss_weight": 2.0,
            "mae_loss_weight": 3.0,
        }
    )
    branch = model.region_branch
    assert (model.mask_ratio, branch.mask_ratio, model.norm_pix_loss) == (0.5, 0.75, False)
    assert (model.background_weight, model.region_weight, model.pixel_weight) == (0.1, 2.0, 3.0)
    assert len(branch.neck.blocks) == 3
    assert branch.query[1].weight.shape == (24, 16)
    assert model.pixel_decoder.pred.weight.shape == (192, 16)


def test_the_released_configurations_have_no_regions():
    model = build_from_reference({**CONFIG, "num_region": 0})
    assert model.region_branch is None and model.pixel_decoder is not None


def test_without_the_pixel_loss():
    model = build_from_reference({**CONFIG, "use_mae_loss": False})
    assert model.pixel_decoder is None and model.region_branch is not None


def test_a_missing_entry_is_named():
    with pytest.raises(KeyError, match="region_cross_layer"):
        build_from_reference({k: v for k, v in CONFIG.items() if k != "region_cross_layer"})


def test_names_of_the_reference_code():
    """Reference names written out here (golden file: the same with recorded numbers)."""
    model = build_from_reference(CONFIG)
    theirs = {}
    for key, value in model.state_dict().items():
        new = key.removeprefix("backbone.net.")
        for ours, reference in (
            ("pixel_decoder.mask_token", "mask_token"),
            ("pixel_decoder.", "decoder_"),
            ("region_branch.neck.norm.", "region_dec_norm."),
            ("region_branch.neck.", "region_cross_"),
            ("region_branch.encoder.blocks.", "region_enc_blocks."),
            ("region_branch.encoder.", "region_"),
            ("region_branch.query.", "region_proj."),
            ("region_branch.expansion.norm2.", "region_dec_blocks.0.norm3."),
            ("region_branch.expansion.", "region_dec_blocks.0."),
            ("region_branch.pred.", "region_pred."),
        ):
            if new.startswith(ours):
                new = reference + new.removeprefix(ours)
                break
        if new == "region_pos_embed":  # theirs has a row for a cls token
            value = torch.cat([torch.zeros_like(value[:, :1]), value], dim=1)
        theirs[new] = torch.randn_like(value)
    target = build_from_reference(CONFIG)
    report = load_pretrained(target, {"model": theirs}, require_all=True)
    assert report.kind == "rmae_reference"
    assert len(report.copied) == len(theirs)
    assert not report.unused and not report.resampled
    assert torch.equal(target.region_branch.encoder.pos_embed, theirs["region_pos_embed"][:, 1:])
    assert torch.equal(
        target.region_branch.expansion.norm2.bias, theirs["region_dec_blocks.0.norm3.bias"]
    )


@settings(max_examples=15)
@given(
    depths=st.tuples(*[st.integers(1, 3)] * 5),
    heads=st.tuples(*[st.sampled_from([1, 2, 4])] * 4),
    num_region=st.integers(1, 5),
    ratios=st.tuples(st.floats(0.1, 0.9), st.none() | st.floats(0.1, 0.9)),
    pixels=st.booleans(),
)
def test_any_combination_of_sizes(depths, heads, num_region, ratios, pixels):
    parts = ("", "decoder_", "region_enc_", "region_dec_")
    config = {
        **CONFIG,
        **{f"{p}depth": d for p, d in zip(parts, depths, strict=False)},
        **{f"{p}num_heads": h for p, h in zip(parts, heads, strict=True)},
        "region_cross_layer": depths[4],
        "num_region": num_region,
        "mask_ratio": ratios[0],
        "region_mask_ratio": ratios[1],
        "use_mae_loss": pixels,
    }
    model = build_from_reference(config)
    counted = {
        "backbone.net.blocks": depths[0],
        "pixel_decoder.blocks": depths[1] if pixels else 0,
        "region_branch.encoder.blocks": depths[2],
        "region_branch.decoder": depths[3] - 1,
        "region_branch.neck.blocks": depths[4],
    }
    for stem, depth in counted.items():
        found = {
            k.removeprefix(f"{stem}.").partition(".")[0]
            for k in model.state_dict()
            if k.startswith(f"{stem}.")
        }
        assert found == {str(i) for i in range(depth)}, stem
    side = config["img_size"]
    regions = torch.rand(2, num_region, side, side) > 0.5
    out = model.forward_tensors(torch.randn(2, 3, side, side), regions)
    L = model.backbone.net.num_patches
    region_ratio = ratios[0] if ratios[1] is None else ratios[1]
    assert out["mask"].sum(dim=1).tolist() == [L - int(L * (1 - ratios[0]))] * 2
    assert out["region_mask"].sum(dim=1).tolist() == [L - int(L * (1 - region_ratio))] * 2
    out["loss"].backward()
    trained = [p for p in model.parameters() if p.requires_grad]
    assert all(p.grad is not None and p.grad.isfinite().all() for p in trained)
