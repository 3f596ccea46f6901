"""Ours against a network of the reference code with random weights: numbers recorded once, in files."""

import pytest
import torch

from rmae_d2.checkpoint import build_from_reference, load_pretrained, load_weights


@pytest.fixture(scope="module")
def model(golden):
    model = build_from_reference(golden["config"])
    report = load_pretrained(model, golden["state_dict"], require_all=True)
    assert report.kind == "rmae_reference"
    assert not report.unused and not report.new
    return model


def run(model, golden):
    inputs = golden["inputs"]
    return model.forward_tensors(inputs["imgs"], inputs["region"], inputs["shuffle_ids"])


def test_losses_predictions_and_mask(model, golden):
    out, expected = run(model, golden), golden["outputs"]
    for ours, theirs in (
        ("loss", "loss"),
        ("loss_pixel", "mae_loss"),
        ("loss_region", "region_loss"),
    ):
        assert torch.allclose(out[ours], expected[theirs], atol=1e-5, rtol=1e-5), ours
    hidden = expected["mask"].bool()
    assert torch.equal(out["mask"], hidden)
    assert torch.allclose(out["pred_pixels"][hidden], expected["pred"][hidden], atol=1e-5)
    hidden_regions = expected["region_mask"].bool()
    assert torch.equal(out["region_mask"], hidden_regions)
    ours = out["pred_regions"].transpose(1, 2)[hidden_regions]
    theirs = expected["pred_region"].transpose(1, 2)[hidden_regions]
    assert torch.allclose(ours, theirs, atol=1e-5)
    assert not out["pred_pixels"][~hidden].any()


def test_every_gradient_norm(model, golden):
    model.zero_grad()
    run(model, golden)["loss"].backward()
    keys = list(golden["state_dict"])
    _, marked = load_weights({k: torch.full((1, 2, 1), i) for i, k in enumerate(keys)})
    renamed = {keys[int(number.flatten()[-1])]: name for name, number in marked.items()}
    assert renamed.keys() == golden["state_dict"].keys()
    norms = {
        name: p.grad.norm().item() for name, p in model.named_parameters() if p.grad is not None
    }
    assert len(norms) == len(golden["grad_norms"])
    for key, expected in golden["grad_norms"].items():
        assert norms[renamed[key]] == pytest.approx(expected, rel=1e-5), key
