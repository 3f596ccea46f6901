"""Weights there and back, and what is refused."""

import pickle

import pytest
import torch
from safetensors.torch import load_file

from rmae_d2.checkpoint import load_weights
from rmae_d2.inference.finished_run import load_run
from tests.helpers import save_run


@pytest.fixture
def run(tmp_path, monkeypatch, cli):
    """Converts in the test's folder: exit code and all that was printed."""
    monkeypatch.chdir(tmp_path)

    def run(*arguments):
        code, out, error = cli("convert", *arguments)
        return code, out + error

    return run


@pytest.fixture
def weights(make_rmae, tmp_path):
    state_dict = make_rmae().state_dict()
    torch.save({"model": state_dict, "iteration": 3}, tmp_path / "model_final.pth")
    return state_dict


def files(folder):
    return sorted(p.name for p in folder.iterdir())


def same(a, b):
    return a.keys() == b.keys() and all(torch.equal(a[k], b[k]) for k in a)


def test_there_and_back(tmp_path, weights, run):
    code, printed = run(
        *("--input", "model_final.pth", "--output", "out/mae.safetensors", "--to", "mae")
    )
    lines = printed.splitlines()
    assert code == 0
    assert lines[0].startswith("model_final.pth (recognised as rmae_d2) -> mae: embed_dim 32")
    written = f"written: {tmp_path}/out/mae.safetensors"
    for title in ("copied: ", "not taken by design ", "refused: 0", written):
        assert [line for line in lines if line.startswith(title)], title
    code, printed = run("--input", "out/mae.safetensors", "--output", "back.pth", "--to", "rmae")
    assert code == 0
    assert "\nnew by design" in printed and "  region_branch.*: the region branch" in printed
    expected = {k: v for k, v in weights.items() if not k.startswith("region_branch")}
    content = torch.load(tmp_path / "back.pth", weights_only=True)
    assert content.keys() == {"model"} and same(content["model"], expected)
    assert load_weights(str(tmp_path / "back.pth"))[0] == "rmae_d2"
    assert files(tmp_path) == ["back.pth", "model_final.pth", "out"]


def test_refused(tmp_path, weights, run):
    torch.save({**weights, "backbone.net.memory": torch.ones(1)}, tmp_path / "odd.pth")
    arguments = ("--input", "odd.pth", "--output", "o.pth", "--to", "timm")
    code, printed = run(*arguments)
    assert code == 1
    assert "refused: 1\n  backbone.net.memory: timm's VisionTransformer has no" in printed
    last = printed.splitlines()[-1]
    assert last.startswith("error: odd.pth: 1 tensors refused, o.pth not written")
    assert files(tmp_path) == ["model_final.pth", "odd.pth"]
    assert run(*arguments, "--drop", "*.memory")[0] == 0
    assert (tmp_path / "o.pth").exists()


def test_one_run_of_each_option(tmp_path, weights, run):
    """Detectron2's .pkl in, larger images, an encoder made whole, over an old file."""
    left_out = tuple(f"backbone.net.{name}" for name in ("cls_token", "norm.weight", "norm.bias"))
    vit = {
        k: v.numpy()
        for k, v in weights.items()
        if k.startswith("backbone.net.") and k not in left_out
    }
    (tmp_path / "vitdet.pkl").write_bytes(pickle.dumps({"model": vit, "__author__": "x"}))
    (tmp_path / "o.pth").write_text("old")
    arguments = ("--input", "vitdet.pkl", "--output", "o.pth", "--to", "huggingface", "--fill")
    arguments += ("--img-size", "48", "64", "--transformers", "4")
    code, printed = run(*arguments)
    assert code == 1 and printed == "error: o.pth: already exists; --force overwrites it\n"
    assert (tmp_path / "o.pth").read_text() == "old"
    code, printed = run(*arguments, "--force")
    assert code == 0
    assert "grid 6x8" in printed and "4x4 -> 6x8 patches, bicubic" in printed
    content = torch.load(tmp_path / "o.pth", weights_only=True)
    assert content["embeddings.position_embeddings"].shape == (1, 49, 32)
    assert content["embeddings.cls_token"].any()
    assert "encoder.layer.1.attention.attention.key.bias" in content


