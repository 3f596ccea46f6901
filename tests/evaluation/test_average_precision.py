"""The numbers are those of pycocotools and lvis, on drawn and on real data; boundary AP is its paper's."""

import contextlib
import copy
import csv
import io
import json
import math

import numpy as np
import pytest
from detectron2.data import DatasetCatalog, MetadataCatalog
from detectron2.data.datasets import register_coco_instances, register_lvis_instances
from detectron2.data.datasets.lvis import get_lvis_instances_meta
from detectron2.evaluation import COCOEvaluator
from hypothesis import given
from hypothesis import strategies as st
from pycocotools import mask as mask_util
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

from rmae_d2.evaluation import DetectionEvaluator
from rmae_d2.evaluation.average_precision import best_of_each_image, curves_of

STATS = [
    *("AP", "AP50", "AP75", "APs", "APm", "APl"),
    *("AR@1", "AR@10", "AR@100", "ARs@100", "ARm@100", "ARl@100"),
]
ONE_REAL = pytest.mark.parametrize("truth", ["drawn", "val"], indirect=True)


@pytest.fixture(params=["drawn", "train", "val"])
def truth(request, drawn, tmp_path):
    """Rules -> an evaluator's arguments and its json: a drawn one, or the real one where it lies."""
    registered = []

    def of(rules):
        if request.param == "drawn":
            path = tmp_path / f"drawn_{rules}.json"
            path.write_text(json.dumps(drawn(rules)))
            return {"dataset_name": "", "json": str(path), "rules": rules}, path
        shared = request.getfixturevalue("shared_data")
        registered.append(name := f"real_{rules}_v1_{request.param}")
        if rules == "coco":
            path = shared / f"coco/annotations/instances_{request.param}2017.json"
            register_coco_instances(name, {}, str(path), "")
        else:
            path = shared / f"lvis/lvis_v1_{request.param}.json"
            register_lvis_instances(name, get_lvis_instances_meta("lvis_v1"), str(path), "")
        return {"dataset_name": name, "rules": rules}, path

    yield of
    for name in registered:
        DatasetCatalog.remove(name)
        MetadataCatalog.remove(name)


def _of_task(results, task):
    """Without the box where the mask counts: its area would be taken for the mask's."""
    other = "segmentation" if task == "bbox" else "bbox"
    return [{k: v for k, v in r.items() if k != other} for r in copy.deepcopy(results)]


def _pycocotools(path, results, task, evaluator=COCOeval):
    """The twelve numbers as pycocotools itself prints them."""
    with contextlib.redirect_stdout(io.StringIO()):
        truth = COCO(str(path))
        evaluation = evaluator(truth, truth.loadRes(_of_task(results, task)), task)
        evaluation.evaluate()
        evaluation.accumulate()
        evaluation.summarize()
    return dict(zip(STATS, evaluation.stats, strict=True))


def _lvis(path, results, task, limit):
    """The numbers as lvis itself gives them."""
    from lvis import LVIS, LVISEval, LVISResults

    truth = LVIS(str(path))
    found = LVISResults(truth, _of_task(results, task), max_dets=limit)
    evaluation = LVISEval(truth, found, task)
    evaluation.params.max_dets = limit  # names only
    evaluation.run()
    return evaluation.get_results()


def _assert_close(found, expected):
    for name, value in expected.items():  # below 0: the libraries' word for "no such instance"
        wanted = math.nan if value < 0 else value * 100
        assert found[name] == pytest.approx(wanted, abs=1e-6, nan_ok=True), name


def test_coco(truth, detections, feed, tmp_path):
    arguments, path = truth("coco")
    evaluator = DetectionEvaluator(**arguments, output_dir=str(tmp_path))
    found = feed(evaluator, detections(path).perturbed()).evaluate()
    results = json.loads((tmp_path / "coco_instances_results.json").read_text())
    assert list(found) == ["bbox", "segm"] and len(results) > 100
    for task in found:
        expected = _pycocotools(path, results, task)
        assert 0.1 < expected["AP"] < 0.9
        _assert_close(found[task], expected)


