"""Engines of region generation: equal stores, dying workers, shares of the work, a Ray cluster."""

import contextlib
import importlib.util
import os
import random
import secrets
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from rmae_d2.data import images_from, read_image
from rmae_d2.errors import UserError
from rmae_d2.regions import RegionStore
from rmae_d2.regions.jobs.generate import generate_shard
from rmae_d2.regions.jobs.manifest import MANIFEST, Manifest
from rmae_d2.regions.jobs.run import (
    Engine,
    gpus_of,
    make_regions,
    run_shards,
    sweep_drafts,
    verify_regions,
)
from rmae_d2.regions.sources.spec import SourceSpec
from tests.helpers import wait_for

ROOT = Path(__file__).resolve().parents[3]
HERE = Engine(workers=0)

# Regions by brightness, made at leisure. Dies at an image the first time it comes to it; stays at
# others until it is released; crashes at another once one of those was begun.
SOURCE = """
import os
import signal
import time
from pathlib import Path

import numpy as np
from rmae_d2.regions import RegionRecord

class Slow:
    def __init__(self, seconds=0.0, die_at=None, crash_at=None, hold=(), mark=None, device="cpu"):
        self.params = {"source": "slow"}
        self.seconds, self.die_at, self.crash_at, self.hold = seconds, die_at, crash_at, hold
        self.mark = mark and Path(mark)

    def __call__(self, dataset_dict, image_HWC):
        time.sleep(self.seconds)
        name = Path(dataset_dict["file_name"]).name
        if name == self.die_at and not self.mark.exists():
            self.mark.touch()
            os.kill(os.getpid(), signal.SIGKILL)
        if name in self.hold:
            self.mark.touch()
            while not self.mark.with_suffix(".released").exists():
                time.sleep(0.01)
        if name == self.crash_at:
            while not self.mark.exists():
                time.sleep(0.01)
            raise RuntimeError("the GPU is gone")
        labels = image_HWC[..., 0].astype(np.int64) // 32
        return RegionRecord.from_labels(labels, params=self.params)

class OnGpu(Slow):
    def __init__(self, device=None):
        super().__init__()
"""


@pytest.fixture(scope="module")
def photos(tmp_path_factory):
    """Twenty images of 64x48, two of them damaged."""
    folder = tmp_path_factory.mktemp("photos")
    rng = np.random.default_rng(0)
    for number in range(20):
        pixels = rng.integers(0, 256, (6, 8, 3), dtype=np.uint8)
        Image.fromarray(pixels).resize((64, 48)).save(folder / f"{number:02}.png")
    (folder / "05.png").write_bytes(b"")
    (folder / "11.png").write_bytes((folder / "11.png").read_bytes()[:100])
    return folder


@pytest.fixture
def manifest_of(photos, tmp_path):
    """Makes the manifest of the photos, three a shard, for the source above."""
    path = tmp_path / "slow.py"
    path.write_text(SOURCE)

    def make(name="Slow", images_per_shard=3, **arguments):
        spec = SourceSpec.named(f"{path}:{name}", arguments)
        return Manifest.create(spec, images_from(photos), images_per_shard)

    return make


def contents(folder):
    return {path.name: path.read_bytes() for path in Path(folder).iterdir()}


@pytest.fixture
def expected(manifest_of, tmp_path):
    """The store as one process makes it without trouble: a dict of files."""
    folder = tmp_path / "expected"
    summary = make_regions(manifest_of(), str(folder), HERE, read_image)
    assert summary.complete and len(summary.failures) == 2
    return {name: data for name, data in contents(folder).items() if name != MANIFEST}


def assert_equals(folder, expected):
    found = {name: data for name, data in contents(folder).items() if name != MANIFEST}
    assert found.keys() == expected.keys()
    assert found == expected


# ------------------------------------------------------------------------------- local processes


def test_failures_are_recorded_and_the_rest_is_there(manifest_of, tmp_path, expected):
    assert "failures-00001.json" in expected and "failures-00003.json" in expected
    store = RegionStore(tmp_path / "expected")
    assert len(store) == 18 and "05.png" not in store and "11.png" not in store
    assert verify_regions(manifest_of(), str(tmp_path / "expected"), HERE, read_image) == []


