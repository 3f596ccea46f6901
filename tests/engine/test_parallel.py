"""FSDP in one process: what is sharded, whole weights, checkpoint folders whole and damaged, every model."""

import shutil
import signal
import sys

import pytest
import torch
from omegaconf import OmegaConf
from timm.models.vision_transformer import Block
from timm.optim import Lars
from torch import nn

from rmae_d2.checkpoint import load_weights
from rmae_d2.checkpoint.sharded import read_checkpoint, read_sharded
from rmae_d2.engine import EMA, Checkpointer, Trainer, parallelize, unwrap
from rmae_d2.engine.parallel import (
    _units,
    check_optimizer,
    clip_gradients,
    is_sharded,
    local,
    whole,
)
from rmae_d2.errors import CheckpointError, UserError
from rmae_d2.modeling import RMAE, build_parts, vit_kwargs
from rmae_d2.solver import scaled_muon
from tests.helpers import events

CPU = torch.device("cpu")
FSDP = "train.parallel=fsdp"


# Runs the tool, but dies at the nth moment of a kind while it saves a folder.
DIE_WHILE_SAVING = """
import os, runpy, signal, sys
from pathlib import Path
import torch

tool, moment, times = sys.argv[1], sys.argv[2], int(sys.argv[3])
sys.argv = sys.argv[3:]
sys.argv[0] = tool

def dying(real, applies):
    def call(*args, **kwargs):
        global times
        times -= applies(*args)
        if times == 0:
            os.kill(os.getpid(), signal.SIGKILL)
        return real(*args, **kwargs)
    return call

(out,) = [Path(x.partition("=")[2]) for x in sys.argv if x.startswith("train.output_dir=")]
if moment == "tensor":
    torch.save = dying(torch.save, lambda *_: (out / "model_0000007.tmp").exists())
else:
    os.replace = dying(os.replace, lambda source, target: Path(target).name == moment)
runpy.run_path(tool, run_name="__main__")
"""


class Toy(nn.Module):
    """Blocks, a buffer, a frozen parameter, one that is not used."""

    def __init__(self):
        super().__init__()
        self.blocks = nn.ModuleList(Block(8, 2) for _ in range(2))
        self.norm = nn.BatchNorm1d(8)
        self.frozen = nn.Parameter(torch.randn(1, 3, 8), requires_grad=False)
        self.unused = nn.Linear(2, 2)

    def forward(self, batch):
        x = torch.stack([sample["x"] for sample in batch]) + self.frozen
        for block in self.blocks:
            x = block(x)
        return {"loss": (self.norm(x.transpose(1, 2)) - 1).pow(2).mean() + x.pow(2).mean()}


def batches(steps, start=0):
    generator = torch.Generator().manual_seed(3)
    every = [
        [{"x": torch.randn(3, 8, generator=generator)} for _ in range(4)] for _ in range(steps)
    ]
    return iter(every[start:])


def settings(parallel="fsdp", precision="fp32"):
    return OmegaConf.create({"parallel": parallel, "precision": precision, "ddp": {}})


class Run:
    """A toy's training with everything that is saved."""

    def __init__(self, folder, parallel="fsdp"):
        folder.mkdir(exist_ok=True)
        torch.manual_seed(1)
        self.folder = folder
        self.model = parallelize(Toy(), settings(parallel), CPU)
        optimizer = torch.optim.AdamW(self.model.parameters(), lr=0.01, fused=True)
        self.trainer = Trainer(
            self.model, batches(20), optimizer, device=CPU, clip_grad=0.5, output_dir=str(folder)
        )
        self.ema = EMA(self.model, decay=0.9)
        self.checkpointer = Checkpointer(
            self.model, str(folder), trainer=self.trainer, ema=self.ema
        )

    def train(self, stop, start=0):
        self.trainer.batches = batches(20, start)
        self.trainer.iter = start
        self.trainer.start_iter, self.trainer.max_iter = start, 20
        from detectron2.utils.events import EventStorage

        with EventStorage(start) as self.trainer.storage:
            for self.trainer.iter in range(start, stop):
                self.trainer.run_step()
                self.ema.update()
        return self

    def save(self, iteration):
        return self.checkpointer.save(f"model_{iteration:07d}", iteration)

    def state(self):
        """All weights, averages and moments, whole."""
        self.checkpointer.save("model_final", self.trainer.iter)
        return torch.load(self.folder / "model_final.pth", weights_only=True)


