import os
import subprocess
import sys

import pytest
import torch

from rmae_d2.checkpoint import export_backbone, load_weights
from rmae_d2.errors import CheckpointError
from tests.helpers import HUNG

# What a person does who has Detectron2 and the file, and nothing of ours.
STRANGER = """
import sys
from functools import partial
import torch
from torch import nn
from detectron2.checkpoint import DetectionCheckpointer
from detectron2.modeling import SimpleFeaturePyramid, ViT
from detectron2.modeling.backbone.fpn import LastLevelMaxPool

exported, original, fpn_width = sys.argv[1], sys.argv[2], int(sys.argv[3])
net = ViT(img_size=64, patch_size=8, embed_dim=32, depth=2, num_heads=4, use_rel_pos=True, window_size=2,
          window_block_indexes=[0], norm_layer=partial(nn.LayerNorm, eps=1e-6), pretrain_img_size=32)
model = nn.Module()
model.backbone = SimpleFeaturePyramid(net, "last_feat", fpn_width, [4.0, 2.0, 1.0, 0.5], norm="LN",
                                      top_block=LastLevelMaxPool())
before = {k: v.clone() for k, v in model.state_dict().items()}
DetectionCheckpointer(model).load(exported)
original = torch.load(original)
copied = 0
for name, tensor in model.state_dict().items():
    if name.startswith("backbone.net.") and "rel_pos" not in name:
        assert torch.equal(tensor, original[name]), name
        assert not torch.equal(tensor, before[name]) or name.endswith("pos_embed"), name
        copied += 1
    else:
        assert torch.equal(tensor, before[name]), name
assert "rmae_d2" not in sys.modules
print("copied", copied)
"""


def stranger(exported, original, fpn_width, cwd):
    environment = {k: v for k, v in os.environ.items() if k != "PYTHONPATH"}
    return subprocess.run(
        [sys.executable, "-c", STRANGER, exported, original, str(fpn_width)],
        cwd=cwd,
        env={**environment, "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        timeout=HUNG,
    )


@pytest.fixture
def model(make_rmae):
    return make_rmae()


@pytest.mark.parametrize("fpn_width", [16, 32])
def test_loads_in_plain_detectron2(model, tmp_path, fpn_width):
    """Also where the width equals the pyramid's: a norm of ours would then match several of its norms."""
    exported, original = str(tmp_path / "sub/backbone.pth"), str(tmp_path / "original.pth")
    torch.save(model.state_dict(), original)
    names = export_backbone(original, exported)
    assert len(names) == 3 + 2 * 12
    result = stranger(exported, original, fpn_width, tmp_path)
    assert result.returncode == 0, result.stderr
    assert "copied 27" in result.stdout


def test_the_file(model, tmp_path):
    path = str(tmp_path / "backbone.pth")
    names = export_backbone(model.state_dict(), path)
    content = torch.load(path, weights_only=True)
    assert content["matching_heuristics"] is True
    assert sorted(content["model"]) == names
    assert not {"norm.weight", "norm.bias", "cls_token"} & set(names)
    assert {"pos_embed", "patch_embed.proj.weight", "blocks.1.mlp.fc2.bias"} <= set(names)
    kind, state_dict = load_weights(path)  # and we read our own
    assert kind == "detectron2"
    assert all(torch.equal(v, model.state_dict()[k]) for k, v in state_dict.items())


def test_overwrites_and_leaves_nothing_else(model, tmp_path):
    path = tmp_path / "backbone.pth"
    path.write_text("old")
    export_backbone(model.state_dict(), str(path))
    export_backbone(str(path), str(path))  # from itself
    assert [p.name for p in tmp_path.iterdir()] == ["backbone.pth"]


def test_errors(tmp_path):
    with pytest.raises(CheckpointError, match="no such weight file"):
        export_backbone(str(tmp_path / "absent.pth"), str(tmp_path / "x.pth"))
    assert not list(tmp_path.iterdir())
