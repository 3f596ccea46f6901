"""COCO's numbers against pycocotools, and what becomes of data that are not as they should be."""

import contextlib
import copy
import csv
import io
import json
import math
import os
import subprocess
import sys

import numpy as np
import pytest
import torch
from detectron2.config import LazyCall as L
from detectron2.config import instantiate
from detectron2.data import DatasetCatalog, MetadataCatalog
from detectron2.data.datasets import register_coco_instances
from detectron2.evaluation import COCOEvaluator as Upstream
from detectron2.evaluation import print_csv_format
from detectron2.evaluation.testing import flatten_results_dict
from hypothesis import given
from hypothesis import strategies as st
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

from rmae_d2.errors import AnnotationError, UserError
from rmae_d2.evaluation import COCOEvaluator
from rmae_d2.evaluation.average_precision import coco_curves, metrics_of, nothing_found

LIBRARIES = ["faster-coco-eval", "pycocotools"]
STATS = [
    *("AP", "AP50", "AP75", "APs", "APm", "APl"),
    *("AR@1", "AR@10", "AR@100", "ARs@100", "ARm@100", "ARl@100"),
]


def _real(split, shared_data):
    path = shared_data / f"coco/annotations/instances_{split}2017.json"
    name = f"real_coco_{split}"
    register_coco_instances(name, {}, str(path), "")
    yield name, path
    DatasetCatalog.remove(name)
    MetadataCatalog.remove(name)


@pytest.fixture(params=["train", "val"])
def real(request, shared_data):
    """A registered name with the real annotations of shared_data; those of train have crowds."""
    yield from _real(request.param, shared_data)


@pytest.fixture
def real_val(shared_data):
    yield from _real("val", shared_data)


def _pycocotools(path, results, task, evaluator=COCOeval):
    """The twelve numbers as pycocotools itself prints them."""
    other = "segmentation" if task == "bbox" else "bbox"
    results = [{k: v for k, v in r.items() if k != other} for r in copy.deepcopy(results)]
    with contextlib.redirect_stdout(io.StringIO()):
        truth = COCO(str(path))
        evaluation = evaluator(truth, truth.loadRes(results), task)
        evaluation.evaluate()
        evaluation.accumulate()
        evaluation.summarize()
    return dict(zip(STATS, evaluation.stats * 100, strict=True))


def _close(found, expected):
    for name, value in expected.items():
        if value < 0:  # pycocotools' word for "no such instance"
            assert math.isnan(found[name]), name
        else:
            assert found[name] == pytest.approx(value, abs=1e-6, nan_ok=True), name


@pytest.mark.parametrize("library", LIBRARIES)
def test_numbers_are_pycocotools(real, library, detections, feed, tmp_path):
    name, path = real
    evaluator = COCOEvaluator(name, output_dir=str(tmp_path), library=library)
    found = feed(evaluator, detections(path).perturbed()).evaluate()
    results = json.loads((tmp_path / "coco_instances_results.json").read_text())
    assert list(found) == ["bbox", "segm"] and len(results) > 200
    for task in found:
        expected = _pycocotools(path, results, task)
        assert 10 < expected["AP"] < 90
        _close(found[task], expected)


def test_numbers_and_classes_are_detectron2s(real_val, detections, feed):
    name, path = real_val
    pairs = detections(path).perturbed()
    DatasetCatalog.get(name)  # Detectron2's evaluator needs the classes that the loader finds
    expected = feed(Upstream(name, ("bbox", "segm"), use_fast_impl=False), pairs).evaluate()
    found = feed(COCOEvaluator(name), pairs).evaluate()
    for task, values in expected.items():
        assert values.keys() <= found[task].keys() and len(values) == 86
        for key, value in values.items():
            assert found[task][key] == pytest.approx(value, abs=1e-6, nan_ok=True), key


