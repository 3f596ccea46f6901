"""Photos with instances, and finished runs of tiny models."""

import json

import pytest
import torch

SIZES = {"img_size": 32, "patch_size": 8, "embed_dim": 32, "depth": 1, "num_heads": 4}


@pytest.fixture(scope="session")
def write_coco():
    """Photos a.png, b.png and c.png, 120 x 160 pixels, and labels.json with (image, x, y, width, height)."""
    from PIL import Image
    from skimage import data

    def write(folder, boxes):
        for name, photo in (("a", data.astronaut()), ("b", data.coffee()), ("c", data.chelsea())):
            Image.fromarray(photo[:120, :160]).save(folder / f"{name}.png")
        annotations = [
            {"id": i, "image_id": image, "category_id": 1, "bbox": [x, y, w, h]}
            | {
                "segmentation": [[x, y, x + w, y, x + w, y + h, x, y + h]],
                "area": w * h,
                "iscrowd": 0,
            }
            for i, (image, x, y, w, h) in enumerate(boxes)
        ]
        images = [
            {"id": i, "file_name": f"{name}.png", "height": 120, "width": 160}
            for i, name in enumerate("abc")
        ]
        content = {"images": images, "annotations": annotations}
        content["categories"] = [{"id": 1, "name": "thing"}]
        (folder / "labels.json").write_text(json.dumps(content))
        return folder

    return write


@pytest.fixture(scope="session")
def make_run(tmp_path_factory):
    """Writes config.yaml and model_final.pth of a tiny model into a new folder; the weights' path."""
    from detectron2.config import instantiate

    from rmae_d2.config import apply_overrides, get_config, save_config

    def make(*overrides):
        folder = tmp_path_factory.mktemp("run")
        sizes = [f"model.backbone.net.{key}={value}" for key, value in SIZES.items()]
        cfg = get_config("demo/rmae_tiny_scenes.py")
        cfg = apply_overrides(cfg, [*sizes, "train.device=cpu", *overrides])
        torch.manual_seed(0)
        torch.save({"model": instantiate(cfg.model).state_dict()}, folder / "model_final.pth")
        save_config(cfg, folder / "config.yaml")
        return str(folder / "model_final.pth")

    return make
