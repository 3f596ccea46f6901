"""What a run says of the machine it is on."""

import torch

from rmae_d2.config import apply_overrides, get_config
from rmae_d2.engine.machine import machine_notes

ONE_WORKER = "dataloader.train.num_workers=1"


def notes(*overrides, device="cpu"):
    cfg = apply_overrides(get_config("demo/rmae_tiny_scenes.py"), [ONE_WORKER, *overrides])
    return machine_notes(cfg, torch.device(device))


def test_a_missing_gpu():
    (note,) = notes()
    assert note == "training on the CPU, for torch finds no GPU here"
    (note,) = notes("train.precision=bf16")
    assert "no GPU here; bf16 is slow there, train.precision=fp32 mostly faster" in note
    (note,) = notes("train.precision=bf16", "train.device=cpu")
    assert note.startswith("training on the CPU, as train.device says; bf16 is slow there")
    assert not notes("train.device=cpu")
    assert not notes("train.precision=bf16", device="cuda")


def test_too_many_workers():
    (note,) = notes("train.device=cpu", "dataloader.train.num_workers=4096")
    assert note.startswith("dataloader.train.num_workers=4096 is more than the ")
