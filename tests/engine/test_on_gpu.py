"""A training step on a GPU: no waiting for the device, and the same losses as in fp32 and uncompiled."""

import copy

import pytest
import torch
from detectron2.config import instantiate
from detectron2.utils.events import EventStorage

from rmae_d2.config import apply_overrides, get_config
from rmae_d2.engine import Trainer
from rmae_d2.engine.throughput import compile_model, device_peak

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU"),
]
SMALL = ["model.backbone.net.depth=2", "model.pixel_decoder.depth=2"]


def batch_of(size, seed=0):
    generator = torch.Generator().manual_seed(seed)
    images = torch.randint(0, 256, (size, 4, 224, 224), dtype=torch.uint8, generator=generator)
    images = images.pin_memory()
    return [
        {"image": x[:3], "regions": x[3:], "num_regions": 8, "mask_seed": i}
        for i, x in enumerate(images)
    ]


@pytest.fixture
def model():
    torch.manual_seed(0)
    cfg = apply_overrides(get_config("pretrain/rmae_vitb.py"), SMALL)
    return instantiate(cfg.model).cuda().train()


@pytest.mark.parametrize("precision", ["fp32", "bf16", "fp16"])
def test_a_step_does_not_wait_for_the_device(model, precision, tmp_path):
    device = torch.device("cuda", 0)
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-4, fused=True)
    trainer = Trainer(
        model,
        iter([batch_of(4, seed) for seed in range(6)]),
        optimizer,
        device=device,
        precision=precision,
        grad_accum=2,
        clip_grad=1.0,
        log_period=100,
        output_dir=str(tmp_path),
        peak=device_peak(device, precision),
    )
    trainer.iter, trainer.start_iter, trainer.max_iter = 0, 0, 100
    with EventStorage():
        trainer.run_step()
        trainer.iter = 1
        torch.cuda.set_sync_debug_mode("error")
        try:
            trainer.run_step()
        finally:
            torch.cuda.set_sync_debug_mode("default")


@pytest.mark.parametrize("compiled", [False, True])
def test_half_precision_and_compiled_kernels_compute_the_same(model, compiled):
    batch = batch_of(4)
    expected = {name: loss.item() for name, loss in model(batch).items()}
    other = copy.deepcopy(model)
    if compiled:
        compile_model(other, by_block=False)
        for name, loss in other(batch).items():
            assert loss.item() == pytest.approx(expected[name], rel=1e-4)
    with torch.autocast("cuda", torch.bfloat16):
        losses = other(batch)
    for name, loss in losses.items():
        assert loss.item() == pytest.approx(expected[name], rel=0.02)
    sum(losses.values()).backward()
    assert all(p.grad.isfinite().all() for p in other.parameters() if p.grad is not None)
