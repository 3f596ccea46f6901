"""What the evaluator checks, says and writes beside the numbers; data that are not as they should be."""

import csv
import json
import math
import subprocess
import sys

import numpy as np
import pytest
import torch
from detectron2.config import LazyCall as L
from detectron2.config import instantiate
from detectron2.data import DatasetCatalog, MetadataCatalog
from detectron2.evaluation import print_csv_format
from detectron2.evaluation.testing import flatten_results_dict
from detectron2.structures import BoxMode
from PIL import Image
from pycocotools import mask as mask_util

from rmae_d2.errors import AnnotationError, UserError
from rmae_d2.evaluation import DetectionEvaluator
from rmae_d2.evaluation.detection import LVISEvaluator


def test_lazy_config_results_and_files(small, register, detections, feed, tmp_path, caplog):
    name, path = register(small)
    out = tmp_path / "inference"
    config = L(DetectionEvaluator)(
        dataset_name=name, tasks=["segm", "bbox"], output_dir=str(out), max_dets_per_image=100
    )
    with caplog.at_level("INFO"):
        found = feed(instantiate(config), detections(path).perfect()).evaluate()
        print_csv_format(found)
    assert list(found) == ["segm", "bbox"]
    assert list(found["bbox"]) == [
        *("AP", "AP50", "AP75", "APs", "APm", "APl", "AR@1", "AR@10", "AR@100"),
        *("ARs@100", "ARm@100", "ARl@100", "AP-cat", "AP-dog"),
    ]
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
    for text in ("bbox by the rules of COCO with faster-coco-eval ", "| large "):
        assert text in caplog.text
    assert "| dog        |           1 | 100.00 |" in caplog.text


@pytest.mark.parametrize("most", [1, 3, 200])
def test_the_limit_of_detections(small, register, detections, feed, most):
    name, path = register(small)
    evaluator = DetectionEvaluator(name, max_dets_per_image=most)
    found = feed(evaluator, detections(path).perfect()).evaluate()["bbox"]
    limits = [key for key in found if key.startswith("AR@")]
    assert limits == [f"AR@{m}" for m in (1, 10) if m < most] + [f"AR@{most}"]


@pytest.mark.parametrize("with_masks", [True, False])
def test_nothing_detected_is_zero(small, register, make_instances, feed, caplog, with_masks):
    name, _ = register(small)
    masks = [] if with_masks else None
    pairs = [
        ({"image_id": image["id"]}, {"instances": make_instances(image, [], [], [], masks)})
        for image in small["images"]
    ]
    found = feed(DetectionEvaluator(name), pairs).evaluate()
    assert "detects nothing in any of them: AP is 0" in caplog.text
    assert list(found) == (["bbox", "segm"] if with_masks else ["bbox"])
    for values in found.values():
        assert values["AP"] == values["AR@100"] == values["AP-cat"] == values["APs"] == 0
        assert math.isnan(values["APl"])  # there is no large instance
    assert feed(DetectionEvaluator(name), []).evaluate() == {}
    assert "NOTHING EVALUATED: no image was predicted" in caplog.text


def test_images_twice_or_never(small, register, detections, feed, caplog):
    name, path = register(small)
    perfect = list(detections(path).perfect())
    found = feed(DetectionEvaluator(name), [*perfect, *perfect[::-1]]).evaluate()
    assert found["bbox"]["AP"] == pytest.approx(100)
    assert "2 images were predicted more than once, such as 10, 20" in caplog.text
    assert "PARTIAL" not in caplog.text
    found = feed(DetectionEvaluator(name), perfect[:1]).evaluate()
    assert found["segm"]["AP"] == pytest.approx(50)
    assert "PARTIAL EVALUATION: 1 of 2 images" in caplog.text


def test_detections_that_do_not_belong(small, register, detections, make_instances, feed):
    name, path = register(small)
    image = small["images"][0]

    def check(message, image_id=10, box=(1, 1, 5, 5), score=1.0, number=0, shape=(40, 50)):
        shown = {**image, "height": shape[0], "width": shape[1]}
        found = make_instances(shown, [box], [score], [number], np.ones((1, *shape)))
        pair = ({"image_id": image_id}, {"instances": found})
        with pytest.raises(UserError, match=message):
            feed(DetectionEvaluator(name), [pair]).evaluate()

    check(r"1 of 1 predicted images are not in .*own_\d+.json, such as the ids 999", image_id=999)
    check("predicts class 2, .* has 2 .0 to 1.: is model.roi_heads.num_classes right", number=2)
    check("not finite: has the training diverged", score=float("nan"))
    check("not finite", box=(1, 1, float("inf"), 5))
    check(r"mask is \(50, 40\) \(height, width\), .* says \(40, 50\)", shape=(50, 40))
    with pytest.raises(UserError, match="needs the output 'instances', .* gives sem_seg"):
        DetectionEvaluator(name).process([{"image_id": 10}], [{"sem_seg": None}])
    boxes_only = detections(path).perfect(with_masks=False)
    with pytest.raises(UserError, match="segm needs masks, and the model predicts boxes"):
        feed(DetectionEvaluator(name, "segm"), boxes_only).evaluate()
    for arguments, message in (
        ({"tasks": ("keypoints",)}, "keypoints.*choose from bbox, segm, boundary"),
        ({"rules": "voc"}, "rules='voc': choose from coco, lvis"),
        ({"max_dets_per_image": 0}, "max_dets_per_image=0 must be at least 1"),
    ):
        with pytest.raises(UserError, match=message):
            DetectionEvaluator(name, **arguments)