def test_worker_processes_make_the_same_bytes(manifest_of, tmp_path, expected):
    manifest, folder = manifest_of(), str(tmp_path / "store")
    summary = make_regions(manifest, folder, Engine(workers=2), read_image)
    assert summary.complete and len(summary.failures) == 2
    assert_equals(folder, expected)
    assert verify_regions(manifest, folder, Engine(workers=2), read_image) == []


def test_nothing_is_made_twice(manifest_of, tmp_path, expected):
    folder = tmp_path / "expected"
    times = {path.name: path.stat().st_mtime_ns for path in folder.glob("*.tar")}
    (folder / "regions-00002.tar").unlink()
    make_regions(manifest_of(), str(folder), HERE, read_image)
    assert_equals(folder, expected)
    after = {path.name: path.stat().st_mtime_ns for path in folder.glob("*.tar")}
    assert [name for name in times if times[name] != after[name]] == ["regions-00002.tar"]


@pytest.mark.slow
def test_killed_worker_ends_the_run_and_the_next_goes_on(manifest_of, tmp_path, expected):
    manifest = manifest_of(die_at="07.png", mark=str(tmp_path / "mark"))
    with pytest.raises(UserError, match="worker process died.*same command.*fewer --workers"):
        make_regions(manifest, str(tmp_path / "store"), Engine(workers=2), read_image)
    assert make_regions(manifest, str(tmp_path / "store"), Engine(workers=2), read_image).complete
    assert_equals(tmp_path / "store", expected)  # its draft is gone, too


def test_error_of_the_source_stops_all_workers_and_leaves_no_draft(manifest_of, tmp_path):
    mark = str(tmp_path / "mark")
    manifest = manifest_of(hold=["00.png"], crash_at="14.png", mark=mark, images_per_shard=10)
    with pytest.raises(UserError, match=r"14.png: RuntimeError: the GPU is gone"):
        make_regions(manifest, str(tmp_path / "store"), Engine(workers=2), read_image)
    assert set(contents(tmp_path / "store")) == {MANIFEST}


def test_progress_of_workers_is_counted_image_by_image(manifest_of, tmp_path):
    mark = tmp_path / "mark"
    manifest = manifest_of(hold=["00.png"], crash_at="07.png", mark=str(mark), images_per_shard=6)
    work = partial(generate_shard, folder=str(tmp_path), read_image=read_image)
    seen = []
    with pytest.raises(UserError, match="the GPU is gone"):
        list(run_shards(work, manifest, [0, 1], Engine(workers=2), seen.append))
    assert seen[-1][0] == 1 and seen[-1][1] > 0 and seen[-1][2] == 0  # 06.png, of no whole shard


def identify(manifest, number, report):
    """A job that tells about its process instead of making a shard."""
    import torch

    return (
        os.getpid(),
        os.environ.get("CUDA_VISIBLE_DEVICES"),
        torch.get_num_threads(),
        os.environ["OMP_NUM_THREADS"],
    )


def test_workers_have_one_thread_and_a_gpu_each(manifest_of):
    manifest = manifest_of(images_per_shard=1)
    numbers = range(manifest.num_shards)
    before = os.environ.get("OMP_NUM_THREADS")
    found = dict(run_shards(identify, manifest, numbers, Engine(workers=2), list, ["4", "7"]))
    assert sorted(found) == list(numbers)
    assert {process[1:] for process in found.values()} <= {("4", 1, "1"), ("7", 1, "1")}
    by_process = {process[:2] for process in found.values()}
    assert len(by_process) == len({pid for pid, _ in by_process})
    assert os.getpid() not in {pid for pid, _ in by_process}
    assert os.environ.get("OMP_NUM_THREADS") == before


def test_which_sources_use_gpus(manifest_of):
    spec = manifest_of().source
    gpu = SourceSpec(spec.target.replace("Slow", "OnGpu"))
    assert gpus_of(SourceSpec(spec.target, {"device": "cpu"})) == []
    assert gpus_of(SourceSpec.named("fh")) == []
    assert gpus_of(SourceSpec(gpu.target, {"device": "cuda:1"})) == [None]
    import torch

    assert len(gpus_of(gpu)) == torch.cuda.device_count()


# ---------------------------------------------------------------------------- shares of the work


