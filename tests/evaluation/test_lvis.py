"""LVIS's numbers against the package lvis."""

import copy
import csv
import json
import math
import os
import subprocess
import sys

import pytest
from detectron2.data import DatasetCatalog, MetadataCatalog
from detectron2.data.datasets import register_lvis_instances
from detectron2.data.datasets.lvis import get_lvis_instances_meta

from rmae_d2 import compat
from rmae_d2.errors import AnnotationError
from rmae_d2.evaluation import LVISEvaluator
from rmae_d2.evaluation.average_precision import limit_detections

LIBRARIES = ["faster-coco-eval", "lvis"]


@pytest.fixture(params=["train", "val"])
def real(request, shared_data):
    """A registered name with the real annotations of shared_data."""
    yield from _real(request.param, shared_data)


@pytest.fixture
def real_val(shared_data):
    yield from _real("val", shared_data)


def _real(split, shared_data):
    path = shared_data / f"lvis/lvis_v1_{split}.json"
    name = f"real_lvis_v1_{split}"
    register_lvis_instances(name, get_lvis_instances_meta("lvis_v1"), str(path), "")
    yield name, path
    DatasetCatalog.remove(name)
    MetadataCatalog.remove(name)


def _lvis(path, results, task, limit):
    """The numbers as lvis itself gives them."""
    compat.fix_lvis()
    from lvis import LVIS, LVISEval, LVISResults

    other = "segmentation" if task == "bbox" else "bbox"
    results = [{k: v for k, v in r.items() if k != other} for r in copy.deepcopy(results)]
    truth = LVIS(str(path))
    evaluation = LVISEval(truth, LVISResults(truth, results, max_dets=limit), task)
    evaluation.params.max_dets = limit  # names only
    evaluation.run()
    return {k: v * 100 for k, v in evaluation.get_results().items()}


@pytest.mark.parametrize(
    ("library", "limit"), [(LIBRARIES[0], 300), (LIBRARIES[0], 9), ("lvis", 9)]
)
def test_numbers_are_those_of_lvis(real, library, limit, detections, feed, tmp_path):
    name, path = real
    evaluator = LVISEvaluator(
        name,
        output_dir=str(tmp_path),
        library=library,
        max_dets_per_image=None if limit == 300 else limit,
    )
    found = feed(evaluator, detections(path).perturbed(most=12)).evaluate()
    results = json.loads((tmp_path / "lvis_instances_results.json").read_text())
    assert len(results) > 300
    for task in ("bbox", "segm"):
        expected = _lvis(path, results, task, limit)
        assert list(found[task]) == list(expected)  # AP ... APf, AR@300 ... ARl@300
        assert 5 < expected["AP"] < 90
        for key, value in expected.items():
            wanted = math.nan if value < 0 else value
            assert found[task][key] == pytest.approx(wanted, abs=1e-6, nan_ok=True), key


def test_boxes_and_masks_are_detectron2s(real_val, detections, feed, tmp_path):
    from detectron2.evaluation import LVISEvaluator as Upstream

    compat.fix_lvis()
    name, path = real_val
    pairs = detections(path).perturbed(most=12)
    expected = feed(Upstream(name, output_dir=str(tmp_path)), pairs).evaluate()
    found = feed(LVISEvaluator(name), pairs).evaluate()
    for task, values in expected.items():
        for key, value in values.items():
            wanted = math.nan if value < 0 else value
            assert found[task][key] == pytest.approx(wanted, abs=1e-6, nan_ok=True), key


@pytest.mark.parametrize("library", LIBRARIES)
def test_ground_truth_as_detections_gives_100(real, library, detections, feed, tmp_path, caplog):
    name, path = real
    evaluator = LVISEvaluator(name, output_dir=str(tmp_path), library=library)
    with caplog.at_level("INFO"):
        found = feed(evaluator, detections(path).perfect()).evaluate()
    for values in found.values():
        for key in ("AP", "AP50", "AP75", "APs", "APm", "APl", "APf", "AR@300"):
            assert values[key] == pytest.approx(100, abs=1e-9)
    for task in found:
        rows = list(csv.DictReader((tmp_path / f"lvis_{task}_per_class.csv").open()))
        present = [row for row in rows if row["AP"]]
        assert len(rows) == 1203 and len(present) > 20
        assert all(float(row["AP"]) == pytest.approx(100) for row in present)
        assert {row["frequency"] for row in rows} == {"r", "c", "f"}
        assert rows[0]["category"] == MetadataCatalog.get(name).thing_classes[0]
    assert f"bbox with {library} " in caplog.text and "rare" in caplog.text


def test_boundary_ap(real_val, detections, feed):
    name, path = real_val
    pairs = detections(path).perturbed(most=12)
    found = feed(LVISEvaluator(name, ("segm", "boundary")), pairs).evaluate()
    assert 0 < found["boundary"]["AP"] < found["segm"]["AP"]
    perfect = feed(LVISEvaluator(name, "boundary"), detections(path).perfect()).evaluate()
    assert perfect["boundary"]["AP"] == pytest.approx(100)