@pytest.mark.parametrize("most", [1, 3, 200])
def test_the_limit_of_detections(real_val, most, detections, feed):
    """Whatever the limit, faster-coco-eval and pycocotools agree; the curves' names follow it."""
    name, path = real_val
    pairs = detections(path).perturbed()
    both = [
        feed(COCOEvaluator(name, max_dets_per_image=most, library=lib), pairs).evaluate()
        for lib in LIBRARIES
    ]
    for task in ("bbox", "segm"):
        assert both[0][task] == pytest.approx(both[1][task], abs=1e-6, nan_ok=True)
        limits = [k for k in both[0][task] if k.startswith("AR@")]
        assert limits == [f"AR@{m}" for m in (1, 10) if m < most] + [f"AR@{most}"]
    with pytest.raises(ValueError, match="at least 1"):
        COCOEvaluator(name, max_dets_per_image=0)


def test_ground_truth_as_detections_gives_100(real, detections, feed):
    name, path = real
    found = feed(COCOEvaluator(name), detections(path).perfect()).evaluate()
    for values in found.values():
        for key in ("AP", "AP50", "AP75", "APs", "APm", "APl", "AR@100", "ARs@100"):
            assert values[key] == pytest.approx(100, abs=1e-9)


class _Boundary(COCOeval):
    """Boundary IoU by its paper (Cheng et al. 2021), pixel by pixel."""

    def __init__(self, truth, found, task):
        super().__init__(truth, found, "segm")

    def computeIoU(self, image_id, category_id):  # noqa: N802
        from pycocotools import mask as mask_util
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


def test_boundary_ap(real_val, detections, feed, tmp_path):
    name, path = real_val
    evaluator = COCOEvaluator(name, ("segm", "boundary"), output_dir=str(tmp_path))
    found = feed(evaluator, detections(path).perturbed()).evaluate()
    results = json.loads((tmp_path / "coco_instances_results.json").read_text())
    expected = _pycocotools(path, results, "boundary", _Boundary)
    assert expected["AP"] < found["segm"]["AP"] - 1
    _close(found["boundary"], expected)
    with pytest.raises(ValueError, match="boundary AP needs faster-coco-eval"):
        COCOEvaluator(name, ("boundary",), library="pycocotools")


_BOXES = st.tuples(*[st.integers(0, 30)] * 4).map(list)


@st.composite
def _worlds(draw):
    """Any few images, categories with gaps, boxes (also without area), crowds; any detections."""
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
    near = draw(st.lists(st.tuples(st.integers(0, 7), scores), max_size=8))
    results = [
        {"image_id": i, "category_id": c, "bbox": box, "score": draw(scores)}
        for i, c, box in draw(st.lists(entries, min_size=1, max_size=8))
    ]
    results += [
        {**{k: annotations[n][k] for k in ("image_id", "category_id", "bbox")}, "score": score}
        for n, score in near
        if n < len(annotations)
    ]
    return {"images": images, "categories": categories, "annotations": annotations}, results


@given(_worlds())
def test_the_libraries_agree_on_anything(world):
    truth, results = world
    fast, slow = (
        metrics_of(coco_curves(*copy.deepcopy((truth, results)), "bbox", lib, [1, 3]))
        for lib in LIBRARIES
    )
    assert fast == pytest.approx(slow, abs=1e-9, nan_ok=True)


@given(_worlds())
def test_no_detection_is_what_pycocotools_says_of_a_useless_one(world):
    """A detection of score 0 in the far corner changes nothing; without any the libraries fail."""
    truth, results = world
    from rmae_d2.evaluation.ground_truth import GroundTruth

    useless = [
        {"image_id": 2, "category_id": c, "bbox": [62, 62, 0.5, 0.5], "score": 0.0} for c in (1, 4)
    ]
    counts = GroundTruth("", truth, {}, []).count(truth, None)
    expected = coco_curves(copy.deepcopy(truth), useless, "bbox", "pycocotools", [1, 3])
    found = nothing_found(counts, [1, 3])
    np.testing.assert_array_equal(found.precision, expected.precision)
    np.testing.assert_array_equal(found.recall, expected.recall)


