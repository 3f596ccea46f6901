import pytest
import torch
import torch.nn.functional as F
from hypothesis import given
from hypothesis import strategies as st

from rmae_d2.modeling.losses import patch_statistics, pixel_loss, region_loss


@given(st.integers(1, 4), st.integers(1, 5), st.integers(2, 9))
def test_pixel_loss_against_loops(B, N, X):
    pred, target = torch.randn(B, N, X), 3 * torch.randn(B, N, X) + 1
    for normalize in (True, False):
        for b in range(B):
            total = 0.0
            for n in range(N):
                wanted = target[b, n]
                if normalize:
                    variance = (wanted - wanted.mean()).square().sum() / (X - 1)
                    wanted = (wanted - wanted.mean()) / (variance + 1e-6) ** 0.5
                total += (pred[b, n] - wanted).square().mean().item()
            ours = pixel_loss(pred, target, normalize)
            assert ours.shape == (B,)
            assert ours[b].item() == pytest.approx(total / N, rel=1e-4)


def test_a_flat_patch_gives_finite_loss_and_gradient():
    pred = torch.randn(1, 2, 12, requires_grad=True)
    loss = pixel_loss(pred, torch.full((1, 2, 12), 0.7))
    loss.sum().backward()
    assert loss.isfinite().all() and pred.grad.isfinite().all()
    mean, std = patch_statistics(torch.full((1, 2, 12), 0.7))
    assert mean.flatten().tolist() == pytest.approx([0.7, 0.7])
    assert std.flatten().tolist() == pytest.approx([1e-3, 1e-3])


def test_region_loss_weighs_background_per_pixel_without_renormalising():
    logits, target = torch.randn(2, 3, 4, 5), torch.rand(2, 3, 4, 5) > 0.6
    each = F.binary_cross_entropy_with_logits(logits, target.float(), reduction="none")
    assert torch.allclose(region_loss(logits, target), each.mean(dim=(1, 2, 3)))
    foreground = (each * target).mean(dim=(1, 2, 3))
    background = (each * ~target).mean(dim=(1, 2, 3))
    ours = region_loss(logits, target, background_weight=0.3)
    assert torch.allclose(ours, foreground + 0.3 * background)


def test_l2_is_the_squared_error_of_the_probability():
    logits, target = torch.randn(2, 3, 4, 5), torch.rand(2, 3, 4, 5) > 0.6
    each = (1 / (1 + (-logits).exp()) - target.float()) ** 2
    ours = region_loss(logits, target, criterion="l2")
    assert torch.allclose(ours, each.mean(dim=(1, 2, 3)))
    weighted = each * (target + 0.3 * ~target)
    ours = region_loss(logits, target, background_weight=0.3, criterion="l2")
    assert torch.allclose(ours, weighted.mean(dim=(1, 2, 3)))
    sure = torch.where(target, 20.0, -20.0)
    assert region_loss(sure, target, criterion="l2").max() < 1e-12


def test_losses_are_float32_whatever_comes_in():
    pred = torch.randn(1, 2, 12, dtype=torch.bfloat16)
    assert pixel_loss(pred, pred).dtype == torch.float32
    assert region_loss(pred[None], pred[None] > 0).dtype == torch.float32
