"""Weights by address and by name, from real servers on this machine and the hub's own cache layout."""

import hashlib
import json
import os
import subprocess
import sys
import threading
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer

import pytest
import torch
from safetensors.torch import save_file
from timm.models.vision_transformer import VisionTransformer

from rmae_d2.checkpoint import load_weights
from rmae_d2.checkpoint.sharded import read_checkpoint
from rmae_d2.checkpoint.source import Source, parse_source
from rmae_d2.errors import CheckpointError
from tests.checkpoint.helpers import SIZE, same
from tests.helpers import HUNG, ROOT, jittered
from tests.hub.server import SHA as REVISION
from tests.hub.server import Hub


@pytest.fixture(scope="module")
def vit():
    return {k: v.clone() for k, v in jittered(VisionTransformer(**SIZE)).state_dict().items()}


class Quiet(SimpleHTTPRequestHandler):
    def log_message(self, *args):
        pass


@pytest.fixture
def serve(tmp_path, monkeypatch):
    """Serves a folder, and gives iopath a cache of its own."""
    monkeypatch.setenv("FVCORE_CACHE", str(tmp_path / "cache"))
    servers = []

    def start(folder):
        handler = partial(Quiet, directory=str(folder))
        server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
        threading.Thread(target=server.serve_forever, daemon=True).start()
        servers.append(server)
        return f"http://127.0.0.1:{server.server_port}", server

    yield start
    for server in servers:
        server.shutdown()
        server.server_close()


def in_shards(folder, vit):
    names = [f"model-0000{i}-of-00002.safetensors" for i in (1, 2)]
    folder.mkdir(parents=True, exist_ok=True)
    keys = sorted(vit)
    halves = keys[: len(keys) // 2], keys[len(keys) // 2 :]
    weight_map = {key: name for name, half in zip(names, halves, strict=True) for key in half}
    for name, half in zip(names, halves, strict=True):
        save_file({key: vit[key] for key in half}, str(folder / name))
    index = folder / "model.safetensors.index.json"
    index.write_text(json.dumps({"metadata": {}, "weight_map": weight_map}))
    return index


def hub_cache(home, vit, repository="org/name", shards=False):
    """A cache as huggingface_hub lays it out."""
    folder = home / "hub" / f"models--{repository.replace('/', '--')}"
    snapshot = folder / "snapshots" / REVISION
    if shards:
        in_shards(snapshot, vit)
    else:
        snapshot.mkdir(parents=True)
        save_file(vit, str(snapshot / "model.safetensors"))
    (folder / "refs").mkdir()
    (folder / "refs" / "main").write_text(REVISION)
    return home


def load_in_process(*weights, **env):
    """What a process says of each: the hub's settings are read once, when it is imported."""
    code = (
        "import sys; from rmae_d2.checkpoint import load_weights; from rmae_d2.errors import UserError\n"
        "for name in sys.argv[1:]:\n"
        "    try: kind, w = load_weights(name)\n"
        "    except UserError as error: print('ERROR', error)\n"
        "    else: print(kind, len(w), float(w['backbone.net.pos_embed'].double().sum()))"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, *weights],
        capture_output=True,
        text=True,
        timeout=HUNG,
        cwd=ROOT,
        env={**os.environ, "HF_TOKEN_PATH": "/nonexistent", **{k: str(v) for k, v in env.items()}},
    )
    assert done.returncode == 0, done.stderr
    return done.stdout.strip().splitlines()[-len(weights) :]


def expected_line(vit):
    return f"timm {len(vit)} {float(vit['pos_embed'].double().sum())}"


# ---- what is behind an address


@pytest.mark.parametrize(
    "text, source",
    [
        ("a/b.pth", Source("a/b.pth")),
        ("a/b.pth?key=teacher", Source("a/b.pth", "teacher")),
        ("a.pth?matching_heuristics=True", Source("a.pth")),
        ("https://h/x.pth?id=7&key=ema", Source("https://h/x.pth?id=7", "ema")),
        (f"https://h/x.pth#sha256={'A' * 64}", Source("https://h/x.pth", None, "a" * 64)),
        ("hf://org/name/f.pth@v1?key=model", Source("hf://org/name/f.pth@v1", "model")),
    ],
)
def test_parse(text, source):
    assert parse_source(text) == source


def test_a_hash_that_is_none():
    with pytest.raises(CheckpointError, match="64 hexadecimal digits, not 'abc'"):
        parse_source("x.pth#sha256=abc")


# ---- the web


def test_the_web(serve, vit, tmp_path):
    torch.save(vit, tmp_path / "vit.pth")
    digest = hashlib.sha256((tmp_path / "vit.pth").read_bytes()).hexdigest()
    address, server = serve(tmp_path)
    assert same(read_checkpoint(f"{address}/vit.pth#sha256={digest}"), vit)
    server.shutdown()
    server.server_close()
    assert same(read_checkpoint(f"{address}/vit.pth"), vit)  # from the cache
    with pytest.raises(CheckpointError, match=r"its SHA-256 is [0-9a-f]{64}, not 000.*delete "):
        load_weights(f"{address}/vit.pth#sha256={'0' * 64}")
    with pytest.raises(CheckpointError, match="could not be fetched.*curl -LO 'http.*other.pth'"):
        load_weights(f"{address}/other.pth")