def test_lazy_config_results_and_files(small, register, detections, feed, tmp_path, caplog):
    name, path = register(small)
    out = tmp_path / "inference"
    config = L(COCOEvaluator)(
        dataset_name=name, tasks=["segm", "bbox"], output_dir=str(out), max_dets_per_image=100
    )
    with caplog.at_level("INFO"):
        found = feed(instantiate(config), detections(path).perfect()).evaluate()
        print_csv_format(found)
    assert list(found) == ["segm", "bbox"]
    assert list(found["bbox"]) == [*STATS, "AP-cat", "AP-dog"]
    assert all(isinstance(v, float) for v in flatten_results_dict(found).values())
    results = json.loads((out / "coco_instances_results.json").read_text())
    assert [(r["image_id"], r["category_id"], r["bbox"]) for r in results] == [
        (10, 3, [5, 5, 20, 20]),
        (20, 7, [10, 4, 8, 12]),
    ]
    rows = list(csv.DictReader((out / "coco_segm_per_class.csv").open()))
    assert [(r["category"], r["id"], r["instances"], r["AP"], r["APl"]) for r in rows] == [
        ("cat", "3", "1", "100.0", ""),
        ("dog", "7", "1", "100.0", ""),
    ]
    assert "bbox with faster-coco-eval " in caplog.text and "| large " in caplog.text
    assert "| dog        |           1 | 100.00 |" in caplog.text


def test_pycocotools_where_faster_is_absent(small, register, detections, feed, tmp_path):
    """A broken faster-coco-eval in front of the real one: the log says what is used instead."""
    (tmp_path / "faster_coco_eval.py").write_text("raise ImportError('of another numpy')\n")
    _, path = register(small)
    code = (
        "import logging; logging.basicConfig(level='INFO')\n"
        "from detectron2.data.datasets import register_coco_instances\n"
        "from rmae_d2.evaluation import COCOEvaluator\n"
        f"register_coco_instances('x', {{}}, {str(path)!r}, '')\n"
        "e = COCOEvaluator('x')\n"
        "from detectron2.structures import Boxes, Instances; import torch\n"
        "f = Instances((40, 50), pred_boxes=Boxes(torch.tensor([[5., 5, 25, 25]])),\n"
        "              scores=torch.ones(1), pred_classes=torch.zeros(1, dtype=int))\n"
        "e.process([{'image_id': 10}], [{'instances': f}])\n"
        "print(e.evaluate()['bbox']['AP'])\n"
        "COCOEvaluator('x', library='faster-coco-eval')\n"
    )
    env = {**os.environ, "PYTHONPATH": str(tmp_path)}
    run = subprocess.run([sys.executable, "-c", code], env=env, capture_output=True, text=True)
    assert float(run.stdout) == pytest.approx(50)
    assert "bbox with pycocotools " in run.stderr
    assert "ImportError: library=faster-coco-eval does not import: pip install" in run.stderr


@pytest.mark.parametrize("with_masks", [True, False])
def test_nothing_detected_is_zero(small, register, make_instances, feed, caplog, with_masks):
    name, _ = register(small)
    masks = [] if with_masks else None
    pairs = [
        ({"image_id": i["id"]}, {"instances": make_instances(i, [], [], [], masks)})
        for i in small["images"]
    ]
    found = feed(COCOEvaluator(name), pairs).evaluate()
    assert "detects nothing in any of them: AP is 0" in caplog.text
    assert list(found) == (["bbox", "segm"] if with_masks else ["bbox"])
    for values in found.values():
        assert values["AP"] == values["AR@100"] == values["AP-cat"] == values["APs"] == 0
        assert math.isnan(values["APl"])  # there is no large instance
    assert feed(COCOEvaluator(name), []).evaluate() == {}
    assert "NOTHING EVALUATED: no image was predicted" in caplog.text