@pytest.mark.parametrize("order", [(0, 1, 2), (2, 0, 1)])
def test_shares_make_the_store_of_one_run(manifest_of, tmp_path, expected, order):
    folder = tmp_path / "store"
    manifest = manifest_of()
    for turn, index in enumerate(order):
        summary = make_regions(manifest, str(folder), HERE, read_image, share=(index, 3))
        assert summary.complete == (turn == 2) == (folder / "index.npy").exists()
    assert_equals(folder, expected)


def test_shares_at_the_same_time_in_one_folder(manifest_of, tmp_path, expected):
    manifest = manifest_of(seconds=0.005)

    def run(share):
        return make_regions(manifest, str(tmp_path / "store"), HERE, read_image, share=share)

    with ThreadPoolExecutor(3) as pool:  # two tasks of three, and all of it once more
        list(pool.map(run, ((0, 3), (1, 3), (0, 1))))
    assert_equals(tmp_path / "store", expected)


@pytest.mark.parametrize("share", [(3, 3), (-1, 3), (0, 0)])
def test_shares_that_do_not_exist(manifest_of, tmp_path, share):
    with pytest.raises(UserError, match="--shard-index"):
        make_regions(manifest_of(), str(tmp_path / "store"), HERE, read_image, share=share)


# ------------------------------------------------------------------------- failures, drafts, moves


def test_many_failures_are_suspicious_and_can_be_retried(manifest_of, tmp_path, photos):
    folder = str(tmp_path / "store")
    manifest = manifest_of(images_per_shard=10)
    assert not make_regions(
        manifest, folder, HERE, read_image
    ).suspicious  # one of ten, in both shards
    summary = make_regions(manifest, folder, HERE, read_image, max_failures=0.05)
    assert summary.suspicious == {0: 1, 1: 1}
    good = (photos / "06.png").read_bytes()
    bad = {name: (photos / name).read_bytes() for name in ("05.png", "11.png")}
    try:
        for name in bad:
            (photos / name).write_bytes(good)
        assert len(make_regions(manifest, folder, HERE, read_image).failures) == 2
        assert not make_regions(manifest, folder, HERE, read_image, retry_failures=True).failures
        assert len(RegionStore(folder)) == 20
        assert verify_regions(manifest, folder, HERE, read_image) == []
    finally:
        for name, data in bad.items():
            (photos / name).write_bytes(data)
    problems = verify_regions(manifest, folder, HERE, read_image)
    assert [("05.png" in p.what, "11.png" in p.what) for p in problems] == [
        (True, False),
        (False, True),
    ]


def test_a_shard_of_failures_alone_is_suspicious(manifest_of, tmp_path):
    summary = make_regions(
        manifest_of(images_per_shard=1), str(tmp_path), HERE, read_image, max_failures=0.09
    )
    assert summary.suspicious == {5: 1, 11: 1}


def test_small_data_are_judged_as_a_whole(manifest_of, tmp_path):
    summary = make_regions(
        manifest_of(images_per_shard=1), str(tmp_path), HERE, read_image, max_failures=0.1
    )
    assert len(summary.failures) == 2 and not summary.suspicious


def test_drafts_of_the_dead_go_and_those_of_the_living_stay(tmp_path):
    old, young, other = (tmp_path / name for name in ("old.tar.tmp", "young.idx.tmp", "old.tar"))
    for path in (old, young, other):
        path.write_bytes(b"draft")
    for path in (old, other):
        os.utime(path, (time.time() - 4000,) * 2)
    sweep_drafts(str(tmp_path))
    assert set(contents(tmp_path)) == {"young.idx.tmp", "old.tar"}


# -------------------------------------------------------------------------------------------- Ray


def test_ray_that_is_not_installed(manifest_of, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "ray", None)
    with pytest.raises(UserError, match=r"pip install 'ray>="):
        make_regions(manifest_of(), str(tmp_path / "store"), Engine("ray"), read_image)


