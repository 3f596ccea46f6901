"""One name for every trained model; the hub's are in tests/hub."""

import subprocess
import sys

import pytest
import torch

import rmae_d2
from rmae_d2.checkpoint import convert
from rmae_d2.checkpoint.export import save_conversion
from rmae_d2.errors import CheckpointError, UserError
from rmae_d2.modeling import RMAE, Classifier, MaskedViT, SlidingSemanticSegmentor
from tests.helpers import SMALL_SEMANTIC, save_run


def test_a_run_by_its_folder_or_file(make_run, monkeypatch):
    weights = make_run()
    folder = weights.rpartition("/")[0]
    content = torch.load(weights, weights_only=True)
    later = {name: value + 1 for name, value in content["model"].items()}
    torch.save({"model": later}, f"{folder}/model_0000009.pth")
    name = "backbone.net.cls_token"
    for place, more in ((folder, 0), (weights, 0), (f"{folder}/model_0000009.pth", 1)):
        model = rmae_d2.load(place, device="cpu")
        assert isinstance(model, RMAE) and not model.training
        assert torch.equal(model.state_dict()[name], content["model"][name] + more)
        assert str(model.origin.folder) == folder and model.origin.config.train.max_iter == 24
    monkeypatch.chdir(folder)
    assert torch.equal(rmae_d2.load(".").state_dict()[name], content["model"][name])


@pytest.mark.parametrize(
    ("config", "kind", "more"),
    [
        ("imagenet/finetune_vitb.py", Classifier, ["img_size=32", "patch_size=8", "depth=2"]),
        ("demo/semantic_tiny_scenes.py", SlidingSemanticSegmentor, None),
    ],
)
def test_other_tasks(config, kind, more, tmp_path):
    small = ["embed_dim=32", "num_heads=4"]
    overrides = SMALL_SEMANTIC
    if more is not None:
        overrides = [f"model.backbone.net.{x}" for x in [*small, *more]]
    save_run(tmp_path, *overrides, name=config, tiny=False)
    model = rmae_d2.load(tmp_path, device="cpu")
    assert isinstance(model, kind) and not model.training
    kind.from_pretrained(tmp_path, device="cpu")


def test_what_the_package_ships(shipped):
    model = rmae_d2.load("rmae-d2://rmae_scenes")
    assert isinstance(model, RMAE) and model.origin.folder == shipped.parent


def test_a_bare_encoder(shipped, tmp_path):
    """An encoder of another project's, its size read off its tensors."""
    model = rmae_d2.load("rmae-d2://rmae_scenes", device="cpu")
    save_conversion(convert("rmae-d2://rmae_scenes", "timm"), str(tmp_path / "vit.safetensors"))
    net = rmae_d2.load(str(tmp_path / "vit.safetensors"), device="cpu")
    assert isinstance(net, MaskedViT) and not net.training
    images = torch.randint(0, 256, (2, 3, 60, 100), dtype=torch.uint8)
    ours, theirs = (rmae_d2.features(m, images, [0, -1]) for m in (model, net))
    for one, other in zip(ours, theirs, strict=True):
        torch.testing.assert_close(one.patches, other.patches)
        torch.testing.assert_close(one.cls_token, other.cls_token)


def test_what_is_not_there(make_run, tmp_path):
    (tmp_path / "model_0000009.pth").touch()
    folder = tmp_path / "empty"
    folder.mkdir()
    for name, says in (
        (
            tmp_path,
            "none of model_final.pth, model.safetensors, .* in it; it has model_0000009.pth: name",
        ),
        (folder, "none of model_final.pth, model.safetensors, .* in it; no finished run"),
        (
            tmp_path / "x.pth",
            "x.pth: no such folder or weight file; give a run's, or rmae-d2://rmae",
        ),
        ("rmae-d2://other", "no weights of that name come with rmae_d2"),
        ("http://127.0.0.1:9/x.pth", "could not be fetched"),
    ):
        with pytest.raises(CheckpointError, match=says):
            rmae_d2.load(name)
    with pytest.raises(UserError, match="train.device=tpu: no such device"):
        rmae_d2.load(make_run(), device="tpu")


def test_without_detectron2(tmp_path):
    """The package imports; what needs it says how to get it."""
    code = (
        "import sys\nsys.modules['detectron2'] = None\nimport rmae_d2\n"
        "assert 'torch' not in sys.modules\n"
        "for name in ('load', 'features', 'save_pretrained'):\n"
        "    try: getattr(rmae_d2, name)\n"
        "    except ImportError as error: print(error)\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    lines = done.stdout.splitlines()
    assert lines[0] == (
        "rmae_d2.load needs Detectron2, which is not installed here: rmae-d2 install-detectron2"
    )
    assert len(lines) == 3