def test_images_twice_or_never(small, register, detections, feed, caplog):
    name, path = register(small)
    perfect = list(detections(path).perfect())
    found = feed(COCOEvaluator(name), [*perfect, *perfect[::-1]]).evaluate()
    assert found["bbox"]["AP"] == pytest.approx(100)
    assert "2 images were predicted more than once, such as 20, 10" in caplog.text
    assert "PARTIAL" not in caplog.text
    found = feed(COCOEvaluator(name), perfect[:1]).evaluate()
    assert found["segm"]["AP"] == pytest.approx(50)
    assert "PARTIAL EVALUATION: 1 of 2 images" in caplog.text
    caplog.clear()
    found = feed(COCOEvaluator(name), perfect[:1]).evaluate(img_ids=[10])
    assert found["segm"]["AP"] == pytest.approx(100) and "PARTIAL" not in caplog.text


def test_detections_that_do_not_belong(small, register, detections, make_instances, feed):
    name, path = register(small)
    image = small["images"][0]

    def check(message, image_id=10, box=(1, 1, 5, 5), score=1.0, number=0, shape=None):
        shown = image if shape is None else dict(zip(("height", "width"), shape, strict=True))
        mask = np.ones((1, shown["height"], shown["width"]))
        pair = (
            {"image_id": image_id},
            {"instances": make_instances(shown, [box], [score], [number], mask)},
        )
        with pytest.raises(UserError, match=message):
            feed(COCOEvaluator(name), [pair]).evaluate()

    check(r"1 of 1 predicted images are not in .*own_\d+.json, such as the ids 999", image_id=999)
    check("predicts class 2, .* has 2 .0 to 1.: is model.roi_heads.num_classes right", number=2)
    check("not finite: has the training diverged", score=float("nan"))
    check("not finite", box=(1, 1, float("inf"), 5))
    check(r"mask is \(50, 40\) \(height, width\), .* says \(40, 50\)", shape=(50, 40))
    with pytest.raises(UserError, match="needs the output 'instances', .* gives sem_seg"):
        COCOEvaluator(name).process([{"image_id": 10}], [{"sem_seg": None}])
    boxes_only = detections(path).perfect(with_masks=False)
    with pytest.raises(UserError, match="segm needs masks, and the model predicts boxes"):
        feed(COCOEvaluator(name, "segm"), boxes_only).evaluate()
    with pytest.raises(ValueError, match="keypoints.*choose from bbox, segm, boundary"):
        COCOEvaluator(name, ("keypoints",))
    with pytest.raises(ValueError, match="choose auto, faster-coco-eval or pycocotools"):
        COCOEvaluator(name, library="lvis")


@pytest.mark.parametrize("library", LIBRARIES)
def test_boxes_without_masks(small, register, detections, feed, caplog, library):
    """Own data: neither masks, areas nor crowd flags."""
    for annotation in small["annotations"]:
        for key in ("segmentation", "area", "iscrowd"):
            del annotation[key]
    name, path = register(small)
    reader = detections(path)
    reader.coco.annToMask = lambda a: np.zeros((40, 50) if a["image_id"] == 10 else (30, 60))
    found = feed(COCOEvaluator(name, library=library), reader.perfect()).evaluate()
    assert list(found) == ["bbox"] and found["bbox"]["AP"] == pytest.approx(100)
    assert "has no masks: segm is not evaluated" in caplog.text
    assert "2 annotations have no area" in caplog.text
    with pytest.raises(UserError, match="has boxes only: .*tasks=.bbox."):
        feed(COCOEvaluator(name, "segm", library=library), reader.perfect()).evaluate()


