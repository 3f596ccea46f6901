"""The rendered dataset: exact masks, COCO's own readers, the same bytes from any number of workers."""

import hashlib
import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from pycocotools.coco import COCO

from rmae_d2.data.scenes.dataset import (
    CATEGORIES,
    STUFF_CLASSES,
    THING_CLASSES,
    render_scene,
    write_scenes,
)
from rmae_d2.errors import UserError


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


@settings(max_examples=15, deadline=None)
@given(seed=st.integers(0, 2**32), index=st.integers(0, 10**6))
def test_a_scene_is_sound(seed, index):
    scene = render_scene(seed, index)
    assert scene.image.dtype == np.uint8
    assert scene.image.shape[:2] == scene.masks.shape[1:]
    assert scene.masks.sum(axis=0).max() <= 1  # disjoint
    assert scene.masks.any(axis=(1, 2)).all()
    assert set(scene.category_ids) <= set(range(1, len(THING_CLASSES) + 1))
    assert scene.semantic().max() < len(THING_CLASSES) + len(STUFF_CLASSES)
    again = render_scene(seed, index)
    assert np.array_equal(scene.image, again.image) and np.array_equal(scene.masks, again.masks)


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


def test_at_least_eight_categories_are_used(scenes):
    coco = COCO(str(scenes / "annotations/instances_train.json"))
    assert len({a["category_id"] for a in coco.anns.values()}) >= 8
    assert len(THING_CLASSES) >= 8
    assert [c["name"] for c in CATEGORIES if c["isthing"]] == list(THING_CLASSES)


def test_images_are_of_several_shapes_and_none_is_square(scenes):
    sizes = {Image.open(p).size for p in (scenes / "train").iterdir()}
    assert len(sizes) > 2 and all(w != h for w, h in sizes)


def test_a_second_run_is_skipped_and_other_parameters_are_refused(scenes):
    before = digest(scenes)
    assert not write_scenes(scenes, num_train=24, num_val=6, seed=3)
    with pytest.raises(UserError, match="already holds"):
        write_scenes(scenes, num_train=24, num_val=6, seed=4)
    assert digest(scenes) == before


def test_a_killed_run_leaves_no_dataset(tmp_path):
    command = [
        sys.executable,
        "-m",
        "rmae_d2",
        "scenes",
        "--output",
        str(tmp_path / "s"),
        "--num-train",
        "500",
    ]
    process = subprocess.Popen(command, cwd=Path(__file__).parents[3], stderr=subprocess.DEVNULL)
    with pytest.raises(subprocess.TimeoutExpired):
        process.wait(timeout=4)
    process.kill()
    process.wait()
    assert not (tmp_path / "s").exists()
    assert write_scenes(tmp_path / "s", num_train=2, num_val=1, workers=1)


def test_detectron2_reads_it(scenes):
    from detectron2.data.datasets import load_coco_json

    dicts = load_coco_json(
        str(scenes / "annotations/instances_val.json"), str(scenes / "val"), "scenes_test"
    )
    assert len(dicts) == 6 and all(Path(d["file_name"]).exists() for d in dicts)