def test_unknown_kinds_and_fp16_are_refused():
    with pytest.raises(UserError, match="train.parallel='zero': one of ddp, fsdp"):
        parallelize(Toy(), settings("zero"), CPU)
    with pytest.raises(UserError, match="fp16 needs: set train.precision=bf16"):
        parallelize(Toy(), settings(precision="fp16"), CPU)


def test_lars_and_muon_are_refused():
    model = parallelize(Toy(), settings(), CPU)
    with pytest.raises(UserError, match="Lars needs whole matrices"):
        check_optimizer(model, Lars(model.parameters(), lr=1.0))
    with pytest.raises(UserError, match="Muon needs whole matrices.*train.parallel=ddp"):
        check_optimizer(model, scaled_muon([{"params": list(model.parameters())}], 1.0, 256))
    check_optimizer(model, torch.optim.SGD(model.parameters(), lr=1.0))
    plain = Toy()
    check_optimizer(plain, Lars(plain.parameters(), lr=1.0))


@pytest.mark.parametrize("size", ["base", "large", "huge"])
def test_large_blocks_are_units_and_small_ones_are_not(size):
    with torch.device("meta"):
        sizes = {"patch_size": 14 if size == "huge" else 16, **vit_kwargs(size)}
        parts = build_parts(**sizes, pixel_decoder={}, region_branch={})
        model = RMAE(**parts)
    units = {id(unit) for unit in _units(model)}
    of_pixels = [*model.backbone.net.blocks, *model.pixel_decoder.blocks]
    assert units == {id(block) for block in of_pixels}


