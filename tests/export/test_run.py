"""Models to files, checked by running them: tensors in other batches than those that were recorded."""

import numpy as np
import pytest
import torch

from rmae_d2.checkpoint import load_pretrained
from rmae_d2.checkpoint.encoder import load_encoder
from rmae_d2.deploy.facts import KEY, ModelFacts
from rmae_d2.errors import CheckpointError, UserError
from rmae_d2.export import check, export_model
from rmae_d2.modeling import patchify
from rmae_d2.shipped import DEFAULT
from tests.helpers import SMALL_SEMANTIC, save_run, write_photos

pytest.importorskip("onnx", reason="pip install rmae_d2[onnx]")
ort = pytest.importorskip("onnxruntime", reason="pip install rmae_d2[onnx]")

CLASSIFIER = [
    "train.device=cpu",
    "model.backbone.net.img_size=32",
    "model.backbone.net.embed_dim=32",
    "model.backbone.net.depth=2",
    "model.backbone.net.num_heads=4",
]
SEMANTIC = ["train.device=cpu", "model.backbone.net.pretrain_img_size=32", *SMALL_SEMANTIC]


@pytest.fixture(scope="module")
def photos(tmp_path_factory):
    return [str(write_photos(tmp_path_factory.mktemp("photos"), 3))]


@pytest.fixture(scope="module")
def pretraining(tmp_path_factory):
    return save_run(tmp_path_factory.mktemp("rmae"))


@pytest.fixture(scope="module")
def classifier(tmp_path_factory):
    return save_run(
        tmp_path_factory.mktemp("cls"), *CLASSIFIER, name="demo/linear_tiny_scenes.py", tiny=False
    )


def pixels(*shape):
    return np.random.default_rng(0).integers(0, 256, shape, np.uint8)


def normalised(images, facts):
    mean, std = (torch.tensor(x).view(-1, 1, 1) for x in (facts.pixel_mean, facts.pixel_std))
    return (torch.from_numpy(images).float() - mean) / std


@pytest.mark.parametrize("kind", ["onnx", "pt2"])
def test_the_encoder_of_a_pretraining(pretraining, photos, tmp_path, kind):
    file = tmp_path / f"encoder.{kind}"
    said = export_model(str(pretraining), file, kind, images=photos)
    assert said.startswith(f"encoder of {pretraining}, 32x32 pixels, largest differences from")
    assert "cls_token " in said and "patches " in said and f"written: {file}" in said
    images = pixels(5, 3, 32, 32)
    if kind == "onnx":
        session = ort.InferenceSession(str(file))
        text = session.get_modelmeta().custom_metadata_map[KEY]
        assert [node.name for node in session.get_outputs()] == ["cls_token", "patches"]
        found = session.run(None, {"images": images})
    else:
        extra = {f"{KEY}.json": ""}
        program = torch.export.load(str(file), extra_files=extra)
        text = extra[f"{KEY}.json"]
        found = [x.detach().numpy() for x in program.module()(torch.from_numpy(images))]
    facts = ModelFacts.from_json(text, str(file))
    assert (facts.task, facts.size, facts.patch_size) == ("encoder", (32, 32), 8)
    assert facts.source == f"{pretraining.parent.name}/model_final.pth"
    assert facts.pixel_mean == pytest.approx((123.675, 116.28, 103.53))
    _, net, _ = load_encoder(str(pretraining), 4)
    with torch.no_grad():
        tokens = net(patchify(normalised(images, facts), 8)).numpy()
    np.testing.assert_allclose(found[0], tokens[:, 0], atol=1e-5)
    np.testing.assert_allclose(found[1], tokens[:, 1:], atol=1e-5)


def test_the_shipped_encoder_by_name(photos, tmp_path):
    said = export_model(DEFAULT, tmp_path / "encoder.onnx", images=photos, max_images=1)
    assert f"encoder of {DEFAULT}" in said and "1 photos" in said


def test_a_classifier(classifier, photos, tmp_path):
    from detectron2.config import instantiate

    from rmae_d2.config import load_config

    file = tmp_path / "classifier.onnx"
    said = export_model(str(classifier.parent), file, images=photos)
    assert said.startswith("classifier of ") and "  logits " in said
    session = ort.InferenceSession(str(file))
    facts = ModelFacts.from_json(session.get_modelmeta().custom_metadata_map[KEY], "")
    assert facts.resize == {"rule": "center_crop", "share": 1.0} and facts.size == (32, 32)
    images = pixels(3, 3, 32, 32)
    (logits,) = session.run(["logits"], {"images": images})
    model = instantiate(load_config(str(classifier.parent / "config.yaml")).model).eval()
    load_pretrained(model, str(classifier), require_all=True)
    with torch.no_grad():
        expected = model([{"image": torch.from_numpy(image)} for image in images])
    np.testing.assert_allclose(logits, torch.stack([x["logits"] for x in expected]), atol=1e-5)


