"""Attention, drawn and measured at once."""

import json

import torch
from PIL import Image
from timm.models.vision_transformer import VisionTransformer


def test_a_photo_and_a_number(tmp_path, make_rmae, cli):
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
    command = ["visualize", "attention", "--weights", tmp_path / "ours.pth", tmp_path / "dino.pth"]
    command += ["--num-heads", "4", "--input", tmp_path / "photo.png", "--query", "40,40"]
    command += ["--json", tmp_path / "labels.json", "--device", "cpu", "--output", tmp_path / "out"]
    code, out, error = cli(*command)
    assert code == 0, error
    assert "dino: timm, ViT of 2 blocks, width 32, patches of 8" in out
    assert "random weights" in out and "ours less dino" in out
    result = json.loads((tmp_path / "out/attention_share.json").read_text())
    assert [entry["instances"] for entry in result["models"]] == [1, 1, 1]
    assert Image.open(tmp_path / "out/photo_attention.png").width == 3 * 326 + 6


def test_nothing_to_do(cli):
    code, _, error = cli("visualize", "attention", "--weights", "x.pth")
    assert code == 2 and "give --input, --evaluate or --json" in error


def test_the_packages_weights_by_default(scene, shipped_alone, cli, tmp_path):
    words = ("--input", "scene.png", "--query", "40,40", "--device", "cpu")
    code, out, error = cli("visualize", "attention", *words)
    assert code == 0, error
    found = "rmae_scenes: rmae_d2, ViT of 6 blocks, width 192, patches of 12"
    assert out == f"{found}\ndrawn: {tmp_path}/attention/scene_attention.png\n"
