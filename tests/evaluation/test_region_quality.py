"""Overlap and recall of regions, against their definitions and pycocotools."""

import contextlib
import io

import numpy as np
import pycocotools.mask as mask_util
import pytest
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

from rmae_d2.errors import UserError
from rmae_d2.evaluation.region_quality import RegionQuality, encoded
from rmae_d2.regions import RegionRecord

SIZE = (40, 50)


def rectangle(y, x, h, w):
    mask = np.zeros(SIZE, bool)
    mask[y : y + h, x : x + w] = True
    return mask


def rle(mask):
    return mask_util.encode(np.asfortranarray(mask, np.uint8))


def test_regions_of_a_record_are_the_largest_first():
    labels = np.zeros((1, *SIZE), np.uint8)
    labels[0, :5] = 1
    masks = np.stack([rectangle(0, 0, 30, 30), rectangle(3, 4, 2, 2)])
    bits = RegionRecord.from_masks(masks).mask_bits
    found, areas = encoded(RegionRecord(labels, bits, 2))
    assert areas.tolist() == [35 * 50, 900, 250, 4]
    np.testing.assert_array_equal(mask_util.decode(found[1]), masks[0])
    np.testing.assert_array_equal(mask_util.decode(found[2]), labels[0])


def test_a_case_by_hand():
    quality = RegionQuality()
    truth = [rectangle(0, 0, 10, 10), rectangle(20, 20, 10, 20)]
    # 80 of 100 pixels; half of the second, and a part of it with as much beside it, a third.
    regions = [rectangle(0, 0, 10, 8), rectangle(20, 20, 5, 20), rectangle(20, 10, 10, 20)]
    quality.process([rle(m) for m in regions], [1, 2, 3], [rle(m) for m in truth])
    quality.process([], [], [rle(rectangle(1, 1, 3, 3))])
    found = quality.evaluate()
    assert (found["images"], found["instances"], found["regions"]) == (2, 3, 1.5)
    assert found["best_iou"] == pytest.approx((0.8 + 0.5 + 0) / 3)
    assert found["recall_50"] == pytest.approx(2 / 3)
    # 0.8 counts at 7 of 10 thresholds (0.5 to 0.8), 0.5 at one.
    assert found["ar@10"] == found["ar@1000"] == pytest.approx((7 + 1) / 30)


@pytest.mark.parametrize("seed", range(3))
def test_recall_is_pycocotools(seed):
    """Many regions of random scores, so that 10 and 100 differ; by COCOeval with useCats=0."""
    rng = np.random.default_rng(seed)
    quality = RegionQuality()
    images, annotations, results = [], [], []
    for image in (1, 2, 3):
        truth = [rectangle(*rng.integers(0, 20, 2), *rng.integers(4, 20, 2)) for _ in range(4)]
        near = [np.roll(truth[i % 4], rng.integers(-2, 3, 2), (0, 1)) for i in range(150)]
        scores = rng.random(150)
        quality.process([rle(m) for m in near], scores, [rle(m) for m in truth])
        images.append({"id": image, "height": SIZE[0], "width": SIZE[1]})
        for mask in truth:
            annotation = {"id": len(annotations) + 1, "image_id": image, "category_id": 1}
            annotation |= {"segmentation": rle(mask), "area": int(mask.sum()), "iscrowd": 0}
            annotations.append({**annotation, "bbox": list(mask_util.toBbox(rle(mask)))})
        results += [
            {"image_id": image, "category_id": 1, "segmentation": rle(m), "score": s}
            for m, s in zip(near, scores, strict=True)
        ]
    with contextlib.redirect_stdout(io.StringIO()):
        coco = COCO()
        coco.dataset = {"images": images, "annotations": annotations, "categories": [{"id": 1}]}
        coco.createIndex()
        theirs = COCOeval(coco, coco.loadRes(results), "segm")
        theirs.params.useCats, theirs.params.maxDets = 0, [10, 100, 1000]
        theirs.evaluate()
        theirs.accumulate()
    recall = theirs.eval["recall"][:, 0, 0].mean(axis=0)
    found = quality.evaluate()
    np.testing.assert_allclose([found[f"ar@{n}"] for n in (10, 100, 1000)], recall)
    assert found["ar@10"] < found["ar@100"] < found["ar@1000"]


def test_no_instances():
    quality = RegionQuality()
    quality.process([rle(rectangle(0, 0, 3, 3))], [1], [])
    with pytest.raises(UserError, match="no instances with masks"):
        quality.evaluate()


def test_no_regions_at_all():
    quality = RegionQuality()
    quality.process([], [], [rle(rectangle(0, 0, 3, 3))])
    found = quality.evaluate()
    assert (found["regions"], found["best_iou"], found["ar@1000"]) == (0, 0, 0)
