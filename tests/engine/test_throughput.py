"""What is counted, and that what is fast computes the same."""

import copy
import pickle

import pytest
import torch
from detectron2.config import instantiate
from torch import nn

from rmae_d2.config import apply_overrides, get_config
from rmae_d2.engine.throughput import (
    Peak,
    compile_model,
    device_peak,
    matmul_flops,
    step_flops,
    tune_for,
)
from rmae_d2.errors import UserError
from rmae_d2.modeling import rmae
from rmae_d2.modeling.analysis import analyze

CPU = torch.device("cpu")
SMALL = {
    "model.backbone.net.img_size": 64,
    "model.backbone.net.embed_dim": 48,
    "model.backbone.net.depth": 2,
    "model.backbone.net.num_heads": 4,
    "model.pixel_decoder.dim": 32,
    "model.pixel_decoder.depth": 2,
    "model.region_branch.encoder_dim": 32,
    "model.region_branch.decoder_dim": 32,
}


def batch_of(size, side=64, seed=0):
    generator = torch.Generator().manual_seed(seed)
    images = torch.randint(0, 256, (size, 4, side, side), dtype=torch.uint8, generator=generator)
    return [
        {"image": x[:3], "regions": x[3:], "num_regions": 8, "mask_seed": i}
        for i, x in enumerate(images)
    ]


def small_model(*more):
    torch.manual_seed(0)
    overrides = [*(f"{key}={value}" for key, value in SMALL.items()), *more]
    return instantiate(apply_overrides(get_config("pretrain/rmae_vitb.py"), overrides).model)


@pytest.fixture
def model():
    return small_model()


def losses_and_gradients(model, batch, autocast=False):
    model.zero_grad()
    with torch.autocast("cpu", torch.bfloat16, enabled=autocast):
        losses = model(batch)
    sum(losses.values()).backward()
    grads = {n: p.grad.clone() for n, p in model.named_parameters() if p.grad is not None}
    return {name: value.item() for name, value in losses.items()}, grads


def assert_close(one, other, tolerance=1e-5):
    assert one[0] == pytest.approx(other[0], rel=tolerance)
    assert one[1].keys() == other[1].keys()
    for name, grad in one[1].items():
        scale = grad.abs().max().clamp(min=1e-3)
        assert (grad - other[1][name]).abs().max() <= tolerance * 10 * scale, name


@pytest.mark.parametrize("pool", ["mean", "attention"])
def test_operations_are_those_of_the_analysis(pool):
    def build():
        return small_model(f"model.region_branch.query_pool={pool}")

    model = build()
    assert step_flops(model, batch_of(3)) == 6 * sum(analyze(build, 8).macs.values())
    assert any(p.requires_grad for p in model.parameters())


def test_counting_leaves_a_model_as_it_was(caplog):
    class WithStatistics(nn.Module):
        def __init__(self):
            super().__init__()
            self.norm = nn.BatchNorm1d(3)
            self.linear = nn.Linear(3, 5)

        def forward(self, batch):
            x = torch.stack([sample["x"] for sample in batch])
            return {"loss": self.linear(self.norm(x)).mean()}

    model = WithStatistics().train()
    before = copy.deepcopy(model.state_dict())
    samples = [{"x": torch.randn(3)} for _ in range(4)]
    assert step_flops(model, samples) == 3 * 2 * 3 * 5
    for name, value in model.state_dict().items():
        assert torch.equal(value, before[name]), name
    assert all(p.grad is None for p in model.parameters())
    assert step_flops(model, [{"y": 0}]) is None and "MFU is not reported" in caplog.text


def test_peaks():
    assert matmul_flops(CPU, torch.float32) > 1e8
    assert matmul_flops(CPU, torch.float16) > 1e6
    state = torch.get_rng_state()
    measured = device_peak(CPU, "fp32")
    assert "fp32 matrix products on this CPU" in str(measured)
    assert torch.equal(state, torch.get_rng_state())
    assert str(device_peak(CPU, "bf16", 989)) == "989 TFLOP/s (train.device_tflops)"
    assert device_peak(CPU, "bf16", 989) == Peak(989e12, "train.device_tflops")


@pytest.mark.parametrize("tflops", [0.0, 989.0])
def test_an_unknown_precision_is_told_with_the_known_ones(tflops):
    with pytest.raises(UserError, match="train.precision='fp23': one of fp32, bf16, fp16"):
        device_peak(CPU, "fp23", tflops)


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_attention_of_choice_computes_the_same(model, precision):
    tuned = copy.deepcopy(model)
    tune_for(tuned, CPU, precision)
    fused = {m.fused_attn for m in tuned.modules() if hasattr(m, "fused_attn")}
    assert fused == {precision == "fp32"}
    assert_close(losses_and_gradients(model, batch_of(3)), losses_and_gradients(tuned, batch_of(3)))


@pytest.mark.parametrize("by_block", [False, True])
def test_what_is_compiled_computes_the_same(model, by_block, monkeypatch):
    """The graphs without their kernels, which take minutes to make; nothing is left out of them."""
    torch.compiler.reset()
    rmae._compiled.cache_clear()
    compiled = copy.deepcopy(model)
    original = torch.compile
    graphs = []

    def counting(gm, inputs):
        graphs.append(gm)
        return gm.forward

    monkeypatch.setattr(
        torch, "compile", lambda f, **options: original(f, backend=counting, **options)
    )
    compile_model(compiled, by_block)
    for autocast in (False, True):
        assert_close(
            losses_and_gradients(model, batch_of(3), autocast),
            losses_and_gradients(compiled, batch_of(3), autocast),
        )
    assert graphs
    copied, eager = pickle.loads(pickle.dumps(compiled)), copy.deepcopy(model)
    for changed in (copied, eager):
        for parameter in changed.parameters():
            parameter.data += 0.01
    # A copy computes with its own weights.
    assert_close(
        losses_and_gradients(eager, batch_of(3)), losses_and_gradients(copied, batch_of(3))
    )
    assert compiled.state_dict().keys() == model.state_dict().keys()
    torch.compiler.reset()
    rmae._compiled.cache_clear()


@pytest.mark.slow
@pytest.mark.parametrize("autocast", [False, True])
def test_compiled_kernels_compute_the_same(model, autocast):
    """Two minutes of compiling on a CPU."""
    eager = losses_and_gradients(model, batch_of(3), autocast)
    compiled = copy.deepcopy(model)
    compile_model(compiled, by_block=False)
    found = losses_and_gradients(compiled, batch_of(3), autocast)
    assert_close(eager, found, 2e-3 if autocast else 1e-5)
    assert step_flops(compiled, batch_of(2)) == step_flops(model, batch_of(2))


def test_what_has_no_blocks_is_not_compiled():
    with pytest.raises(UserError, match="this Linear has no transformer blocks"):
        compile_model(nn.Linear(2, 2), by_block=False)