@pytest.mark.parametrize("limit", [300, 9])
def test_lvis(truth, limit, detections, feed, tmp_path, monkeypatch):
    # lvis 0.5.3, the last release, says np.float, which numpy 1.24 removed.
    monkeypatch.setattr(np, "float", float, raising=False)
    arguments, path = truth("lvis")
    arguments |= {} if limit == 300 else {"max_dets_per_image": limit}
    evaluator = DetectionEvaluator(**arguments, output_dir=str(tmp_path))
    found = feed(evaluator, detections(path).perturbed(most=12)).evaluate()
    results = json.loads((tmp_path / "lvis_instances_results.json").read_text())
    assert list(found) == ["bbox", "segm"] and len(results) > 100
    for task in found:
        expected = _lvis(path, results, task, limit)
        assert list(found[task]) == list(expected)  # AP ... APf, AR@300 ... ARl@300
        assert 0.05 < expected["AP"] < 0.9
        _assert_close(found[task], expected)


def test_numbers_and_classes_are_detectron2s(drawn, register, detections, feed):
    name, path = register(drawn("coco"))
    pairs = detections(path).perturbed()
    DatasetCatalog.get(name)  # Detectron2's evaluator needs the classes that the loader finds
    upstream = COCOEvaluator(name, ("bbox", "segm"), use_fast_impl=False)
    found = feed(DetectionEvaluator(name), pairs).evaluate()
    for task, values in feed(upstream, pairs).evaluate().items():
        assert values.keys() <= found[task].keys() and "AP-class 9" in values
        for key, value in values.items():
            assert found[task][key] == pytest.approx(value, abs=1e-6, nan_ok=True), key


@pytest.mark.parametrize("rules", ["coco", "lvis"])
def test_ground_truth_as_detections_gives_100(truth, rules, detections, feed, tmp_path):
    arguments, path = truth(rules)
    tasks = ["bbox", "segm", "boundary"]
    evaluator = DetectionEvaluator(**arguments, tasks=tasks, output_dir=str(tmp_path))
    reader = detections(path)
    found = feed(evaluator, reader.perfect()).evaluate()
    assert list(found) == tasks
    for task, values in found.items():
        limit = 100 if rules == "coco" else 300
        for key in ("AP", "AP50", "AP75", "APs", "APm", "APl", f"AR@{limit}", f"ARs@{limit}"):
            assert values[key] == pytest.approx(100, abs=1e-9), (task, key)
        rows = list(csv.DictReader((tmp_path / f"{rules}_{task}_per_class.csv").open()))
        assert len(rows) == len(reader.coco.cats)
        assert all(float(row["AP"]) == pytest.approx(100) for row in rows if row["AP"])
        assert rules == "coco" or {row["frequency"] for row in rows} == {"r", "c", "f"}


class _Boundary(COCOeval):
    """Boundary IoU by its paper (Cheng et al. 2021), pixel by pixel."""

    def __init__(self, truth, found, task):
        super().__init__(truth, found, "segm")

    def computeIoU(self, image_id, category_id):  # noqa: N802
        from scipy.ndimage import binary_erosion

        truths, found = self._gts[image_id, category_id], self._dts[image_id, category_id]
        if not truths or not found:
            return []
        found = [found[i] for i in np.argsort([-d["score"] for d in found], kind="mergesort")]

        def edge(rle):
            mask = mask_util.decode(rle)
            width = max(1, round(0.02 * math.hypot(*mask.shape)))
            inside = binary_erosion(mask, np.ones((3, 3)), iterations=width)
            return mask.astype(bool) & ~inside

        ious = mask_util.iou(
            [d["segmentation"] for d in found],
            [t["segmentation"] for t in truths],
            [int(t["iscrowd"]) for t in truths],
        )
        edges = [edge(t["segmentation"]) for t in truths]
        for i, detection in enumerate(found):
            own = edge(detection["segmentation"])
            for j, truth in enumerate(truths):
                if not truth["iscrowd"]:
                    iou = (own & edges[j]).sum() / max((own | edges[j]).sum(), 1)
                    ious[i, j] = min(ious[i, j], iou)
        return ious


