"""Registration in Detectron2's catalogs."""

import importlib
import os
import subprocess
import sys

from detectron2.data import DatasetCatalog, MetadataCatalog
from PIL import Image

import rmae_d2.data.datasets.builtin as builtin
from rmae_d2.data.scenes.render import THING_CLASSES

NAMES = [
    "coco_2017_unlabeled",
    "imagenet_1k_train",
    "imagenet_1k_val",
    "scenes_train",
    "scenes_val",
    "scenes_train_panoptic",
    "scenes_val_panoptic",
    "scenes_train_semantic",
    "scenes_val_semantic",
]


def test_names_are_registered_once_under_the_common_root():
    importlib.reload(builtin)
    root = os.path.expanduser(os.getenv("DETECTRON2_DATASETS", "datasets"))
    for name in NAMES:
        assert name in DatasetCatalog
        assert MetadataCatalog.get(name).image_root.startswith(root)
    scenes = MetadataCatalog.get("scenes_val")
    assert scenes.thing_classes == list(THING_CLASSES) and scenes.evaluator_type == "coco"
    assert scenes.json_file == os.path.join(root, "scenes/annotations/instances_val.json")


def test_folders_are_listed(tmp_path):
    saved = {name: (DatasetCatalog.pop(name), MetadataCatalog.pop(name)) for name in NAMES}
    try:
        builtin.register_all(str(tmp_path))
        (tmp_path / "imagenet/train/n01").mkdir(parents=True)
        Image.new("RGB", (2, 2)).save(tmp_path / "imagenet/train/n01/x.JPEG", format="JPEG")
        (sample,) = DatasetCatalog.get("imagenet_1k_train")
        assert sample["image_id"] == "n01/x.JPEG"
    finally:
        for name, (function, metadata) in saved.items():
            DatasetCatalog[name], MetadataCatalog[name] = function, metadata


def test_scenes_are_registered_with_their_segments(tmp_path):
    from rmae_d2.data.scenes.dataset import write_scenes

    write_scenes(tmp_path / "scenes", num_train=2, num_val=1, workers=1)
    script = (
        "import rmae_d2; from detectron2.data import DatasetCatalog as D, MetadataCatalog as M; "
        "train, segments = D.get('scenes_train'), D.get('scenes_train_panoptic'); "
        "assert len(train) == len(segments) == 2, (train, segments); "
        "assert all(d['segments_info'] for d in segments); "
        "assert len(M.get('scenes_train').thing_classes) == 12; "
        "from rmae_d2.data.datasets import semantic_classes, semantic_dataset; "
        "labelled = semantic_dataset('scenes_train_semantic', num_classes=17); "
        "assert [d['file_name'] for d in labelled] == [d['file_name'] for d in train]; "
        "assert semantic_classes('scenes_val_semantic')[11:13] == ('teapot', 'photograph')"
    )
    env = {**os.environ, "DETECTRON2_DATASETS": str(tmp_path)}
    subprocess.run([sys.executable, "-c", script], check=True, env=env)