def test_boxes_without_masks(small, register, detections, feed, caplog):
    """Own data: neither masks, areas nor crowd flags."""
    for annotation in small["annotations"]:
        for key in ("segmentation", "area", "iscrowd"):
            del annotation[key]
    name, path = register(small)
    reader = detections(path)
    reader.coco.annToMask = lambda a: np.zeros((40, 50) if a["image_id"] == 10 else (30, 60))
    found = feed(DetectionEvaluator(name), reader.perfect()).evaluate()
    assert list(found) == ["bbox"] and found["bbox"]["AP"] == pytest.approx(100)
    assert "has no masks: segm is not evaluated" in caplog.text
    assert (
        "annotations without `area`, that of the mask, else of the box is taken: 2, such as 1, 2"
        in caplog.text
    )
    with pytest.raises(UserError, match="has boxes only: .*tasks=.bbox."):
        DetectionEvaluator(name, "segm")


def test_odd_annotations(small, register, square, detections, feed, caplog):
    """Polygons of two points, boxes without area, a crowd alone, no annotation at all, id 0."""
    two_points = square(3, 20, 7, [30, 5, 10, 10])
    two_points["segmentation"] = [[30, 5, 10, 10]]  # the libraries themselves fail
    flat = square(4, 20, 7, [5, 20, 10, 0])
    crowd = square(0, 30, 3, [0, 0, 30, 30], iscrowd=1)
    unlisted = square(5, 999, 3, [0, 0, 30, 30])
    small["annotations"] += [two_points, flat, crowd, unlisted]
    small["images"] += [
        {"id": i, "file_name": f"{i}.jpg", "height": 40, "width": 40} for i in (30, 40)
    ]
    name, path = register(small)
    reader = detections(path)
    reader.coco.anns[3]["segmentation"] = square(3, 20, 7, [30, 5, 10, 10])["segmentation"]
    found = feed(DetectionEvaluator(name), reader.perfect()).evaluate()
    assert "annotations whose box and mask have no area, left out: 1, such as 4" in caplog.text
    assert "annotations of images that it does not list, left out: 1, such as 5" in caplog.text
    assert "1 of 4 annotations have no mask" in caplog.text
    assert found["bbox"]["AP-cat"] == found["segm"]["AP-cat"] == pytest.approx(100)
    assert found["bbox"]["AP-dog"] == pytest.approx(100)


def test_rle_ground_truth(small, register, detections, feed):
    """Compressed and uncompressed RLE count as the polygon does; one of another size is refused."""
    name, path = register(small)
    reader = detections(path)
    rle = reader.coco.annToRLE(reader.coco.anns[1])
    flat = mask_util.decode(rle).flatten(order="F")
    edges = np.flatnonzero(np.diff(np.concatenate([[0], flat, [0]])))
    counts = np.diff(np.concatenate([[0], edges, [flat.size]]))
    for form in (rle["counts"].decode(), [int(c) for c in counts]):
        small["annotations"][0]["segmentation"] = {"size": rle["size"], "counts": form}
        name, path = register(small)
        found = feed(DetectionEvaluator(name), detections(path).perfect()).evaluate()
        assert found["segm"]["AP"] == pytest.approx(100)
    small["annotations"][0]["segmentation"]["size"] = [50, 40]
    with pytest.raises(AnnotationError, match=r"annotation '1': .*'\[50, 40\]'.*is \[40, 50\]"):
        DetectionEvaluator(register(small)[0])


def test_equal_class_names_stay_apart(small, register, detections, feed):
    small["categories"][0]["name"] = "cat"
    name, path = register(small)
    found = feed(DetectionEvaluator(name), detections(path).perfect()).evaluate()
    assert found["bbox"]["AP-cat (id 3)"] == found["bbox"]["AP-cat (id 7)"] == pytest.approx(100)


def test_a_test_set_has_results_only(small, register, detections, feed, tmp_path, caplog):
    name, path = register(small)
    perfect = list(detections(path).perfect())
    del small["annotations"]
    name, path = register(small)
    evaluator = DetectionEvaluator(name, output_dir=str(tmp_path / "out"))
    assert feed(evaluator, perfect).evaluate() == {}
    assert "NOTHING EVALUATED" in caplog.text and "has no annotations" in caplog.text
    assert len(json.loads((tmp_path / "out/coco_instances_results.json").read_text())) == 2