class Cluster:
    """Nodes of a Ray cluster on the loopback interface, each a process with its descendants."""

    def __init__(self, folder):
        self.environment = os.environ | {
            "RAY_USAGE_STATS_ENABLED": "0",
            "RAY_AUTH_MODE": "token",
            "RAY_AUTH_TOKEN": secrets.token_hex(16),
            "RAY_TMPDIR": str(folder),
            "PYTHONPATH": str(ROOT),
        }
        self.nodes = []
        self.killed = []
        self.log = folder / "nodes.log"
        self.port = free_port()
        self.address = f"127.0.0.1:{self.port}"

    def start_node(self):
        """Starts the head, then other nodes; returns the process that all of a node is below."""
        place = [f"--address={self.address}"]
        if not self.nodes:
            place = ["--head", f"--port={self.port}", "--include-dashboard=false"]
        command = [sys.executable, "-m", "ray.scripts.scripts", "start", "--block", *place]
        command += ["--node-ip-address=127.0.0.1", "--num-cpus=1", "--disable-usage-stats"]
        command += ["--object-store-memory=100000000"]
        with open(self.log, "ab") as log:
            node = subprocess.Popen(
                command, env=self.environment, stdout=log, stderr=log, start_new_session=True
            )
        self.nodes.append(node)
        return node

    def kill_node(self, node):
        family = [node.pid, *descendants(node.pid)]
        self.killed += family
        for pid in family:
            kill(pid)
        node.wait()

    def stop(self):
        """Kills all nodes; no process of theirs is left when it returns."""
        for node in self.nodes:
            self.kill_node(node)
        wait_for(lambda: not any(Path(f"/proc/{pid}/exe").exists() for pid in self.killed))


def free_port():
    import socket

    with socket.socket() as server:
        server.bind(("127.0.0.1", 0))
        return server.getsockname()[1]


def kill(pid):
    with contextlib.suppress(ProcessLookupError):
        os.kill(pid, signal.SIGKILL)


def descendants(pid):
    """Processes below a process, from /proc."""
    children = {}
    for entry in Path("/proc").glob("[0-9]*"):
        try:
            parent = int((entry / "stat").read_text().rpartition(")")[2].split()[1])
        except (OSError, ValueError):
            continue
        children.setdefault(parent, []).append(int(entry.name))
    found, below = [], [pid]
    while below:
        below = [child for parent in below for child in children.get(parent, [])]
        found += below
    return found


def ray_workers(pid):
    """Those of a node's processes that run a task now."""
    found = []
    for child in descendants(pid):
        try:
            title = Path(f"/proc/{child}/cmdline").read_bytes()
        except OSError:
            continue
        if title.startswith(b"ray::_ray_task"):
            found.append(child)
    return found


@pytest.mark.slow
@pytest.mark.skipif(not Path("/proc/self/stat").exists(), reason="finds processes through /proc")
@pytest.mark.skipif(importlib.util.find_spec("ray") is None, reason="needs Ray")
def test_ray_cluster_that_loses_a_worker_and_a_node(photos, manifest_of, expected, tmp_path):
    target = manifest_of().source.target
    folder, mark = tmp_path / "store", tmp_path / "mark"
    # Ray's sockets lie in its folder, and their paths must stay below 108 characters.
    cluster_folder = Path(tempfile.mkdtemp(prefix="rmae-ray-"))
    cluster = Cluster(cluster_folder)
    tool = [sys.executable, str(ROOT / "tools/generate_regions.py"), "--output", str(folder)]
    command = [*tool, "--engine", "ray", "--ray-address", cluster.address]
    command += ["--source", target, "--images", str(photos), "--images-per-shard", "3"]
    command += ["--max-failures", "0.5"]
    job = None
    try:
        head = cluster.start_node()
        wait_for(lambda: descendants(head.pid))
        second = cluster.start_node()
        job = subprocess.Popen(
            [*command, "seconds=0.7", "hold=[09.png,12.png,15.png,18.png]", f"mark={mark}"],
            env=cluster.environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        (victim, *_) = wait_for(lambda: ray_workers(head.pid))
        time.sleep(random.Random(0).uniform(0.2, 1.0))
        kill(victim)
        wait_for(lambda: list(folder.glob("*.idx.npz")) and ray_workers(second.pid))
        cluster.kill_node(second)
        made = len(list(folder.glob("*.idx.npz")))
        assert 0 < made <= 3  # both died midway
        mark.with_suffix(".released").touch()
        output, _ = job.communicate(timeout=600)
        print(f"{made} of 7 shards were there when the second node died\n{output}")
        assert job.returncode == 0, output
    finally:
        if job is not None:
            job.kill()
        cluster.stop()
        shutil.rmtree(cluster_folder)
    assert_equals(folder, expected)
    check = subprocess.run([*tool, "--verify", "--workers", "0"], capture_output=True, text=True)
    assert check.returncode == 0, check.stdout + check.stderr
