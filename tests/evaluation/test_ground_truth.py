"""Jsons and data sets that cannot be evaluated on are refused; the message says what is wrong."""

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


@pytest.mark.parametrize(
    ("change", "says"),
    [
        (lambda c: c | {"categories": []}, "needs a list 'categories'"),
        (_change("annotations", 1, category_id=5), "'categories' does not list: '5'"),
        (
            _change("annotations", 1, bbox=[1, 2, 3], segmentation=[]),
            "annotation '2': bbox '.1, 2, 3.'",
        ),
        (_change("images", 1, height=None), "image '20': height 'null'"),
    ],
)
def test_jsons_that_cannot_be_used(small, register, change, says):
    """Checked when the evaluator is made, so before a training that ends with it."""
    name, path = register(change(small))
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
    with pytest.raises(AnnotationError, match="image '10' has no neg_category_ids.*rules=coco"):
        load_ground_truth(register(small)[0], None, lvis=True)
    for image in small["images"]:
        image |= {"neg_category_ids": [], "not_exhaustive_category_ids": []}
    for category in small["categories"]:
        category["frequency"] = "x"
    with pytest.raises(AnnotationError, match="category 3 has the frequency '\"x\"'"):
        load_ground_truth(register(small)[0], None, lvis=True)
    for category in small["categories"]:
        category["frequency"] = "r"
    small["annotations"][1]["iscrowd"] = 1
    with pytest.raises(
        AnnotationError, match="of image '20', such as 2, have 'ignore' or 'iscrowd'"
    ):
        load_ground_truth(register(small)[0], None, lvis=True)