@pytest.fixture
def converted():
    """A dataset of Python only: image ids are strings, as people's own often are."""
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


def test_a_dataset_without_json(converted, make_instances, feed, tmp_path):
    name, dicts = converted
    with pytest.raises(ValueError, match="say where to with output_dir"):
        DetectionEvaluator(name)

    def pairs():
        for d in dicts:
            boxes = [a["bbox"] for a in d["annotations"]]
            found = make_instances(d, boxes, [0.9] * len(boxes), [1] * len(boxes), None)
            yield {"image_id": d["image_id"]}, {"instances": found}

    found = feed(DetectionEvaluator(name, output_dir=str(tmp_path)), pairs()).evaluate()
    assert found["bbox"]["AP"] == found["bbox"]["AP-dog"] == pytest.approx(100)
    assert math.isnan(found["bbox"]["AP-cat"])
    # A changed dataset is converted again rather than taken from the old file.
    dicts[1]["annotations"] = dicts[0]["annotations"]
    evaluator = DetectionEvaluator(name, output_dir=str(tmp_path))
    assert feed(evaluator, list(pairs())[:1]).evaluate()["bbox"]["AP"] == pytest.approx(50, abs=1)


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
    for case, (boxes, classes, boxes2, classes2, expected) in cases.items():
        scores, scores2 = [0.9, 0.95][: len(boxes)], [0.9, 0.8, 0.7][: len(boxes2)]
        pairs = [
            (first, make_instances(first, boxes, scores, classes, None)),
            (second, make_instances(second, boxes2, scores2, classes2, None)),
        ]
        evaluator = LVISEvaluator(name)  # as config.yaml files of 0.1 call it
        feed(evaluator, [({"image_id": i["id"]}, {"instances": x}) for i, x in pairs])
        found = evaluator.evaluate()["bbox"]
        aps = [found[key] for key in ("APr", "APc", "APf")]
        assert aps == pytest.approx(expected), case


def test_two_processes_give_the_numbers_of_one(drawn, register, detections, feed, tmp_path):
    _, path = register(drawn("coco"))
    pairs = list(detections(path).perturbed())
    torch.save(pairs, tmp_path / "pairs.pt")
    alone = feed(DetectionEvaluator("", json=str(path)), pairs).evaluate()
    code = (
        "import json, sys, torch, torch.distributed as dist\n"
        "from rmae_d2.evaluation import DetectionEvaluator\n"
        "rank = int(sys.argv[1])\n"
        f"where = 'file://{tmp_path}/meet'\n"
        "dist.init_process_group('gloo', init_method=where, rank=rank, world_size=2)\n"
        f"pairs = torch.load('{tmp_path}/pairs.pt', weights_only=False)[rank::2]\n"
        f"e = DetectionEvaluator('', json='{path}')\n"
        "for sample, output in pairs: e.process([sample], [output])\n"
        "print(json.dumps(e.evaluate()))\n"
    )
    runs = [
        subprocess.Popen([sys.executable, "-c", code, str(rank)], stdout=subprocess.PIPE, text=True)
        for rank in range(2)
    ]
    first, second = (json.loads(run.communicate()[0]) for run in runs)
    assert second == {} and first.keys() == alone.keys() == {"bbox", "segm"}
    for task, values in alone.items():
        assert first[task] == pytest.approx(values, abs=1e-9, nan_ok=True)


def test_own_data_in_another_format(tmp_path, make_instances, feed):
    """YOLO's: image ids are paths, classes of both images count, one of two objects is found."""
    for name, line in (("a", "1 0.5 0.5 0.2 0.4"), ("b", "0 0.25 0.5 0.1 0.2")):
        for folder in ("images", "labels"):
            (tmp_path / folder).mkdir(exist_ok=True)
        Image.new("RGB", (100, 80)).save(tmp_path / f"images/{name}.jpg")
        (tmp_path / f"labels/{name}.txt").write_text(line)
    (tmp_path / "data.yaml").write_text("val: images\nnames: [cat, dog]")
    size = {"height": 80, "width": 100}
    pairs = [
        ({"image_id": f"images/{name}.jpg"}, {"instances": make_instances(size, *found, None)})
        for name, found in {"a": ([[40, 24, 60, 56]], [0.9], [1]), "b": ([], [], [])}.items()
    ]
    evaluator = DetectionEvaluator(
        "", "bbox", output_dir=str(tmp_path / "out"), json=f"{tmp_path}#val"
    )
    found = feed(evaluator, pairs).evaluate()["bbox"]
    assert (found["AP-dog"], found["AP-cat"]) == pytest.approx((100, 0))
    (result,) = json.loads((tmp_path / "out/coco_instances_results.json").read_text())
    assert (result["image_id"], result["category_id"]) == ("images/a.jpg", 1)
