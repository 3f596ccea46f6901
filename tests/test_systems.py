"""Windows and macOS: what Python has not there is used neither at import nor by a training."""

import logging
import os
import pkgutil
import subprocess
import sys

import pytest
import torch

import rmae_d2
from rmae_d2.errors import UserError
from rmae_d2.inference.finished_run import pick_device
from tests.helpers import events

# The libraries come first: they are those of this system.
WITHOUT = """
import builtins, importlib, io, multiprocessing, os, resource, signal, sys
import multiprocessing.pool, multiprocessing.spawn, multiprocessing.synchronize
import multiprocessing.sharedctypes, multiprocessing.popen_spawn_posix, multiprocessing.resource_tracker
import asyncio, concurrent.futures.process, socketserver, tempfile, zipfile
import cv2, fsspec, lvis, faster_coco_eval, matplotlib.pyplot, numba, scipy.ndimage, timm
import detectron2.data, detectron2.engine, detectron2.evaluation, detectron2.modeling, detectron2.model_zoo
import skimage.segmentation, tensorboard, torch._dynamo, torch.utils.data, torch.utils.tensorboard, tqdm
import torch.distributed.checkpoint, torch.distributed.fsdp, torch.distributed.elastic.agent.server

MAC = ["sched_getaffinity", "pidfd_open", "posix_fadvise"]
WINDOWS = MAC + [
    "fork", "register_at_fork", "pread", "pwrite", "killpg", "setsid", "getuid", "geteuid", "getpgid",
    "uname", "mkfifo", "nice", "O_CLOEXEC", "O_DIRECTORY", "O_NOFOLLOW", "sysconf", "getloadavg", "wait4",
]
SIGNALS = ["SIGUSR1", "SIGUSR2", "SIGHUP", "SIGALRM", "SIGKILL", "SIGSTOP", "SIGQUIT", "SIGCHLD"] + [
    "pthread_sigmask", "SIG_BLOCK", "SIG_UNBLOCK", "SIG_SETMASK", "siginterrupt", "setitimer", "alarm"
]
sys.platform = os.environ["SYSTEM"]
lacks = {"darwin": (MAC, [], []), "win32": (WINDOWS, SIGNALS, ["resource", "fcntl", "pwd", "grp", "termios"])}
of_os, of_signal, modules = lacks[sys.platform]
for module, names in ((os, of_os), (signal, of_signal)):
    for name in names:
        delattr(module, name)
for name in modules:
    sys.modules[name] = None
if sys.platform == "win32":
    signal.SIGBREAK = 21
multiprocessing.get_all_start_methods = lambda: ["spawn"]
if __name__ == "__main__":
    multiprocessing.set_start_method("spawn")


def without_proc(function):
    def call(path, *args, **kwargs):
        if str(path).startswith(("/proc", "/dev/shm")):
            raise FileNotFoundError(2, "No such file or directory", str(path))
        return function(path, *args, **kwargs)
    return call


io.open = builtins.open = without_proc(open)
os.readlink = without_proc(os.readlink)
"""
IMPORT = """
for name in sys.argv[1:]:
    importlib.import_module(name)
print("imported", len(sys.argv) - 1)
"""
COMMAND = """
if __name__ == "__main__":
    from rmae_d2.commands import main
    sys.exit(main())
"""


def without(tmp_path, system, program, *arguments):
    script = tmp_path / f"on_{system}.py"
    script.write_text(WITHOUT + program)
    env = {**os.environ, "SYSTEM": system, "OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": ""}
    line = [sys.executable, str(script), *arguments]
    done = subprocess.run(line, cwd=tmp_path, env=env, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@pytest.mark.parametrize("system", ["darwin", "win32"])
def test_every_module_is_imported(tmp_path, system):
    found = pkgutil.walk_packages(rmae_d2.__path__, "rmae_d2.")
    names = [module.name for module in found if not module.name.endswith("__main__")]
    assert len(names) > 250
    assert without(tmp_path, system, IMPORT, *names) == f"imported {len(names)}\n"


@pytest.fixture(scope="module")
def store(runs, tmp_path_factory):
    """Regions, made by workers that are spawned; as on Windows, but there Python has its own way to do so."""
    folder = tmp_path_factory.mktemp("store")
    source = ["--source", "fh", "--images", str(runs.photos), "--workers", "1"]
    without(folder, "darwin", COMMAND, "regions", *source, "--output", str(folder / "store"))
    return folder / "store"


@pytest.mark.parametrize(
    ("system", "workers", "stops", "stored"),
    [
        pytest.param("win32", 0, [2, 4], False, id="windows"),
        pytest.param("win32", 0, [2], True, id="windows, stored", marks=pytest.mark.slow),
        pytest.param("darwin", 2, [2], True, id="mac, stored", marks=pytest.mark.slow),
    ],
)
def test_a_training(runs, request, tmp_path, system, workers, stops, stored):
    """Evaluated; on macOS with workers that are spawned, on Windows it goes on."""
    out = tmp_path / "run"
    plan = [*runs.tiny, "train.eval_period=2", f"dataloader.train.num_workers={workers}"]
    if stored:
        plan.append(f"dataloader.train.mapper.regions.path={request.getfixturevalue('store')}")
    plan.append(f"train.output_dir={out}")
    line = ["train", "--config-file", "demo/rmae_tiny_scenes.py", "--resume", *plan]
    for stop in stops:
        without(tmp_path, system, COMMAND, *line, f"train.max_iter={stop}")
    assert [e["iteration"] for e in events(out, "resume")] == stops[:-1]
    assert [e["iteration"] for e in events(out, "evaluation")] == stops
    assert {e["outcome"] for e in events(out, "end")} == {"finished"}
    memory = {e["values"]["memory_mib"] for e in events(out, "step")}
    assert (memory == {0}) == (system == "win32")
    assert not (out / "lock.json").exists()


def test_a_macs_gpu(monkeypatch, caplog):
    """Named where there is none, and left out where it would stop at what it lacks."""
    with pytest.raises(UserError, match="train.device=mps: torch finds no GPU of a Mac"):
        pick_device("mps")
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(logging.getLogger("rmae_d2"), "propagate", True)  # whatever ran before
    monkeypatch.delenv("PYTORCH_ENABLE_MPS_FALLBACK", raising=False)
    assert [pick_device("auto").type for _ in range(2)] == ["cpu", "cpu"]
    assert caplog.text.count("PYTORCH_ENABLE_MPS_FALLBACK=1 uses it") == 1
    assert pick_device("mps").type == "mps"
