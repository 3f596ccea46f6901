"""Jsons and data sets that cannot be evaluated on are refused; the message says what is wrong."""

import gzip
import math
import os
import subprocess
import sys

import pytest
from detectron2.data import MetadataCatalog

from rmae_d2.errors import AnnotationError, UserError
from rmae_d2.evaluation.ground_truth import load_ground_truth


def _change(section, index, **values):
    def changed(content):
        content[section][index].update(values)
        return content

    return changed


_TWICE = "1 ids stand more than once in '{}', such as {}"


@pytest.mark.parametrize(
    ("change", "says"),
    [
        (lambda c: [1], "holds a list"),
        (lambda c: c | {"images": 3}, "needs a list 'images', it has annotations, categories"),
        (lambda c: c | {"categories": []}, "needs a list 'categories'"),
        (_change("images", 1, id=10), _TWICE.format("images", 10)),
        (_change("annotations", 1, id=1), _TWICE.format("annotations", 1)),
        (_change("categories", 1, id=7), _TWICE.format("categories", 7)),
        (_change("annotations", 1, category_id=5), "ids that 'categories' does not list: 5"),
        (_change("annotations", 1, bbox=[1, 2, 3]), "annotation 2 has the bbox"),
        (_change("annotations", 1, bbox=[1, 2, 3, math.nan]), "annotation 2 has the bbox"),
        (_change("images", 1, height=None), "entry 1 of 'images' has no height"),
        (_change("annotations", 0, id=None), "entry 0 of 'annotations' has no id"),
    ],
)
def test_jsons_that_cannot_be_used(small, register, change, says):
    name, path = register(change(small))
    with pytest.raises(AnnotationError, match=says) as error:
        load_ground_truth(name, None)
    assert str(path) in str(error.value)


_CUT = r"is cut off \([\d,]+ bytes; .*download, copy or unpack it again"


@pytest.mark.parametrize(
    ("damage", "says"),
    [
        (lambda raw: raw[:1], _CUT),
        (lambda raw: raw[: len(raw) // 3], _CUT),
        (lambda raw: raw[:-2], _CUT),
        (lambda raw: b"", "is cut off"),
        (lambda raw: b"<html>Not found</html>", "is not JSON"),
        (gzip.compress, "is not text .*archive that has to be unpacked"),
    ],
)
def test_files_that_are_no_json(small, register, damage, says):
    name, path = register(small)
    path.write_bytes(damage(path.read_bytes()))
    with pytest.raises(AnnotationError, match=says) as error:
        load_ground_truth(name, None)
    assert str(path) in str(error.value)


def test_missing_files_say_where_from(tmp_path):
    code = (
        "from rmae_d2.evaluation import DetectionEvaluator\n"
        "for rules, name in (('coco', 'coco_2017_val'), ('lvis', 'lvis_v1_val')):\n"
        "    try: DetectionEvaluator(name, rules=rules)\n"
        "    except ValueError as error: print(error)\n"
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
    with pytest.raises(ValueError, match="'coco_2017_vall': did you mean coco_2017_val"):
        load_ground_truth("coco_2017_vall", None)
    name, path = register(small)
    path.unlink()
    with pytest.raises(UserError, match=f"the dataset {name} is not there"):
        load_ground_truth(name, None)


def test_metadata_of_another_json(small, register):
    name, _ = register(small)
    MetadataCatalog.get(name).thing_dataset_id_to_contiguous_id = {3: 0, 8: 1}
    with pytest.raises(AnnotationError, match="in one of the two only: 7, 8"):
        load_ground_truth(name, None)


def test_other_formats_are_refused(small, register):
    with pytest.raises(AnnotationError, match="10 of 'images' has no neg_category_ids.*rules=coco"):
        load_ground_truth(register(small)[0], None, lvis=True)
    for image in small["images"]:
        image |= {"neg_category_ids": [], "not_exhaustive_category_ids": []}
    for category in small["categories"]:
        category["frequency"] = "x"
    with pytest.raises(AnnotationError, match="frequency must be r, c or f, not x"):
        load_ground_truth(register(small)[0], None, lvis=True)
    for category in small["categories"]:
        category["frequency"] = "r"
    small["annotations"][1]["iscrowd"] = 1
    with pytest.raises(AnnotationError, match="annotations, such as 2, have 'ignore' or 'iscrowd'"):
        load_ground_truth(register(small)[0], None, lvis=True)
