"""A repository of two configs."""

from pathlib import Path

import pytest

from rmae_d2.config import find

COMMON = """
import torch
from detectron2.config import LazyCall as L
from detectron2.solver import WarmupParamScheduler
from fvcore.common.param_scheduler import CosineParamScheduler

train = dict(max_iter=100, output_dir="./output", amp=dict(enabled=True))
optimizer = L(torch.optim.AdamW)(lr=1e-4, betas=(0.9, 0.95))
lr_multiplier = L(WarmupParamScheduler)(
    scheduler=L(CosineParamScheduler)(start_value=1.0, end_value=0.0),
    warmup_factor=0.0,
    warmup_length=0.1,
    rescale_interval=True,
)
"""
LEAF = """
from ..common.base import lr_multiplier, optimizer, train
train.max_iter = 200
"""


@pytest.fixture
def root(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A repository of two configs, seen as the project's own, with another folder as the cwd."""
    root = tmp_path / "repo" / "configs"
    (root / "common").mkdir(parents=True)
    (root / "pretrain").mkdir()
    (root / "common" / "base.py").write_text(COMMON)
    (root / "pretrain" / "rmae_vitb.py").write_text(LEAF)
    monkeypatch.setattr(find, "__file__", str(tmp_path / "repo" / "rmae_d2" / "config" / "find.py"))
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    monkeypatch.chdir(elsewhere)
    return root