def test_what_is_not_known_counts_neither_way(small, register, make_instances, feed):
    """The federated rules on one image: unknown categories, absent ones, not exhaustive ones."""
    content = {
        **small,
        "categories": [
            {"id": i, "name": str(i), "frequency": f} for i, f in ((1, "r"), (2, "c"), (3, "f"))
        ],
        "images": [
            {**small["images"][0], "neg_category_ids": [2], "not_exhaustive_category_ids": []},
            {**small["images"][1], "neg_category_ids": [], "not_exhaustive_category_ids": [3]},
        ],
        "annotations": [
            {**small["annotations"][0], "category_id": 1},
            {**small["annotations"][1], "category_id": 3},
            {**small["annotations"][1], "category_id": 2, "id": 3},
        ],
    }
    for annotation in content["annotations"]:
        del annotation["iscrowd"]
    name, _ = register(content)
    first, second = content["images"]
    right, far = [5, 5, 25, 25], [30, 30, 38, 38]
    own, away = [10, 4, 18, 16], [40, 4, 50, 20]
    cases = {
        # Class 2 is not annotated in the first image at all: its detection there is dropped.
        "unknown": ([right, far], [0, 2], [own, own], [2, 1], (100, 100, 100)),
        # Class 1 is known to be absent from the first image: it counts as wrong, before the right one.
        "absent": ([right, far], [0, 1], [own, own], [2, 1], (100, 50, 100)),
        # Class 2 is not exhaustive in the second image: a detection without object is not wrong.
        "not exhaustive": ([right], [0], [away, own, own], [2, 2, 1], (100, 100, 100)),
    }
    for library in LIBRARIES:
        for case, (boxes, classes, boxes2, classes2, expected) in cases.items():
            scores = [0.9, 0.95][: len(boxes)]
            pairs = [
                (first, make_instances(first, boxes, scores, classes, None)),
                (
                    second,
                    make_instances(second, boxes2, [0.9, 0.8, 0.7][: len(boxes2)], classes2, None),
                ),
            ]
            evaluator = LVISEvaluator(name, library=library)
            feed(evaluator, [({"image_id": i["id"]}, {"instances": x}) for i, x in pairs])
            found = evaluator.evaluate()["bbox"]
            aps = [found[key] for key in ("APr", "APc", "APf")]
            assert aps == pytest.approx(expected), (library, case)


def test_nothing_detected_is_zero(real_val, detections, make_instances, feed, caplog):
    name, path = real_val
    images = detections(path).coco.imgs.values()
    pairs = [
        ({"image_id": i["id"]}, {"instances": make_instances(i, [], [], [], [])}) for i in images
    ]
    found = feed(LVISEvaluator(name), pairs).evaluate()
    assert list(found) == ["bbox", "segm"]
    assert found["segm"]["AP"] == found["segm"]["APf"] == found["segm"]["AR@300"] == 0
    assert math.isnan(found["segm"]["APr"])
    assert "detects nothing" in caplog.text


def test_the_limit_takes_the_best_of_each_image():
    results = [
        {"image_id": i % 2, "score": s} for i, s in enumerate([0.1, 0.5, 0.3, 0.5, 0.2, 0.9])
    ]
    assert limit_detections(results, 2) == [results[2], results[4], results[5], results[1]]
    assert limit_detections(results, 3) == [results[i] for i in (0, 2, 4, 1, 3, 5)]


def test_other_formats_are_refused(small, register):
    with pytest.raises(
        AnnotationError, match="10 of 'images' has no neg_category_ids.*COCOEvaluator"
    ):
        LVISEvaluator(register(small)[0])
    for image in small["images"]:
        image |= {"neg_category_ids": [], "not_exhaustive_category_ids": []}
    for category in small["categories"]:
        category["frequency"] = "x"
    with pytest.raises(AnnotationError, match="frequency must be r, c or f, not x"):
        LVISEvaluator(register(small)[0])
    for category in small["categories"]:
        category["frequency"] = "r"
    small["annotations"][1]["iscrowd"] = 1
    with pytest.raises(
        AnnotationError, match="1 annotations, such as 2, have 'ignore' or 'iscrowd'"
    ):
        LVISEvaluator(register(small)[0])


def test_without_the_package_lvis(shared_data, tmp_path):
    """On servers without libGL the OpenCV that lvis imports fails: faster-coco-eval needs neither."""
    (tmp_path / "lvis.py").write_text("raise ImportError('libGL.so.1')\n")
    code = (
        "from rmae_d2.evaluation import LVISEvaluator\n"
        "from detectron2.structures import Boxes, Instances; import torch\n"
        "e = LVISEvaluator('lvis_v1_val')\n"
        "f = Instances((427, 640), pred_boxes=Boxes(torch.tensor([[5., 5, 25, 25]])),\n"
        "              scores=torch.ones(1), pred_classes=torch.zeros(1, dtype=int))\n"
        "e.process([{'image_id': 6460}], [{'instances': f}])\n"
        "print(e.evaluate()['bbox']['AP'])\n"
    )
    env = {**os.environ, "PYTHONPATH": str(tmp_path), "DETECTRON2_DATASETS": str(shared_data)}
    run = subprocess.run([sys.executable, "-c", code], env=env, capture_output=True, text=True)
    assert run.stdout.strip() == "0.0", run.stderr
