"""The rendered dataset: exact masks, COCO's own readers, the same bytes from any number of workers."""

import hashlib
import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from pycocotools.coco import COCO

from rmae_d2.data.scenes.dataset import render_scene, write_scenes


@pytest.fixture(scope="module")
def scenes(tmp_path_factory):
    folder = tmp_path_factory.mktemp("data") / "scenes"
    assert write_scenes(folder, num_train=24, num_val=6, seed=3, workers=2)
    return folder


def digest(folder: Path) -> str:
    total = hashlib.sha256()
    for path in sorted(p for p in folder.rglob("*") if p.is_file()):
        total.update(str(path.relative_to(folder)).encode() + path.read_bytes())
    return total.hexdigest()


def test_any_number_of_workers_writes_the_same_bytes(scenes, tmp_path):
    write_scenes(tmp_path / "one", num_train=24, num_val=6, seed=3, workers=1)
    assert digest(tmp_path / "one") == digest(scenes)


def test_annotations_are_the_rendered_masks(scenes):
    coco = COCO(str(scenes / "annotations/instances_train.json"))
    for number in range(4):
        scene = render_scene(3, number)
        annotations = coco.loadAnns(coco.getAnnIds(imgIds=[number]))
        assert len(annotations) == len(scene.masks)
        for item, mask, category in zip(annotations, scene.masks, scene.category_ids, strict=True):
            assert np.array_equal(coco.annToMask(item).astype(bool), mask)
            assert item["area"] == mask.sum() and item["category_id"] == category
            rows, columns = np.nonzero(mask)
            box = [columns.min(), rows.min(), np.ptp(columns) + 1, np.ptp(rows) + 1]
            assert item["bbox"] == box
    # Validation images go on where training images end.
    image = np.asarray(Image.open(scenes / "val/000000.jpg"), np.float64)
    assert np.abs(image - render_scene(3, 24).image).mean() < 4  # JPEG


def test_panoptic_and_semantic_maps_agree_with_the_json(scenes):
    content = json.loads((scenes / "annotations/panoptic_val.json").read_text())
    for annotation in content["annotations"]:
        name = annotation["file_name"]
        picture = np.asarray(Image.open(scenes / "panoptic_val" / name)).astype(int)
        ids = picture @ [1, 256, 65536]
        semantic = np.asarray(Image.open(scenes / "stuff_val" / name))
        segments = {s["id"]: s for s in annotation["segments_info"]}
        assert set(np.unique(ids)) == set(segments)  # every pixel has a segment
        for segment_id, segment in segments.items():
            mask = ids == segment_id
            assert mask.sum() == segment["area"]
            assert set(np.unique(semantic[mask])) == {segment["category_id"] - 1}


def test_a_second_run_is_skipped_and_other_parameters_are_refused(scenes):
    before = digest(scenes)
    assert not write_scenes(scenes, num_train=24, num_val=6, seed=3)
    with pytest.raises(FileExistsError, match="already holds"):
        write_scenes(scenes, num_train=24, num_val=6, seed=4)
    assert digest(scenes) == before
