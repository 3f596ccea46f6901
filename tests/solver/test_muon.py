"""Muon for matrices and AdamW for the rest, against torch's own of both."""

import copy

import pytest
import torch
from torch import nn

from rmae_d2.config import apply_overrides, load_config
from rmae_d2.solver import build_optimizer, scaled_adamw, scaled_muon


def network():
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Conv2d(3, 16, 4, 4), nn.Flatten(2), nn.Linear(4, 24), nn.LayerNorm(24), nn.Linear(24, 8)
    )


def train(model, optimizers, steps=4, seed=0):
    torch.manual_seed(seed)
    for _ in range(steps):
        model.zero_grad()
        model(torch.randn(2, 3, 8, 8)).square().sum().backward()
        for optimizer in optimizers:
            optimizer.step()


@pytest.mark.skipif(not hasattr(torch.optim, "Muon"), reason="this torch has no Muon of its own")
def test_steps_are_those_of_torchs_muon_and_adamw():
    ours, theirs = network(), network()
    everything = [{"params": list(ours.parameters()), "weight_decay": 0.1}]
    train(ours, [scaled_muon(everything, base_lr=0.01, batch_size=512)])
    parts = {
        many: [p for p in theirs.parameters() if (p.ndim == 2) == many] for many in (True, False)
    }
    numbers = {"lr": 0.02, "weight_decay": 0.1}
    muon = torch.optim.Muon(parts[True], adjust_lr_fn="match_rms_adamw", **numbers)
    train(theirs, [muon, torch.optim.AdamW(parts[False], betas=(0.9, 0.95), **numbers)])
    for mine, other in zip(ours.parameters(), theirs.parameters(), strict=True):
        torch.testing.assert_close(mine, other, rtol=1e-4, atol=1e-5)


def test_its_steps_are_as_long_as_adamws():
    """So that AdamW's rate can stay: root mean square of a matrix's step over the rate, 0.2."""
    model = nn.Linear(96, 48, bias=False)
    nn.init.zeros_(model.weight)
    model.weight.grad = torch.randn(48, 96)
    scaled_muon([{"params": [model.weight]}], base_lr=0.01, batch_size=256, weight_decay=0).step()
    length = model.weight.detach().square().mean().sqrt().item()
    assert length / 0.01 == pytest.approx(0.2, rel=0.2)


def test_a_group_with_betas_of_its_own_and_a_factor():
    """As AutoMAE's discriminator has: AdamW's whole, at its own rate."""
    one, two = network(), network()
    options = {"betas": (0.5, 0.999), "weight_decay": 0.0, "lr_factor": 0.5}
    found = scaled_muon([{"params": list(one.parameters()), **options}], 0.01, 256)
    train(one, [found])
    train(two, [scaled_adamw([{"params": list(two.parameters()), **options}], 0.01, 256)])
    for mine, other in zip(one.parameters(), two.parameters(), strict=True):
        torch.testing.assert_close(mine, other, rtol=1e-4, atol=1e-6)
    assert {group["lr"] for group in found.param_groups} == {0.005}


def test_it_goes_on_from_its_state():
    model = network()
    optimizer = scaled_muon([{"params": list(model.parameters())}], 0.01, 256)
    train(model, [optimizer])
    state = copy.deepcopy((model.state_dict(), optimizer.state_dict()))
    train(model, [optimizer], seed=1)
    other = network()
    again = scaled_muon([{"params": list(other.parameters())}], 0.01, 256)
    other.load_state_dict(state[0])
    again.load_state_dict(state[1])
    train(other, [again], seed=1)
    for mine, theirs in zip(model.parameters(), other.parameters(), strict=True):
        assert torch.equal(mine, theirs)


@pytest.mark.parametrize("config", ["demo/rmae_tiny_scenes.py", "demo/automae_vitt_scenes.py"])
def test_one_word_on_the_command_line(config, make_rmae):
    cfg = load_config(config)
    cfg = apply_overrides(cfg, ["optimizer._target_=rmae_d2.solver.scaled_muon"])
    model = make_rmae()
    optimizer = build_optimizer(cfg.optimizer, model)
    names = {id(p): name for name, p in model.named_parameters()}
    of_muon, of_adamw = (
        {
            names[id(p)]
            for group in optimizer.param_groups
            if group.get("use_fallback", False) == fallback
            for p in group["params"]
        }
        for fallback in (False, True)
    )
    assert of_muon == {n for n, p in model.named_parameters() if p.ndim == 2 and p.requires_grad}
    assert of_muon | of_adamw == {n for n, p in model.named_parameters() if p.requires_grad}
    assert "backbone.net.blocks.0.attn.qkv.weight" in of_muon
    assert "backbone.net.patch_embed.proj.weight" in of_adamw
