"""A trained model handed on: as a folder, and by way of a hub."""

import json
import os

import pytest
import torch
import yaml
from detectron2.config import instantiate
from huggingface_hub import constants

import rmae_d2
from rmae_d2.config import load_config
from rmae_d2.data import read_image
from rmae_d2.errors import CheckpointError, UserError
from rmae_d2.inference import Predictor
from rmae_d2.inference.finished_run import load_run
from rmae_d2.modeling import RMAE, Classifier, MaskedViT
from tests.helpers import save_random, save_run, small_detector

FILES = {"README.md", "config.json", "config.yaml", "model.safetensors"}


def same_state(a, b):
    theirs = b.state_dict()
    assert a.state_dict().keys() == theirs.keys()
    assert all(torch.equal(value, theirs[name]) for name, value in a.state_dict().items())


def names_in(folder):
    return {path.name for path in folder.iterdir()}


def test_a_run_as_a_folder(run, tmp_path):
    model = rmae_d2.load(run, device="cpu")
    assert isinstance(model, RMAE) and not model.training
    written = model.save_pretrained(tmp_path / "ours")
    assert written is None and names_in(tmp_path / "ours") == FILES
    assert {p.name for p in rmae_d2.save_pretrained(run, tmp_path / "too")} == FILES
    for again in (
        RMAE.from_pretrained(tmp_path / "ours"),
        rmae_d2.load(tmp_path / "too"),
        load_run(str(tmp_path / "ours/model.safetensors"))[1],  # as commands load a run
    ):
        same_state(again, model)
    images = torch.randint(0, 256, (1, 3, 40, 24), dtype=torch.uint8)
    assert torch.equal(
        rmae_d2.features(again, images)[0].patches, rmae_d2.features(model, images)[0].patches
    )
    with pytest.raises(UserError, match="ours is a RMAE, no Classifier"):
        Classifier.from_pretrained(tmp_path / "ours")


def test_nothing_of_the_machine_is_handed_on(run, tmp_path):
    """Neither the photos' folder nor the run's."""
    rmae_d2.save_pretrained(run, tmp_path / "ours")
    for name in ("config.yaml", "README.md"):
        text = (tmp_path / "ours" / name).read_text()
        assert str(run.parent) not in text and "/tmp" not in text and os.sep + "photos" not in text
    cfg = load_config(tmp_path / "ours/config.yaml")
    assert cfg.dataloader.train.dataset.root is None and cfg.train.output_dir == "output/ours"


def test_the_card_is_of_the_runs_events(run, tmp_path):
    rmae_d2.save_pretrained(run, tmp_path / "ours")
    card = (tmp_path / "ours/README.md").read_text()
    front, _, text = card.removeprefix("---\n").partition("---\n")
    assert yaml.safe_load(front) == {
        "library_name": "rmae_d2",
        "pipeline_tag": "image-feature-extraction",
        "tags": ["rmae_d2", "vision-transformer", "R-MAE pre-training"],
    }
    assert "# ours\n\nR-MAE pre-training, on a ViT of 2 blocks, width 32, patches of 8;" in text
    assert (
        "rmae-d2 train --config-file rmae_tiny_scenes.py train.device=cpu train.max_iter=" in text
    )
    events = [json.loads(line) for line in (run / "run.jsonl").read_text().splitlines()]
    (measured,) = [e["results"] for e in events if e["event"] == "evaluation"]
    assert measured
    lines = [[cell.strip() for cell in line.split("|")[1:-1]] for line in text.splitlines()]
    rows = {cells[0]: cells[1:] for cells in lines if cells}
    for name, value in measured.items():
        assert rows[name][0] == f"{value:.4g}" and rows[name][2] == "2"
    assert rows["steps"] == ["2 of 2"] and rows["batch"] == ["4"]
    assert rows["begins with"] == ["random weights"]
    assert "torch 2" in rows["versions"][0] and "finished" in rows["hours"][0]


def test_a_detector(tmp_path, make_photos):
    """Which has no base class of ours; the folder serves the commands, and Predictor."""
    cfg = small_detector()
    folder = save_run(tmp_path, tiny=False).parent  # a run's folder, whose files are replaced
    from rmae_d2.config import save_config

    save_config(cfg, folder / "config.yaml")
    weights = save_random(cfg, folder / "model_final.pth")
    rmae_d2.save_pretrained(folder, tmp_path / "detector")
    card = (tmp_path / "detector/README.md").read_text()
    assert "pipeline_tag: object-detection" in card and "none: the model's folder has no" in card
    model = rmae_d2.load(tmp_path / "detector", device="cpu")
    photo = read_image(make_photos(tmp_path / "photos", 1) / "photo00.jpg")
    found = Predictor(model.origin.config, model)(photo)["instances"]
    expected = Predictor(cfg, weights)(photo)["instances"]
    assert len(found) == 5 and torch.equal(found.scores, expected.scores)
    assert torch.equal(found.pred_masks, expected.pred_masks)


