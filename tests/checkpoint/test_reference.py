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


def test_a_missing_entry_is_named():
    with pytest.raises(KeyError, match="region_cross_layer"):
        build_from_reference({k: v for k, v in CONFIG.items() if k != "region_cross_layer"})


def reference_name(ours, config):
    """Reference names written out here (golden files: the same with recorded numbers)."""
    name = ours.removeprefix("backbone.net.")
    expansion = f"region_dec_blocks.{config['region_dec_depth'] - 1}."
    for prefix, reference in (
        ("pixel_decoder.mask_token", "mask_token"),
        ("pixel_decoder.", "decoder_"),
        ("region_branch.neck.norm.", "region_dec_norm."),
        ("region_branch.neck.", "region_cross_"),
        ("region_branch.encoder.blocks.", "region_enc_blocks."),
        ("region_branch.encoder.", "region_"),
        ("region_branch.query.", "region_proj."),
        ("region_branch.decoder.", "region_dec_blocks."),
        ("region_branch.expansion.norm2.", f"{expansion}norm3."),
        ("region_branch.expansion.", expansion),
        ("region_branch.pred.", "region_pred."),
    ):
        if name.startswith(prefix):
            return reference + name.removeprefix(prefix)
    return name


@st.composite
def configs(draw):
    """Any sizes that the reference code can build."""

    def size():
        heads = draw(st.sampled_from([1, 2, 3, 4]))
        return 4 * heads * draw(st.integers(1, 3)), heads

    config = {
        "img_size": draw(st.sampled_from([32, 48])),
        "patch_size": draw(st.sampled_from([4, 8])),
        "num_region": draw(st.integers(0, 10)),
        "region_cross_layer": draw(st.integers(0, 3)),
        "mask_ratio": draw(st.floats(0.1, 0.9)),
        "region_mask_ratio": draw(st.none() | st.floats(0.1, 0.9)),
    }
    for part, width, depths in (
        ("", "embed_dim", (1, 3)),
        ("decoder_", "embed_dim", (0, 2)),
        ("region_enc_", "dim", (0, 2)),
        ("region_dec_", "dim", (1, 4)),
    ):
        config[part + width], config[f"{part}num_heads"] = size()
        config[f"{part}depth"] = draw(st.integers(*depths))
    config["use_mae_loss"] = config["num_region"] == 0 or draw(st.booleans())
    return config


@settings(max_examples=15)
@given(config=configs())
def test_any_combination(config):
    model = build_from_reference(config)
    theirs, places = {}, {}
    for ours, value in model.state_dict().items():
        name = reference_name(ours, config)
        places[name] = ours
        value = value + 0.1 * torch.randn_like(value)
        if name == "region_pos_embed":  # theirs has a row for a cls token
            value = torch.cat([torch.zeros_like(value[:, :1]), value], dim=1)
        theirs[name] = value
    assert len(places) == len(model.state_dict())

    report = load_pretrained(model, {"model": theirs}, require_all=True)
    assert report.kind == ("rmae_reference" if config["num_region"] else "mae")
    assert sorted(report.copied) == sorted(places.values())
    assert not report.unused and not report.resampled
    for name, ours in places.items():
        expected = theirs[name][:, 1:] if name == "region_pos_embed" else theirs[name]
        assert torch.equal(model.state_dict()[ours], expected), name

    images = torch.randn(2, 3, config["img_size"], config["img_size"])
    regions = torch.rand(2, config["num_region"], *images.shape[2:]) > 0.5
    out = model.forward_tensors(images, regions if config["num_region"] else None)
    assert ("loss_pixel" in out, "loss_region" in out) == (
        config["use_mae_loss"],
        config["num_region"] > 0,
    )
    out["loss"].backward()
    for name, parameter in model.named_parameters():
        if parameter.requires_grad:
            assert parameter.grad is not None and parameter.grad.isfinite().all(), name