def test_a_training_is_that_of_a_plain_model(tmp_path, assert_same):
    sharded, plain = (Run(tmp_path / kind, kind).train(8) for kind in ("fsdp", "ddp"))
    assert is_sharded(sharded.model) and not is_sharded(plain.model)
    assert unwrap(sharded.model) is sharded.model
    a, b = sharded.state(), plain.state()
    torch.testing.assert_close(a["model"], b["model"], rtol=1e-6, atol=1e-6)
    torch.testing.assert_close(a["ema"], b["ema"], rtol=1e-6, atol=1e-6)
    moments = [x["trainer"]["optimizer"]["state"] for x in (a, b)]
    assert moments[0].keys() == moments[1].keys()
    torch.testing.assert_close(*moments, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("limit", [0.1, 100.0, float("inf")])
def test_gradient_norm_is_torchs(limit):
    torch.manual_seed(0)
    sharded = parallelize(Toy(), settings(), CPU)
    with whole(sharded) as plain:
        plain = plain.train()
        plain.requires_grad_(True)
        batch = next(batches(1))
        sum(plain(batch).values()).backward()
        grads = {n: p.grad.clone() for n, p in plain.named_parameters() if p.grad is not None}
    sum(sharded(batch).values()).backward()
    expected = torch.stack([g.norm() for n, g in grads.items() if n != "frozen"]).norm()
    norm = clip_gradients(sharded.parameters(), limit)
    assert type(norm) is torch.Tensor and norm.item() == pytest.approx(expected.item(), rel=1e-5)
    clipped = [local(p.grad) for p in sharded.parameters() if p.grad is not None]
    after = torch.stack([g.norm() for g in clipped]).norm().item()
    assert after == pytest.approx(min(limit, expected.item()), rel=1e-4)


def test_whole_is_a_plain_model_for_as_long_as_it_lasts():
    torch.manual_seed(0)
    reference = Toy()
    model = Toy()
    model.load_state_dict(reference.state_dict())
    model = parallelize(model, settings(), CPU)
    model.norm.running_mean += 1
    reference.norm.running_mean += 1
    model.eval(), reference.eval()
    batch = next(batches(1))
    with whole(model) as plain:
        assert plain is not model and not plain.training
        assert all(type(p) is nn.Parameter for p in plain.parameters())
        assert torch.equal(plain(batch)["loss"], reference(batch)["loss"])
        plain.blocks[0].attn.qkv.weight.data.zero_()  # is not the model's
    assert all(p.device.type == "meta" for p in plain.parameters())
    assert local(model.blocks[0].attn.qkv.weight).abs().max() > 0
    with whole(model, write=True) as plain:
        plain.blocks[0].attn.qkv.weight.data.zero_()
        plain.norm.running_mean.zero_()
    assert local(model.blocks[0].attn.qkv.weight).abs().max() == 0
    assert model.norm.running_mean.abs().max() == 0
    with whole(reference) as plain:
        assert plain is reference


@pytest.mark.parametrize("kinds", [("fsdp", "fsdp"), ("fsdp", "ddp"), ("ddp", "fsdp")])
def test_a_numbered_checkpoint_continues_in_either_kind(tmp_path, kinds):
    first, second = kinds
    Run(tmp_path / "run", first).train(5).save(4)
    assert (tmp_path / "run/model_0000004").is_dir() == (first == "fsdp")
    resumed = Run(tmp_path / "run", second)
    with torch.no_grad():
        for p in resumed.model.parameters():
            local(p).zero_()
    assert resumed.checkpointer.resume()[1] == 5
    found = resumed.train(9, start=5).state()
    expected = Run(tmp_path / "whole", "ddp").train(9).state()
    torch.testing.assert_close(found["model"], expected["model"], rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(found["ema"], expected["ema"], rtol=1e-5, atol=1e-6)
    assert found["trainer"]["iteration"] == expected["trainer"]["iteration"]
    assert {float(s["step"]) for s in found["trainer"]["optimizer"]["state"].values()} == {9}


def test_a_final_checkpoint_continues_sharded(tmp_path, assert_same):
    run = Run(tmp_path / "run").train(5)
    expected = run.state()
    assert (tmp_path / "run/model_final.pth").is_file()
    again = Run(tmp_path / "run")
    assert again.checkpointer.resume()[1] == 5
    again.trainer.iter = run.trainer.iter
    assert_same(expected, again.state())


def test_a_folder_gives_weights_too(tmp_path):
    path = Run(tmp_path / "run").train(3).save(2)
    content = read_checkpoint(str(path))
    final = Run(tmp_path / "run")
    final.checkpointer.resume()
    torch.testing.assert_close(content["model"], final.state()["model"])
    assert content["iteration"] == 2 and content["ema"]["n_averaged"] == 3
    (path / "state.pth").unlink()
    with pytest.raises(CheckpointError, match=f"{path.name}: no weights in it: .*no state.pth"):
        load_weights(str(path))


def cut(path):
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def flip(path):
    """Damages a file without changing its length."""
    content = bytearray(path.read_bytes())
    for i in range(0, len(content), 64):
        content[i] ^= 0xFF
    path.write_bytes(bytes(content))


DAMAGE = {
    "shards cut short": lambda folder: cut(folder / "__0_0.distcp"),
    "shards missing": lambda folder: (folder / "__0_0.distcp").unlink(),
    "shards garbled": lambda folder: flip(folder / "__0_0.distcp"),
    "index cut short": lambda folder: cut(folder / ".metadata"),
    "index missing": lambda folder: (folder / ".metadata").unlink(),
    "index garbled": lambda folder: flip(folder / ".metadata"),
    "state cut short": lambda folder: cut(folder / "state.pth"),
    "state missing": lambda folder: (folder / "state.pth").unlink(),
    "all missing": lambda folder: [file.unlink() for file in folder.iterdir()],
}


@pytest.fixture(scope="module")
def saved(tmp_path_factory):
    """A run with two folders."""
    folder = tmp_path_factory.mktemp("saved") / "run"
    run = Run(folder).train(3)
    run.save(2)
    run.train(5, start=3).save(4)
    return folder


@pytest.mark.parametrize(
    "damage, parallel",
    [*((damage, "fsdp") for damage in DAMAGE), ("shards garbled", "ddp"), ("index missing", "ddp")],
)
def test_a_damaged_folder_is_passed_over(saved, tmp_path, caplog, damage, parallel):
    shutil.copytree(saved, tmp_path / "run")
    DAMAGE[damage](tmp_path / "run/model_0000004")
    run = Run(tmp_path / "run", parallel)
    with caplog.at_level("INFO", logger="rmae_d2"):
        assert run.checkpointer.resume()[1] == 3
    ours = [r for r in caplog.records if r.name.startswith("rmae_d2")]
    errors = [r.getMessage() for r in ours if r.levelname == "ERROR"]
    (error,) = errors
    assert "model_0000004" in error and error.endswith("; trying an earlier checkpoint")
    assert len(error) < 600
    assert f"resumed at iteration 3 from {tmp_path / 'run/model_0000002'}" in caplog.text
    DAMAGE[damage](tmp_path / "run/model_0000002")
    with pytest.raises(CheckpointError, match="none of 2 checkpoints is readable"):
        Run(tmp_path / "run", parallel).checkpointer.resume()


def test_folders_are_pruned_and_swept_like_files(tmp_path):
    run = Run(tmp_path / "run").train(1)
    for iteration in range(4):
        run.save(iteration)
        run.checkpointer.prune(2, iteration)
    Run(tmp_path / "run", "ddp").save(4)  # the run goes on in the other kind
    names = [p.name for p in run.checkpointer.numbered()]
    assert names == ["model_0000004.pth", "model_0000003", "model_0000002"]
    run.checkpointer.prune(1, 4)
    for name in ("model_0000005.tmp", "model_0000001.old.tmp"):
        (tmp_path / "run" / name).mkdir()
        (tmp_path / "run" / name / "__0_0.distcp").write_bytes(b"x")
    (tmp_path / "run/model_0000009").touch()  # a file, but named like a folder
    run.checkpointer.sweep()
    left = sorted(p.name for p in (tmp_path / "run").glob("model*"))
    assert left == ["model_0000004.pth", "model_0000009"]
    assert [p.name for p in run.checkpointer.candidates()] == ["model_0000004.pth"]


def test_a_step_that_is_saved_again_replaces_the_folder(tmp_path):
    run = Run(tmp_path / "run").train(1)
    path = run.save(0)
    (path / "stray").touch()
    run.train(2, start=1)
    run.save(0)
    assert not (path / "stray").exists() and not list(path.parent.glob("*.tmp"))
    content = read_sharded(str(path))
    torch.testing.assert_close(content["model"], run.state()["model"])


def test_a_folder_that_cannot_be_written(tmp_path):
    run = Run(tmp_path / "run").train(1)
    run.save(0)
    before = sorted(p.name for p in (tmp_path / "run").iterdir())
    (tmp_path / "run/model_0000001.tmp").touch()  # where the folder would be made
    with pytest.raises(CheckpointError, match="model_0000001: could not be written.*--resume"):
        run.save(1)
    (tmp_path / "run/model_0000001.tmp").unlink(missing_ok=True)
    assert sorted(p.name for p in (tmp_path / "run").iterdir()) == before
    assert run.checkpointer.resume()[1] == 1


def test_another_model_is_refused(tmp_path):
    run = Run(tmp_path / "run").train(2)
    run.save(1)
    other = parallelize(nn.Sequential(Block(8, 2)), settings(), CPU)
    with pytest.raises(CheckpointError, match="another model or optimizer configuration"):
        Checkpointer(other, str(tmp_path / "run")).resume()
    wider = Toy()
    wider.unused = nn.Linear(3, 2)
    with pytest.raises(CheckpointError, match="size mismatch for unused.weight"):
        Checkpointer(parallelize(wider, settings(), CPU), str(tmp_path / "run")).resume()


@pytest.mark.parametrize(
    "moment, times",
    [("model_0000007", 1), ("state.pth", 2), ("tensor", 50)],
)
@pytest.mark.slow
def test_killed_while_saving(runs, tmp_path, moment, times):
    """Before the second folder has its name, before all of its files are there, within its first file."""
    short = [FSDP, "train.max_iter=10", "train.checkpointer.period=4", "train.ema.decay=0.9"]
    out = tmp_path / "run"
    driver = tmp_path / "driver.py"
    driver.write_text(DIE_WHILE_SAVING)
    _, tool, *arguments = runs.command(out, *short)
    code, output = runs.run([sys.executable, str(driver), tool, moment, str(times), *arguments])
    assert code == -signal.SIGKILL, output
    assert (out / "model_0000007.tmp").is_dir() and not (out / "model_0000007").exists()
    runs.train(out, *short, resume=True)
    assert [(e["iteration"], e["file"]) for e in events(out, "resume")] == [(4, "model_0000003")]
    assert not list(out.glob("*.tmp*"))
    runs.train(tmp_path / "whole", *short)
    one, other = (
        torch.load(x / "model_final.pth", weights_only=True) for x in (tmp_path / "whole", out)
    )
    torch.testing.assert_close(one["model"], other["model"], rtol=0, atol=0)
    torch.testing.assert_close(one["ema"], other["ema"], rtol=0, atol=0)


@pytest.mark.slow
def test_weights_of_an_fsdp_run_start_others(runs, tmp_path):
    """A final file and a folder: for a run of either kind, and for R-MAE's own evaluation."""
    out = tmp_path / "run"
    runs.train(out, FSDP, "train.max_iter=3", "train.checkpointer.period=2")
    for name, parallel in (("model_final.pth", FSDP), ("model_0000001", "train.parallel=ddp")):
        weights = f"train.init_checkpoint={out / name}"
        other = tmp_path / name
        runs.train(other, weights, parallel, "train.max_iter=1", "optimizer.base_lr=0")
        a = load_weights(str(out / name))[1]
        b = load_weights(str(other / "model_final.pth"))[1]
        torch.testing.assert_close(a, b, rtol=0, atol=0)
    found = runs.train(tmp_path / "eval", weights, eval_only=True)
    assert found["reconstruction"]