def test_a_model_made_in_python(tmp_path):
    cfg = small_detector()
    model = instantiate(cfg.model)
    with pytest.raises(UserError, match="a GeneralizedRCNN that was not loaded .* give config="):
        rmae_d2.save_pretrained(model, tmp_path / "a")
    assert not (tmp_path / "a").exists()
    rmae_d2.save_pretrained(model, tmp_path / "a", config=cfg)
    same_state(rmae_d2.load(tmp_path / "a"), model)
    with pytest.raises(UserError, match="a RMAE that was not loaded"):
        instantiate(load_config("demo/rmae_tiny_scenes.py").model).save_pretrained(tmp_path / "b")


def test_a_card_stays(shipped, tmp_path):
    rmae_d2.save_pretrained("rmae-d2://rmae_scenes", tmp_path)
    own = (shipped.parent / "README.md").read_bytes()
    assert (tmp_path / "README.md").read_bytes() == own
    (tmp_path / "README.md").write_text("ours\n")
    rmae_d2.save_pretrained(tmp_path, tmp_path)  # in place
    assert (tmp_path / "README.md").read_text() == "ours\n"


def test_a_bare_encoder_has_no_run(shipped, tmp_path):
    (tmp_path / "bare.safetensors").write_bytes(shipped.read_bytes())
    net = rmae_d2.load(tmp_path / "bare.safetensors")
    assert isinstance(net, MaskedViT) and net.origin.config is None
    with pytest.raises(UserError, match="of a bare encoder: rmae-d2 convert"):
        rmae_d2.save_pretrained(net, tmp_path / "out")


@pytest.fixture
def pushed(run, hub, monkeypatch):
    """A model that was pushed to the hub, as org/name."""
    with monkeypatch.context() as context:
        context.setattr(constants, "ENDPOINT", hub.url)  # as HF_ENDPOINT before the import
        model = rmae_d2.load(run, device="cpu")
        address = model.push_to_hub("org/name", token="hf_test")
        assert address.endswith("/org/name/commit/0123456789abcdef0123456789abcdef01234567")
    return model


def test_by_way_of_a_hub(pushed, hub, tmp_path):
    assert hub.repositories["org/name"].keys() == FILES
    there = {"endpoint": hub.url, "cache_dir": str(tmp_path)}
    same_state(RMAE.from_pretrained("org/name", **there), pushed)
    same_state(
        rmae_d2.load("hf://org/name@0123456789abcdef0123456789abcdef01234567", **there), pushed
    )
    hub.said.clear()
    gone = {**there, "endpoint": "http://127.0.0.1:9"}  # out of the cache, then
    same_state(rmae_d2.load("org/name", **gone), pushed)
    same_state(rmae_d2.load("org/name", local_files_only=True, cache_dir=str(tmp_path)), pushed)
    assert not hub.said


def test_what_a_hub_has_not(pushed, hub, tmp_path):
    there = {"endpoint": hub.url, "cache_dir": str(tmp_path)}
    for name, more, says in (
        ("org/other", {}, "org/other: no such folder .* the hub has no repository org/other, or"),
        ("org/name@v2", {}, "org/name@v2: no such folder .*: org/name has no revision 'v2'"),
        (
            "org/name",
            {"endpoint": "http://127.0.0.1:9"},
            "the hub can't be reached. .* hf download org/name --local-dir",
        ),
        (
            "org/name@v2",
            {"local_files_only": True},
            "hf download org/name --revision v2 --local-dir",
        ),
    ):
        with pytest.raises(CheckpointError, match=says) as caught:
            rmae_d2.load(name, **{**there, **more})
        assert "\n" not in str(caught.value)
    hub.repositories["org/empty"] = {"config.json": b"{}", "README.md": b"# empty\n"}
    with pytest.raises(CheckpointError, match="org/empty has none of model_final.pth, model.safe"):
        rmae_d2.load("org/empty", **there)


def test_a_push_that_is_refused(pushed, hub, monkeypatch, run):
    monkeypatch.setattr(constants, "ENDPOINT", hub.url)
    before = dict(hub.repositories)
    with pytest.raises(
        UserError, match="org/x was not pushed .HfHubHTTPError: Invalid username .*`hf auth"
    ):
        rmae_d2.push_to_hub(run, "org/x", token="hf_wrong")
    monkeypatch.setattr(constants, "ENDPOINT", "http://127.0.0.1:9")
    with pytest.raises(UserError, match="org/x was not pushed .ConnectError: .*Connection refused"):
        pushed.push_to_hub("org/x", token="hf_test")
    assert hub.repositories == before


def test_a_config_of_the_hub_runs_nothing(pushed, hub, tmp_path):
    files = hub.repositories["org/name"]
    mark = tmp_path / "mark"
    line = f"evil: !!python/object/apply:os.mkdir ['{mark}']\n"
    files["config.yaml"] += line.encode()
    with pytest.raises(
        UserError, match="config.yaml names .*os.mkdir, which is not a part of a network"
    ):
        rmae_d2.load("org/name", endpoint=hub.url, cache_dir=str(tmp_path / "cache"))
    assert not mark.exists()


def test_any_model_can_be_pushed(hub, monkeypatch, tmp_path):
    cfg = small_detector()
    model = instantiate(cfg.model)
    monkeypatch.setattr(constants, "ENDPOINT", hub.url)
    rmae_d2.push_to_hub(model, "me/detector", config=cfg, token="hf_test")
    for name, content in hub.repositories["me/detector"].items():
        (tmp_path / name).write_bytes(content)
    same_state(rmae_d2.load(tmp_path), model)