@pytest.mark.parametrize("library", LIBRARIES)
def test_odd_annotations(small, register, square, detections, feed, caplog, library):
    """Polygons of two points, boxes without area, a crowd alone, no annotation at all, id 0."""
    two_points = square(3, 20, 7, [30, 5, 10, 10])
    two_points["segmentation"] = [[30, 5, 10, 10]]  # pycocotools itself fails
    flat = square(4, 20, 7, [5, 20, 10, 0])
    crowd = square(0, 30, 3, [0, 0, 30, 30], iscrowd=1)
    astray = square(5, 999, 3, [0, 0, 30, 30])
    small["annotations"] += [two_points, flat, crowd, astray]
    small["images"] += [{"id": i, "file_name": "", "height": 40, "width": 40} for i in (30, 40)]
    name, path = register(small)
    reader = detections(path)
    reader.coco.anns[3]["segmentation"] = square(3, 20, 7, [30, 5, 10, 10])["segmentation"]
    found = feed(COCOEvaluator(name, library=library), reader.perfect()).evaluate()
    assert "has an annotation with id 0" in caplog.text
    assert "1 boxes have no area, such as those of the annotations 4" in caplog.text
    assert "1 annotations are of images that it does not list" in caplog.text
    assert "1 of 5 annotations have no mask" in caplog.text
    assert found["bbox"]["AP-cat"] == found["segm"]["AP-cat"] == pytest.approx(100)
    # Of three dogs the flat one cannot be found: 67 of 101 points of recall are reached.
    assert found["bbox"]["AP-dog"] == pytest.approx(100 * 67 / 101)


def test_id_zero_is_no_match_for_pycocotools(small, register, detections, feed):
    """The trap that is avoided: ids from 0 cost pycocotools an object."""
    for i, annotation in enumerate(small["annotations"]):
        annotation["id"] = i
    name, path = register(small)
    found = feed(COCOEvaluator(name), detections(path).perfect()).evaluate()
    assert found["bbox"]["AP"] == pytest.approx(100)
    results = [
        {**{k: a[k] for k in ("image_id", "category_id", "bbox")}, "score": 1.0}
        for a in small["annotations"]
    ]
    assert _pycocotools(path, results, "bbox")["AP"] == pytest.approx(50)


@pytest.mark.parametrize("library", LIBRARIES)
def test_rle_ground_truth(small, register, detections, feed, library):
    """Compressed and uncompressed RLE count as the polygon does; one of another size is refused."""
    from pycocotools import mask as mask_util

    name, path = register(small)
    reader = detections(path)
    rle = reader.coco.annToRLE(reader.coco.anns[1])
    flat = mask_util.decode(rle).flatten(order="F")
    edges = np.flatnonzero(np.diff(np.concatenate([[0], flat, [0]])))
    counts = np.diff(np.concatenate([[0], edges, [flat.size]]))
    for form in (rle["counts"].decode(), [int(c) for c in counts]):
        small["annotations"][0]["segmentation"] = {"size": rle["size"], "counts": form}
        name, path = register(small)
        found = feed(COCOEvaluator(name, library=library), detections(path).perfect()).evaluate()
        assert found["segm"]["AP"] == pytest.approx(100)
    small["annotations"][0]["segmentation"]["size"] = [50, 40]
    with pytest.raises(AnnotationError, match=r"annotation 1 is \(50, 40\).*image 10 \(40, 50\)"):
        COCOEvaluator(register(small)[0])


def _change(content, section, index, **values):
    content = copy.deepcopy(content)
    content[section][index].update(values)
    return content


