"""The files of the scenes, and the refusals of the writer."""

import hashlib
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from pycocotools.coco import COCO

from rmae_d2.data.scenes.dataset import panoptic_metadata, write_scenes
from rmae_d2.data.scenes.render import CATEGORIES, STUFF_CLASSES, THING_CLASSES, render_scene
from rmae_d2.errors import UserError
from tests.helpers import HUNG, ROOT


def test_the_metadata_covers_every_category():
    assert [c["name"] for c in CATEGORIES if c["isthing"]] == list(THING_CLASSES)
    metadata = panoptic_metadata()
    things = metadata["thing_dataset_id_to_contiguous_id"]
    stuff = metadata["stuff_dataset_id_to_contiguous_id"]
    assert len(things) == len(THING_CLASSES) and len(stuff) == len(STUFF_CLASSES)
    assert sorted([*things.values(), *stuff.values()]) == list(range(len(CATEGORIES)))
    for category in CATEGORIES:
        assert metadata["stuff_classes"][category["id"] - 1] == category["name"]


def test_a_folder_of_something_else_is_refused(tmp_path: Path):
    (tmp_path / "thesis.tex").write_text("precious")
    for stamp in (None, "not json", "[]"):
        if stamp is not None:
            (tmp_path / "scenes.json").write_text(stamp)
        with pytest.raises(UserError, match="not a scenes dataset"):
            write_scenes(tmp_path, 1, 1, workers=1)
    assert (tmp_path / "thesis.tex").read_text() == "precious"


def test_missing_files_are_noticed(tmp_path: Path):
    write_scenes(tmp_path / "out", 2, 1, workers=1)
    (tmp_path / "out" / "train" / "000001.jpg").unlink()
    with pytest.raises(UserError, match="train/ are missing"):
        write_scenes(tmp_path / "out", 2, 1, workers=1)


def test_an_empty_folder_is_filled(tmp_path: Path):
    (tmp_path / "out").mkdir()
    assert write_scenes(tmp_path / "out", 1, 1, workers=1)
    assert (tmp_path / "out" / "scenes.json").is_file()
    assert [p.name for p in tmp_path.iterdir()] == ["out"]


@pytest.mark.parametrize("numbers", [(0, 1), (1, 0), (1, 1, -1), (1, 1, 0, 0)])
def test_bad_numbers(tmp_path: Path, numbers: tuple[int, ...]):
    with pytest.raises(ValueError, match="got"):
        write_scenes(tmp_path / "out", *numbers)
    assert not any(tmp_path.iterdir())


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGKILL])
def test_a_stopped_writer_leaves_nothing_that_looks_whole(tmp_path: Path, number: int):
    # A job in the background begins with SIGINT ignored, and hands that on.
    code = (
        "import signal; signal.signal(signal.SIGINT, signal.default_int_handler)\n"
        "from rmae_d2.data.scenes.dataset import write_scenes as w; w('out', 9999, 1, 0, 2)"
    )
    child = subprocess.Popen(
        [sys.executable, "-c", code],
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        stderr=subprocess.DEVNULL,
        start_new_session=True,
    )
    try:
        deadline = time.monotonic() + 120
        while not any(tmp_path.glob(".out.*/train/000003.jpg")):
            assert time.monotonic() < deadline and child.poll() is None, "no picture came"
            time.sleep(0.05)
        os.killpg(child.pid, number)  # as a terminal does: to every process
        assert child.wait(timeout=HUNG) != 0
    finally:
        child.kill()
        child.wait()
    left = [path.name for path in tmp_path.iterdir()]
    assert left == ([] if number == signal.SIGINT else [f".out.incomplete-{child.pid}"])
    assert write_scenes(tmp_path / "out", 1, 1, workers=1)


# ---- the files


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
    with pytest.raises(UserError, match="already holds"):
        write_scenes(scenes, num_train=24, num_val=6, seed=4)
    assert digest(scenes) == before
