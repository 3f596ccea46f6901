"""tools/visualize_attention.py, drawing and measuring at once."""

import json
import subprocess
import sys
from pathlib import Path

import torch
from PIL import Image
from timm.models.vision_transformer import VisionTransformer

TOOL = Path(__file__).resolve().parents[2] / "tools/visualize_attention.py"


def test_a_photo_and_a_number(tmp_path, make_rmae):
    from skimage import data

    Image.fromarray(data.astronaut()[:120, :160]).save(tmp_path / "photo.png")
    box = {"bbox": [20, 20, 80, 80], "segmentation": [[20, 20, 100, 20, 100, 100, 20, 100]]}
    annotation = {"id": 1, "image_id": 1, "category_id": 1, "area": 6400, "iscrowd": 0, **box}
    content = {
        "images": [{"id": 1, "file_name": "photo.png", "height": 120, "width": 160}],
        "annotations": [annotation],
        "categories": [{"id": 1, "name": "thing"}],
    }
    (tmp_path / "labels.json").write_text(json.dumps(content))
    torch.save({"model": make_rmae().state_dict()}, tmp_path / "ours.pth")
    dino = VisionTransformer(img_size=32, patch_size=8, embed_dim=32, depth=2, num_heads=4)
    torch.save(dino.state_dict(), tmp_path / "dino.pth")
    command = [sys.executable, TOOL, "--weights", tmp_path / "ours.pth", tmp_path / "dino.pth"]
    command += ["--num-heads", "4", "--input", tmp_path / "photo.png", "--query", "40,40"]
    command += ["--json", tmp_path / "labels.json", "--device", "cpu", "--output", tmp_path / "out"]
    done = subprocess.run(list(map(str, command)), capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    assert "dino: timm, ViT of 2 blocks, width 32, patches of 8" in done.stdout
    assert "random weights" in done.stdout and "ours less dino" in done.stdout
    result = json.loads((tmp_path / "out/attention_share.json").read_text())
    assert [entry["instances"] for entry in result["models"]] == [1, 1, 1]
    assert Image.open(tmp_path / "out/photo_attention.png").width == 3 * 326 + 6
