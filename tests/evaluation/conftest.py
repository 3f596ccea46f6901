"""Detections made from ground truth, and small datasets in COCO's format."""

import contextlib
import functools
import io
import itertools
import json
from pathlib import Path

import numpy as np
import pytest

from tests.helpers import coco_rectangle

_numbers = itertools.count()


def _instances(image, boxes, scores, classes, masks):
    import torch
    from detectron2.structures import Boxes, Instances

    found = Instances((image["height"], image["width"]))
    found.pred_boxes = Boxes(torch.tensor(boxes, dtype=torch.float32).reshape(-1, 4))
    found.scores = torch.tensor(scores, dtype=torch.float32)
    found.pred_classes = torch.tensor(classes, dtype=torch.int64)
    if masks is not None:
        shape = (len(scores), image["height"], image["width"])
        found.pred_masks = torch.from_numpy(np.array(masks, bool).reshape(shape))
    return found


@functools.cache
def _perturbed(path, seed, most):
    return list(Detections(path)._perturb(seed, most))


class Detections:
    """Inputs and outputs of a detector that knows the ground truth of a json."""

    def __init__(self, path: Path) -> None:
        from pycocotools.coco import COCO

        self.path = path
        with contextlib.redirect_stdout(io.StringIO()):
            self.coco = COCO(str(path))
        self.numbers = {c: k for k, c in enumerate(sorted(self.coco.cats))}

    def perfect(self, with_masks=True, images=None):
        """The ground truth itself, crowds aside."""
        for image in self.coco.imgs.values() if images is None else images:
            annotations = [a for a in self.coco.imgToAnns[image["id"]] if not a.get("iscrowd")]
            boxes = [_corners(a["bbox"]) for a in annotations]
            masks = [self.coco.annToMask(a) for a in annotations] if with_masks else None
            classes = [self.numbers[a["category_id"]] for a in annotations]
            found = _instances(image, boxes, [1.0] * len(boxes), classes, masks)
            yield {"image_id": image["id"]}, {"instances": found}

    def perturbed(self, seed=0, most=6):
        """Every object several times or never: boxes jittered, masks grown or moved, classes confused."""
        return _perturbed(self.path, seed, most)

    def _perturb(self, seed, most):
        from scipy.ndimage import binary_dilation

        rng = np.random.default_rng(seed)
        present = sorted({self.numbers[a["category_id"]] for a in self.coco.anns.values()})
        for image in self.coco.imgs.values():
            boxes, scores, classes, masks = [], [], [], []
            for annotation in self.coco.imgToAnns[image["id"]]:
                mask = self.coco.annToMask(annotation)
                width, height = annotation["bbox"][2:]
                for _ in range(rng.integers(0, most)):
                    noise = rng.normal(0, 0.08, 4) * [width, height, width, height]
                    x0, y0, x1, y1 = np.array(_corners(annotation["bbox"])) + noise
                    boxes.append([min(x0, x1), min(y0, y1), max(x0, x1), max(y0, y1)])
                    grown = binary_dilation(mask, iterations=int(rng.integers(1, 5)))
                    moved = np.roll(mask, int(rng.integers(1, 6)), axis=int(rng.integers(2)))
                    masks.append(grown if rng.random() < 0.6 else moved)
                    confused = rng.random() < 0.3
                    own = self.numbers[annotation["category_id"]]
                    classes.append(int(rng.choice(present)) if confused else own)
                    scores.append(round(rng.random(), 2))  # some are equal
            found = _instances(image, boxes, scores, classes, masks)
            yield {"image_id": image["id"]}, {"instances": found}


def _corners(box):
    x, y, width, height = box
    return [x, y, x + width, y + height]


@pytest.fixture
def detections():
    return Detections


@pytest.fixture
def make_instances():
    """From an image's entry in the json and lists of corner boxes, scores, classes and masks."""
    return _instances


@pytest.fixture
def feed():
    """Hands pairs of input and output to an evaluator, two at a time."""

    def hand_over(evaluator, pairs):
        pairs = list(pairs)
        evaluator.reset()
        for i in range(0, len(pairs), 2):
            inputs, outputs = zip(*pairs[i : i + 2], strict=True)
            evaluator.process(list(inputs), list(outputs))
        return evaluator

    return hand_over


@pytest.fixture
def register(tmp_path):
    """Writes a json and registers it; the name, and the json's path, are new."""
    from detectron2.data import DatasetCatalog, MetadataCatalog
    from detectron2.data.datasets import register_coco_instances

    names = []

    def write(content, text=None):
        name = f"own_{next(_numbers)}"
        path = tmp_path / f"{name}.json"
        path.write_text(json.dumps(content) if text is None else text)
        register_coco_instances(name, {}, str(path), str(tmp_path))
        names.append(name)
        return name, path

    yield write
    for name in names:
        DatasetCatalog.remove(name)
        MetadataCatalog.remove(name)


@pytest.fixture
def small():
    """Two images with a square each; categories 3 and 7."""
    return {
        "images": [
            {"id": 10, "file_name": "a.jpg", "height": 40, "width": 50},
            {"id": 20, "file_name": "b.jpg", "height": 30, "width": 60},
        ],
        "categories": [{"id": 7, "name": "dog"}, {"id": 3, "name": "cat"}],
        "annotations": [
            coco_rectangle(1, 10, 3, [5, 5, 20, 20]),
            coco_rectangle(2, 20, 7, [10, 4, 8, 12]),
        ],
    }


@pytest.fixture
def drawn():
    """Rules -> images with polygons of all sizes in COCO's or LVIS's format; category ids have gaps."""
    return _drawn


def _drawn(rules):
    from pycocotools import mask as mask_util

    rng = np.random.default_rng(7)
    height, width = 150, 200
    categories = [
        {"id": k, "name": f"class {k}", "frequency": f}
        for k, f in ((9, "f"), (1, "r"), (4, "c"), (5, "f"))
    ]
    ids = [category["id"] for category in categories]
    images, annotations = [], []
    for image_id in range(3, 33):
        images.append(
            {"id": image_id, "file_name": f"{image_id}.jpg", "height": height, "width": width}
        )
        for category_id in rng.choice(ids[:3], rng.integers(1, 5)).tolist():
            angles = np.sort(rng.uniform(0, 2 * np.pi, 7))
            radii = rng.choice([12, 35, 75]) * rng.uniform(0.7, 1, 7)
            x = np.clip(rng.uniform(20, 180) + radii * np.cos(angles), 0, width).round(1)
            y = np.clip(rng.uniform(20, 130) + radii * np.sin(angles), 0, height).round(1)
            polygon = np.stack([x, y], 1).ravel().tolist()
            rle = mask_util.merge(mask_util.frPyObjects([polygon], height, width))
            annotations.append(
                {
                    "id": len(annotations) + 1,
                    "image_id": image_id,
                    "category_id": category_id,
                    "bbox": [x.min(), y.min(), np.ptp(x), np.ptp(y)],
                    "segmentation": [polygon],
                    "area": float(mask_util.area(rle)),
                    **({"iscrowd": int(rng.random() < 0.15)} if rules == "coco" else {}),
                }
            )
        if rules == "lvis":
            present = {a["category_id"] for a in annotations if a["image_id"] == image_id}
            images[-1]["neg_category_ids"] = [
                k for k in ids if k not in present and rng.random() < 0.5
            ]
            images[-1]["not_exhaustive_category_ids"] = [k for k in present if rng.random() < 0.3]
    return {"images": images, "categories": categories, "annotations": annotations}


@pytest.fixture
def square():
    """An annotation of COCO's format: a rectangle, as box and as polygon."""
    return coco_rectangle
