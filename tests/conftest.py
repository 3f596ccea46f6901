"""What all tests share: fixed random numbers, a small R-MAE, the folder of real photos."""

import os
import shutil
import signal
import subprocess
import urllib.request
from pathlib import Path

import pytest
import setuptools  # noqa: F401  (before any other distutils: torch imports it late, and it insists on its own)
from hypothesis import settings

from tests.helpers import Runs, assert_same, assert_same_runs, read_metrics, write_photos
from tests.servers import S3_KEYS, Web, s3_store

# Machines differ in speed and tests must not: the same examples everywhere, and no deadline.
settings.register_profile("rmae_d2", deadline=None, derandomize=True, max_examples=25)
settings.load_profile("rmae_d2")

# A shell starts what runs in the background with ctrl-C ignored, which processes hand on to those they start.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)

TINY_DECODER = {"dim": 16, "depth": 1, "num_heads": 4}
TINY_REGIONS = {
    "neck_depth": 1,
    "encoder_dim": 16,
    "encoder_num_heads": 4,
    "decoder_dim": 16,
    "decoder_num_heads": 4,
}


@pytest.fixture(autouse=True)
def _fixed_seed():
    import torch

    torch.manual_seed(0)


@pytest.fixture(scope="session", params=["rmae_tiny", "rmae_tiny_b"])
def golden(request):
    """What the reference code computes: ``config``, ``state_dict``, ``inputs``, ``outputs``, ``grad_norms``.

    Of a network with random weights on random inputs; ``rmae_tiny_b`` has a region decoder of two blocks.
    """
    import torch

    return torch.load(Path(__file__).parent / f"data/{request.param}.pt", weights_only=True)


@pytest.fixture(scope="session")
def shared_data():
    """The folder that DETECTRON2_DATASETS names, or shared/data beside the checkout."""
    default = Path(__file__).resolve().parents[2] / "shared/data"
    root = Path(os.environ.get("DETECTRON2_DATASETS", default)).expanduser()
    if not (root / "coco").is_dir():
        pytest.skip(f"no real photos: {root} has no coco folder (set DETECTRON2_DATASETS)")
    return root


@pytest.fixture(scope="session")
def shipped():
    """The weight file that commands take by default."""
    from rmae_d2.shipped import DEFAULT, shipped_file

    return shipped_file(DEFAULT)


@pytest.fixture(scope="session")
def make_rmae():
    """Builds small networks in which every parameter, biases and norms too, is random.

    ``decoder=None`` gives RAE, ``regions=None`` MAE; both take overrides of the sizes above.
    """
    import torch

    from rmae_d2.modeling import RMAE, build_parts

    def make(
        img_size=(32, 32),
        patch_size=8,
        in_chans=3,
        embed_dim=32,
        depth=2,
        num_heads=4,
        decoder=TINY_DECODER,
        regions=TINY_REGIONS,
        **arguments,
    ):
        names = ("use_act_checkpoint", "window_size", "window_block_indexes")
        net = {name: arguments.pop(name) for name in names if name in arguments}
        parts = build_parts(
            **net,
            img_size=img_size,
            patch_size=patch_size,
            in_chans=in_chans,
            embed_dim=embed_dim,
            depth=depth,
            num_heads=num_heads,
            pixel_decoder=None if decoder is None else {**TINY_DECODER, **decoder},
            region_branch=None if regions is None else {**TINY_REGIONS, **regions},
        )
        if in_chans != 3:
            arguments = {
                "pixel_mean": [100.0] * in_chans,
                "pixel_std": [50.0] * in_chans,
                **arguments,
            }
        model = RMAE(**parts, **arguments)
        with torch.no_grad():
            for name, parameter in model.named_parameters():
                if not name.endswith("pos_embed"):
                    parameter += 0.1 * torch.randn_like(parameter)
        return model

    return make


@pytest.fixture
def mount(tmp_path):
    """Mounts a file system of a few kB."""
    folder = tmp_path / "small"
    folder.mkdir()

    def make(size):
        command = ["mount", "-t", "tmpfs", "-o", f"size={size}", "tmpfs", str(folder)]
        if not shutil.which("mount") or subprocess.run(command, capture_output=True).returncode:
            pytest.skip("may not mount a tmpfs here")
        return folder

    yield make
    if folder.is_mount():
        subprocess.run(["umount", str(folder)], check=True)


@pytest.fixture(scope="module", autouse=True)
def no_process_group():
    """A run alone makes a group of one for FSDP, which other files' models are not to find."""
    yield
    import torch

    if torch.distributed.is_initialized():
        from detectron2.utils import comm

        from rmae_d2.checkpoint import sharded

        torch.distributed.destroy_process_group()
        comm._LOCAL_PROCESS_GROUP = None
        sharded._group.cache_clear()


@pytest.fixture
def remote_cache(monkeypatch, tmp_path):
    """The folder in which this test keeps what it fetches."""
    from rmae_d2 import remote

    remote.forget()
    monkeypatch.setenv("RMAE_D2_CACHE", str(tmp_path / "remote_cache"))
    return tmp_path / "remote_cache"


@pytest.fixture
def web(remote_cache, tmp_path):
    """A web server of a folder of its own."""
    (tmp_path / "served").mkdir()
    server = Web(tmp_path / "served")
    yield server
    server.close()


@pytest.fixture(scope="session")
def _s3_server():
    with s3_store() as address:
        yield address


@pytest.fixture
def s3(_s3_server, remote_cache, monkeypatch):
    """A client of an object store, which the environment names; with an empty bucket ``photos``."""
    boto3 = pytest.importorskip("boto3")
    for name, value in {**S3_KEYS, "AWS_ENDPOINT_URL": _s3_server}.items():
        monkeypatch.setenv(name, value)
    urllib.request.urlopen(urllib.request.Request(f"{_s3_server}/moto-api/reset", method="POST"))
    client = boto3.client("s3")
    client.create_bucket(Bucket="photos")
    return client


@pytest.fixture(scope="session")
def runs(tmp_path_factory):
    return Runs(write_photos(tmp_path_factory.mktemp("photos")))


@pytest.fixture(scope="session")
def make_photos():
    return write_photos


@pytest.fixture(scope="session")
def two_processes():
    """Flags of a run of two processes on this machine."""
    return ["--num-gpus", "2", "--dist-url", "auto"]


@pytest.fixture(scope="session")
def metrics():
    return read_metrics


@pytest.fixture(scope="session", name="assert_same")
def _assert_same():
    return assert_same


@pytest.fixture(scope="session", name="assert_same_runs")
def _assert_same_runs():
    return assert_same_runs