def test_hosts_and_queries_are_told_apart(serve, vit, tmp_path):
    """iopath's own cache takes one path of two hosts for the same file."""
    other = {key: tensor + 1 for key, tensor in vit.items()}
    for name, weights in (("a", vit), ("b", other)):
        (tmp_path / name).mkdir()
        torch.save(weights, tmp_path / name / "vit.pth")
    one, two = serve(tmp_path / "a")[0], serve(tmp_path / "b")[0]
    assert same(read_checkpoint(f"{one}/vit.pth"), vit)
    assert same(read_checkpoint(f"{two}/vit.pth"), other)
    assert same(read_checkpoint(f"{two}/vit.pth?id=1"), other)


def test_a_page_and_half_a_file(serve, vit, tmp_path):
    (tmp_path / "login.pth").write_text("<!doctype html><p>log in")
    torch.save(vit, tmp_path / "whole.pth")
    (tmp_path / "half.pth").write_bytes((tmp_path / "whole.pth").read_bytes()[:5000])
    address, _ = serve(tmp_path)
    with pytest.raises(CheckpointError, match="a web page"):
        load_weights(f"{address}/login.pth")
    with pytest.raises(CheckpointError, match="http.*half.pth: not a readable weight file"):
        load_weights(f"{address}/half.pth")
    with pytest.raises(CheckpointError, match="404"):
        load_weights(f"{address}/none.pth")


# ---- several files


def test_shards(vit, tmp_path):
    index = in_shards(tmp_path / "model", vit)
    assert same(read_checkpoint(str(index)), vit)
    assert same(read_checkpoint(str(tmp_path / "model")), vit)
    (tmp_path / "model" / "model-00002-of-00002.safetensors").rename(tmp_path / "gone")
    with pytest.raises(CheckpointError, match=r"1 of its 2 shards are missing \(model-00002"):
        load_weights(str(index))
    index.write_text("{}")
    with pytest.raises(CheckpointError, match="no index of shards, for it has no weight_map"):
        load_weights(str(index))


def test_a_tensor_in_two_shards(vit, tmp_path):
    index = in_shards(tmp_path, vit)
    save_file(vit, str(tmp_path / "model-00002-of-00002.safetensors"))
    with pytest.raises(CheckpointError, match="two of its shards have blocks.0.attn.proj.bias"):
        load_weights(str(index))


def test_a_folder_of_hugging_face(vit, tmp_path):
    save_file(vit, str(tmp_path / "model.safetensors"))
    (tmp_path / "config.json").write_text("{}")
    assert same(read_checkpoint(str(tmp_path)), vit)


# ---- the hub


def test_the_hubs_cache_without_a_network(vit, tmp_path):
    hub_cache(tmp_path, vit)
    hub_cache(tmp_path, vit, "org/sharded", shards=True)
    timms = "vit_small_patch14_dinov2.lvd142m"
    hub_cache(tmp_path, vit, f"timm/{timms}")
    names = ["hf://org/name", f"hf://org/name@{REVISION}", "hf://org/sharded", f"timm://{timms}"]
    *found, said = load_in_process(
        *names, "hf://org/name/other.pth@v2", HF_HOME=tmp_path, HF_HUB_OFFLINE=1
    )
    assert found == [expected_line(vit)] * 4
    assert "not in the hub's cache of this machine" in said
    assert "hf download org/name other.pth --revision v2 --local-dir FOLDER" in said


def test_a_misspelt_name_of_timm():
    with pytest.raises(
        CheckpointError, match=r"no such weights.*vit_small_patch14_dinov2\.lvd142m"
    ):
        load_weights("timm://vit_small_patch14_dinov2.lvd142")


def test_a_name_that_is_none():
    with pytest.raises(CheckpointError, match=r"hf://ORG/NAME\[/FILE\]\[@REVISION\]"):
        load_weights("hf://name")


@pytest.mark.slow
def test_a_hub(vit, tmp_path):
    save_file(vit, str(tmp_path / "model.safetensors"))
    server = Hub()
    server.repositories["org/name"] = {
        "model.safetensors": (tmp_path / "model.safetensors").read_bytes()
    }
    try:
        env = {"HF_HOME": tmp_path / "home", "HF_ENDPOINT": server.url, "HF_HUB_DISABLE_XET": 1}
        names = ["hf://org/name", "hf://org/name@v9", "hf://org/other", "hf://org/name/weights.pth"]
        found, *said = load_in_process(*names, **env)
        assert found == expected_line(vit)
        assert "org/name has no revision 'v9'" in said[0]
        assert "the hub has no repository org/other, or it is private" in said[1]
        assert "org/name has no file weights.pth" in said[2]
    finally:
        server.shutdown()
        server.server_close()
    # Now the hub is gone.
    found, said = load_in_process("hf://org/name", "hf://org/other", **env)
    assert found == expected_line(vit)
    assert "the hub can't be reached" in said