@ONE_REAL
def test_boundary_ap(truth, detections, feed, tmp_path):
    arguments, path = truth("coco")
    tasks = ("segm", "boundary")
    evaluator = DetectionEvaluator(**arguments, tasks=tasks, output_dir=str(tmp_path))
    found = feed(evaluator, detections(path).perturbed()).evaluate()
    results = json.loads((tmp_path / "coco_instances_results.json").read_text())
    expected = _pycocotools(path, results, "boundary", _Boundary)
    assert expected["AP"] * 100 < found["segm"]["AP"] - 1
    _assert_close(found["boundary"], expected)


_BOXES = st.tuples(*[st.integers(0, 30)] * 4).map(list)


@st.composite
def _worlds(draw):
    """Any few images, categories with gaps, boxes (also without area), crowds; any detections, or none."""
    images = [{"id": i, "height": 64, "width": 64} for i in (2, 5, 9)]
    categories = [{"id": i, "name": str(i)} for i in (1, 4)]
    entries = st.tuples(st.sampled_from([2, 5, 9]), st.sampled_from([1, 4]), _BOXES)
    annotations = [
        {
            **{"id": n, "image_id": i, "category_id": c, "bbox": box},
            **{"area": box[2] * box[3], "iscrowd": int(draw(st.integers(0, 3)) == 0)},
        }
        for n, (i, c, box) in enumerate(draw(st.lists(entries, max_size=8)), 1)
    ]
    scores = st.sampled_from([0.1, 0.5, 0.9])
    results = [
        {"image_id": i, "category_id": c, "bbox": box, "score": draw(scores)}
        for i, c, box in draw(st.lists(entries, max_size=8))
    ]
    near = draw(st.lists(st.tuples(st.integers(0, 7), scores), max_size=8))
    results += [
        {**{k: annotations[n][k] for k in ("image_id", "category_id", "bbox")}, "score": score}
        for n, score in near
        if n < len(annotations)
    ]
    return {"images": images, "categories": categories, "annotations": annotations}, results


@given(_worlds())
def test_curves_are_pycocotools_on_anything(world):
    content, results = world
    found = curves_of(content, results, "bbox", [1, 3])
    # pycocotools fails without any detection: one of score 0 in the far corner changes nothing.
    useless = {"image_id": 2, "category_id": 1, "bbox": [62, 62, 0.5, 0.5], "score": 0.0}
    with contextlib.redirect_stdout(io.StringIO()):
        coco = COCO()
        coco.dataset = copy.deepcopy(content)
        coco.createIndex()
        evaluation = COCOeval(coco, coco.loadRes(copy.deepcopy(results) or [useless]), "bbox")
        evaluation.params.maxDets = [1, 3]
        evaluation.evaluate()
        evaluation.accumulate()
    np.testing.assert_allclose(found.precision, evaluation.eval["precision"][..., -1], atol=1e-9)
    np.testing.assert_allclose(found.recall, evaluation.eval["recall"], atol=1e-9)


def test_the_limit_takes_the_best_of_each_image():
    scores = [0.1, 0.5, 0.3, 0.5, 0.2, 0.9]
    results = [{"image_id": i % 2, "score": score} for i, score in enumerate(scores)]
    assert best_of_each_image(results, 2) == [results[i] for i in (2, 4, 5, 1)]
    assert best_of_each_image(results, 3) == [results[i] for i in (2, 4, 0, 5, 1, 3)]