def test_jsons_that_cannot_be_used(small, register):
    def check(message, content, text=None):
        name, path = register(content, text)
        with pytest.raises(AnnotationError, match=message) as error:
            COCOEvaluator(name)
        assert str(path) in str(error.value)

    whole = json.dumps(small)
    for length in (1, len(whole) // 3, len(whole) - 2):
        check(
            r"is cut off \([\d,]+ bytes; .*download, copy or unpack it again", None, whole[:length]
        )
    check("is cut off", None, "")
    check("is not JSON", None, "<html>Not found</html>")
    check("holds a list", [1])
    check(
        "needs a list 'images', it has annotations, categories",
        {**small, "images": []} | {"images": 3},
    )
    check("needs a list 'categories'", {**small, "categories": []})
    double = "1 ids stand more than once in '{}', such as {}"
    check(double.format("images", 10), _change(small, "images", 1, id=10))
    check(double.format("annotations", 1), _change(small, "annotations", 1, id=1))
    check(double.format("categories", 7), _change(small, "categories", 1, id=7))
    check(
        "category ids that 'categories' does not list: 5",
        _change(small, "annotations", 1, category_id=5),
    )
    check("annotation 2 has the bbox", _change(small, "annotations", 1, bbox=[1, 2, 3]))
    check(
        "annotation 2 has the bbox", _change(small, "annotations", 1, bbox=[1, 2, 3, float("nan")])
    )
    check("entry 1 of 'images' has no height", _change(small, "images", 1, height=None))
    check("entry 0 of 'annotations' has no id", _change(small, "annotations", 0, id=None))


def test_an_archive_instead_of_a_json(small, register):
    import gzip

    name, path = register(small)
    path.write_bytes(gzip.compress(path.read_bytes()))
    with pytest.raises(AnnotationError, match="is not text .*archive that has to be unpacked"):
        COCOEvaluator(name)


def test_missing_files_say_where_from(tmp_path):
    code = (
        "from rmae_d2.evaluation import COCOEvaluator, LVISEvaluator\n"
        "for kind, name in ((COCOEvaluator, 'coco_2017_val'), (LVISEvaluator, 'lvis_v1_val')):\n"
        "    try: kind(name)\n"
        "    except FileNotFoundError as error: print(error)\n"
    )
    env = {**os.environ, "HOME": str(tmp_path), "DETECTRON2_DATASETS": "~/sets"}
    run = subprocess.run([sys.executable, "-c", code], env=env, capture_output=True, text=True)
    for text in (
        f"looked for: {tmp_path}/sets/coco/annotations/instances_val2017.json",
        "http://images.cocodataset.org/annotations/annotations_trainval2017.zip",
        "http://images.cocodataset.org/zips/val2017.zip",
        f"looked for: {tmp_path}/sets/lvis/lvis_v1_val.json",
        "https://dl.fbaipublicfiles.com/LVIS/lvis_v1_val.json.zip",
        "DETECTRON2_DATASETS = ~/sets",
    ):
        assert text in run.stdout, run.stdout + run.stderr


def test_names_that_are_not_there(small, register):
    with pytest.raises(ValueError, match="'coco_2017_vall'; did you mean coco_2017_val"):
        COCOEvaluator("coco_2017_vall")
    name, path = register(small)
    path.unlink()
    with pytest.raises(UserError, match=f"the dataset {name} is not there"):
        COCOEvaluator(name)


def test_metadata_of_another_json(small, register):
    name, _ = register(small)
    MetadataCatalog.get(name).thing_dataset_id_to_contiguous_id = {3: 0, 8: 1}
    with pytest.raises(AnnotationError, match="in one of the two only: 7, 8"):
        COCOEvaluator(name)


def test_equal_class_names_stay_apart(small, register, detections, feed):
    small["categories"][0]["name"] = "cat"
    name, path = register(small)
    found = feed(COCOEvaluator(name), detections(path).perfect()).evaluate()
    assert found["bbox"]["AP-cat (id 3)"] == found["bbox"]["AP-cat (id 7)"] == pytest.approx(100)


def test_a_test_set_has_results_only(small, register, detections, feed, tmp_path, caplog):
    name, path = register(small)
    perfect = list(detections(path).perfect())
    del small["annotations"]
    name, path = register(small)
    evaluator = COCOEvaluator(name, output_dir=str(tmp_path / "out"))
    assert feed(evaluator, perfect).evaluate() == {}
    assert "NOTHING EVALUATED" in caplog.text and "has no annotations" in caplog.text
    assert len(json.loads((tmp_path / "out/coco_instances_results.json").read_text())) == 2


@pytest.fixture
def converted():
    """A dataset of Python only: image ids are strings, as people's own often are."""
    from detectron2.structures import BoxMode

    name = "converted_on_the_fly"
    box = {"bbox": [5, 5, 25, 25], "bbox_mode": BoxMode.XYXY_ABS, "category_id": 1}
    dicts = [
        {"file_name": "a", "image_id": "a", "height": 40, "width": 50, "annotations": [box]},
        {"file_name": "b", "image_id": "b", "height": 40, "width": 50, "annotations": []},
    ]
    DatasetCatalog.register(name, lambda: dicts)
    MetadataCatalog.get(name).set(thing_classes=["cat", "dog"])
    yield name, dicts
    DatasetCatalog.remove(name)
    MetadataCatalog.remove(name)


def test_a_dataset_without_json(converted, make_instances, feed, tmp_path, caplog):
    name, dicts = converted
    with pytest.raises(ValueError, match="say where to with output_dir"):
        COCOEvaluator(name)

    def pairs():
        for d in dicts:
            boxes = [a["bbox"] for a in d["annotations"]]
            found = make_instances(d, boxes, [0.9] * len(boxes), [1] * len(boxes), None)
            yield {"image_id": d["image_id"]}, {"instances": found}

    with caplog.at_level("INFO"):
        found = feed(COCOEvaluator(name, output_dir=str(tmp_path)), pairs()).evaluate()
    assert found["bbox"]["AP"] == found["bbox"]["AP-dog"] == pytest.approx(100)
    assert math.isnan(found["bbox"]["AP-cat"])
    assert "bbox with pycocotools" in caplog.text  # faster-coco-eval takes integer ids only
    with pytest.raises(ValueError, match="integer image ids only: choose library=pycocotools"):
        COCOEvaluator(name, output_dir=str(tmp_path), library="faster-coco-eval")
    # A changed dataset is converted again rather than taken from the old file.
    dicts[1]["annotations"] = dicts[0]["annotations"]
    evaluator = COCOEvaluator(name, output_dir=str(tmp_path))
    assert feed(evaluator, list(pairs())[:1]).evaluate()["bbox"]["AP"] == pytest.approx(50, abs=1)


def test_two_processes_give_the_numbers_of_one(shared_data, detections, feed, tmp_path):
    path = shared_data / "coco/annotations/instances_val2017.json"
    pairs = list(detections(path).perturbed())
    torch.save(pairs, tmp_path / "pairs.pt")
    script = tmp_path / "run.py"
    script.write_text(
        "import json, sys, torch, torch.distributed as dist\n"
        "from rmae_d2.evaluation import COCOEvaluator\n"
        "rank, world = map(int, sys.argv[1:])\n"
        "if world > 1:\n"
        f"    where = 'file://{tmp_path}/meet'\n"
        "    dist.init_process_group('gloo', init_method=where, rank=rank, world_size=world)\n"
        f"pairs = torch.load('{tmp_path}/pairs.pt', weights_only=False)[rank::world]\n"
        f"e = COCOEvaluator('coco_2017_val', output_dir='{tmp_path}/out%d' % world)\n"
        "e.reset()\n"
        "for sample, output in pairs: e.process([sample], [output])\n"
        "print(json.dumps(e.evaluate()))\n"
    )
    env = {**os.environ, "DETECTRON2_DATASETS": str(shared_data), "OMP_NUM_THREADS": "1"}
    answers = {}
    for world in (1, 2):
        runs = [
            subprocess.Popen(
                [sys.executable, str(script), str(rank), str(world)],
                env=env,
                stdout=subprocess.PIPE,
                text=True,
            )
            for rank in range(world)
        ]
        answers[world] = [json.loads(run.communicate(timeout=120)[0]) for run in runs]
    assert answers[2][1] == {}
    assert answers[2][0].keys() == answers[1][0].keys() == {"bbox", "segm"}
    for task, values in answers[1][0].items():
        assert answers[2][0][task] == pytest.approx(values, abs=1e-9, nan_ok=True)