@pytest.mark.parametrize(
    ("arguments", "code", "says"),
    [
        (["--input", "model_final.pth", "--output", "o.pth", "--to", "jax"], 2, "invalid choice"),
        (["--input", "model_final.pth", "--output", "o.pth"], 2, "--to"),
        (
            ["--input", "model_final.pth", "--output", "o.pth", "--to", "mae", "--grid", "0"],
            2,
            "argument --grid: 0: 1 or more",
        ),
        (["--input", "absent.pth", "--output", "o.pth", "--to", "mae"], 1, "absent.pth: no such"),
        (["--input", "evil.pth", "--output", "o.pth", "--to", "mae"], 1, "could run code"),
        (
            ["--input", "model_final.pth", "--output", "o.pkl", "--to", "mae"],
            1,
            "o.pkl: an output ends in .pth, .pt, .bin, .safetensors",
        ),
        (
            ["--input", "model_final.pth", "--output", "o.safetensors", "--to", "detectron2"],
            1,
            "Detectron2 does not read safetensors",
        ),
        (
            ["--input", "model_final.pth", "--output", "o.safetensors", "--to", "mmpretrain"],
            1,
            "MMEngine does not read safetensors; write a .pth",
        ),
        (
            ["--input", "model_final.pth", "--output", "model_final.pth/o.pth", "--to", "mae"],
            1,
            "model_final.pth is a file, where a folder is needed",
        ),
    ],
)
def test_errors(tmp_path, weights, run, arguments, code, says):
    class Evil:
        def __reduce__(self):
            return (open, (str(tmp_path / "ran"), "w"))

    torch.save({"model": weights, "x": Evil()}, tmp_path / "evil.pth")
    before = files(tmp_path)
    stopped, printed = run(*arguments)
    assert stopped == code and says in printed
    if code == 1:
        assert printed.splitlines()[-1].startswith("error: ")
    assert files(tmp_path) == before


def test_half_precision(tmp_path, weights, run):
    code, printed = run(
        *("--input", "model_final.pth", "--output", "half.safetensors", "--to", "rmae", "--half")
    )
    written = load_file(tmp_path / "half.safetensors")
    off = max(float((written[k].float() - value).abs().max()) for k, value in weights.items())
    assert code == 0 and f"\nrounded to half precision (fp16), by at most {off:.2g}\n" in printed
    assert 0 < off < 1e-2 and same(written, {k: value.half() for k, value in weights.items()})
    large = {**weights, "pixel_decoder.mask_token": weights["pixel_decoder.mask_token"] + 1e5}
    torch.save({"model": large}, tmp_path / "large.pth")
    words = ("--input", "large.pth", "--output", "large.safetensors", "--to", "rmae")
    code, printed = run(*words, "--half")
    assert code == 1 and "pixel_decoder.mask_token: has numbers that half precision" in printed
    assert run(*words)[0] == 0


def test_a_whole_run_stays_one(tmp_path, run):
    """Its config goes with it, without the machine that it was made on; and is not written over."""
    save_run(
        tmp_path,
        f"train.output_dir={tmp_path}",
        f"dataloader.train.dataset.root={tmp_path}",
        "train.max_iter=7",
    )
    words = ("--input", "model_final.pth", "--to", "rmae", "--output")
    code, printed = run(*words, "new/model.safetensors", "--half")
    assert code == 0
    assert printed.endswith(f"/new/model.safetensors\nwritten: {tmp_path}/new/config.yaml\n")
    cfg, model = load_run(str(tmp_path / "new/model.safetensors"))
    assert str(tmp_path) not in (tmp_path / "new/config.yaml").read_text()
    assert cfg.train.output_dir == "output/new" and cfg.train.max_iter == 7
    assert cfg.dataloader.train.dataset.root is None
    before = load_run(str(tmp_path / "model_final.pth"))[1].state_dict()
    assert same(model.state_dict(), {k: value.half().float() for k, value in before.items()})
    code, printed = run(*words, "new/other.pth")
    assert code == 1 and f"{tmp_path}/new/config.yaml: already exists; --force" in printed
    assert files(tmp_path / "new") == ["config.yaml", "model.safetensors"]
    assert run(*words, "new/other.pth", "--force")[0] == 0
    # Nothing to carry: the same folder, another target, a masking policy that is not taken.
    assert run(*words, "other.pth")[0] == 0
    assert run("--input", "model_final.pth", "--to", "mae", "--output", "mae/model.pth")[0] == 0
    state = torch.load(tmp_path / "model_final.pth", weights_only=True)["model"]
    torch.save({**state, "masking.generator.x": torch.ones(1)}, tmp_path / "auto.pth")
    assert run("--input", "auto.pth", "--to", "rmae", "--output", "auto/model.pth")[0] == 0
    assert files(tmp_path / "mae") == files(tmp_path / "auto") == ["model.pth"]