@pytest.mark.slow
def test_segmentors(photos, tmp_path):
    """With relative positions and a cls token; of padded windows; and as a program."""
    tokens = ["model.backbone.net.keep_cls_token=true", "model.window=40", "model.stride=30"]
    name = "demo/semantic_tiny_ade20k.py"
    weights = save_run(tmp_path, *SEMANTIC, *tokens, name=name, tiny=False)
    for kind in ("onnx", "pt2"):
        said = export_model(str(weights), tmp_path / f"s.{kind}", kind, images=photos)
        assert said.startswith("segmentor of ") and "40x40 pixels" in said
    session = ort.InferenceSession(str(tmp_path / "s.onnx"))
    assert session.run(None, {"images": pixels(3, 3, 40, 40)})[0].shape == (3, 150, 40, 40)


def test_what_differs_is_not_written(pretraining, photos, tmp_path, monkeypatch):
    monkeypatch.setattr(check, "TOLERANCE", 0.0)
    with pytest.raises(UserError, match=r"nothing is written.*\n  cls_token .* \(at most 0\)"):
        export_model(str(pretraining), tmp_path / "x.onnx", images=photos)
    assert not (tmp_path / "x.onnx").exists()


@pytest.mark.parametrize("value", [np.nan, 2.0])
def test_differences_that_are_too_large(value):
    assert not check.Difference("x", value, 1.0).is_small


def test_objects_that_only_one_model_finds():
    boxes = np.array([[0, 0, 9, 9], [0, 0, 9, 9], [5, 5, 8, 8]], np.float32)
    found = check.Detections(boxes, np.array([0.9, 0.5, 0.05], np.float32), np.array([1, 2, 1]))
    assert check._pairs(found, found) == ([(0, 0), (1, 1), (2, 2)], 0)
    fewer = check.Detections(boxes[:2], found.scores[:2], found.classes[:2])
    assert check._pairs(found, fewer) == ([(0, 0), (1, 1)], 0)  # at the threshold
    other = check.Detections(boxes, found.scores, np.array([1, 3, 1]))
    assert check._pairs(found, other) == ([(0, 0), (2, 2)], 2)


def test_what_cannot_be_exported(pretraining, classifier, photos, tmp_path):
    file = tmp_path / "x.onnx"
    with pytest.raises(UserError, match=r"x\.pth: --format onnx is written to \*\.onnx"):
        export_model(str(pretraining), tmp_path / "x.pth")
    with pytest.raises(UserError, match=r"x\.onnx: --format pt2 is written to \*\.pt2"):
        export_model(str(pretraining), file, "pt2")
    with pytest.raises(CheckpointError, match=r"absent\.pth: no such weight file"):
        export_model(str(tmp_path / "absent.pth"), file, images=photos)
    decoder = tmp_path / "decoder.pth"
    state = torch.load(pretraining, weights_only=True)["model"]
    torch.save({k: v for k, v in state.items() if k.startswith("pixel_decoder")}, decoder)
    with pytest.raises(CheckpointError, match=r"decoder\.pth"):
        export_model(str(decoder), file, images=photos)
    with pytest.raises(UserError, match=r"a=1: there is no config to change beside"):
        export_model(str(decoder), file, images=photos, overrides=["a=1"])
    for overrides, says in (
        (["model.inference=whole"], "model.inference=whole sees images of any shape"),
        (["model.multi_scale.flip=true"], "test-time augmentation .scale 1, mirrored too."),
        (["dataloader.test.mapper.augmentations=[]"], "one ResizeShortestEdge of one length"),
    ):
        folder = tmp_path / "semantic"
        folder.mkdir(exist_ok=True)
        save_run(folder, *SEMANTIC, name="demo/semantic_tiny_ade20k.py", tiny=False)
        with pytest.raises(UserError, match=says):
            export_model(str(folder), file, images=photos, overrides=overrides)
    assert not file.exists()


def test_photos_that_are_not_there(pretraining, tmp_path):
    with pytest.raises(UserError, match="absent"):
        export_model(str(pretraining), tmp_path / "x.onnx", images=[str(tmp_path / "absent/")])
