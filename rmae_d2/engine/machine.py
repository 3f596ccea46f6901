"""Mismatches between what a run requests and what this machine has, reported once at the start."""

import os

import torch
from omegaconf import DictConfig


def machine_notes(cfg: DictConfig, device: torch.device) -> list[str]:
    """One line for everything that differs from or is slower than requested; the device is this process's."""
    notes = []
    if device.type == "cpu":
        why = "as train.device says" if cfg.train.device == "cpu" else "for torch finds no GPU here"
        slow = ""
        if cfg.train.precision != "fp32":
            slow = f"; {cfg.train.precision} is slow there, train.precision=fp32 mostly faster"
        if slow or cfg.train.device != "cpu":
            notes.append(f"training on the CPU, {why}{slow}")
    affinity = getattr(os, "sched_getaffinity", None)  # not on every system
    cores = len(affinity(0)) if affinity else os.cpu_count() or 1
    workers = cfg.dataloader.train.get("num_workers", 0)
    if workers > cores:
        notes.append(
            f"dataloader.train.num_workers={workers} is more than the {cores} cores that this process has"
        )
    return notes
