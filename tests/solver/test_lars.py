"""LARS against its formula, written out."""

import pytest
import torch
from torch import nn

from rmae_d2.solver.lars import lars_params, scaled_lars


def network():
    torch.manual_seed(0)
    model = nn.Sequential(
        nn.Linear(5, 4), nn.BatchNorm1d(4), nn.Linear(4, 3, bias=False), nn.Linear(3, 3)
    )
    model[3].requires_grad_(False)
    return model


def step_by_hand(weights, gradients, momenta, lr, momentum, weight_decay, eta):
    """You et al., 2017, algorithm 1; 1-d parameters by momentum alone, as MAE has them."""
    for name, w in weights.items():
        g = gradients[name]
        if w.ndim > 1:
            length, slope = w.norm(), g.norm()
            ratio = torch.tensor(1.0)
            if length > 0 and slope > 0:
                ratio = eta * length / (slope + weight_decay * length)
            g = ratio * (g + weight_decay * w)
        momenta[name] = momentum * momenta.get(name, 0) + g
        weights[name] = w - lr * momenta[name]


@pytest.mark.parametrize("weight_decay", [0.0, 1e-4])
def test_steps_are_those_of_the_paper(weight_decay):
    model = network()
    optimizer = scaled_lars(lars_params(model), 0.1, 512, weight_decay=weight_decay)
    trained = {n: p for n, p in model.named_parameters() if p.requires_grad}
    weights = {n: p.detach().clone() for n, p in trained.items()}
    momenta = {}
    for step in range(5):
        x = torch.randn(8, 5)
        optimizer.zero_grad()
        model(x).square().sum().backward()
        if step == 2:  # a gradient of zero takes no ratio
            trained["0.weight"].grad.zero_()
        gradients = {n: p.grad.clone() for n, p in trained.items()}
        optimizer.step()
        step_by_hand(weights, gradients, momenta, 0.2, 0.9, weight_decay, 0.001)
        for name, value in weights.items():
            torch.testing.assert_close(trained[name].detach(), value, rtol=1e-5, atol=1e-7)


def test_weights_of_zero_move():
    layer = nn.Linear(3, 2)
    nn.init.zeros_(layer.weight)
    optimizer = scaled_lars(lars_params(layer), 0.1, 256)
    layer.weight.grad, layer.bias.grad = torch.ones(2, 3), torch.ones(2)
    optimizer.step()
    torch.testing.assert_close(layer.weight.detach(), torch.full((2, 3), -0.1))


def test_groups_and_rate(caplog):
    model = network()
    with caplog.at_level("INFO", logger="rmae_d2"):
        optimizer = scaled_lars(lars_params(model), 0.1, 16384, weight_decay=0.5)
    assert "base 0.1 per 256 images, actual 6.4 for batches of 16384" in caplog.text
    matrices, vectors = optimizer.param_groups
    assert [p.ndim for p in matrices["params"]] == [2, 2]
    assert [p.ndim for p in vectors["params"]] == [1, 1, 1]
    assert (matrices["weight_decay"], vectors["weight_decay"]) == (0.5, 0.0)
    assert matrices["lr"] == vectors["lr"] == pytest.approx(6.4)
