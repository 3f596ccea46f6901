import json

import pytest
from detectron2.data import DatasetCatalog, MetadataCatalog
from omegaconf import OmegaConf

from rmae_d2.config import get_config
from rmae_d2.errors import UserError
from rmae_d2.evaluation.classes import classes_of
from rmae_d2.evaluation.ground_truth import load_ground_truth


def config(**dataset):
    return OmegaConf.create({"dataloader": {"test": {"dataset": dataset}}})


def test_coco_has_gaps_and_needs_no_file():
    classes = classes_of(get_config("demo/vitdet_tiny_coco.py"))
    assert len(classes.names) == len(classes.category_ids) == 80
    assert (classes.names[0], classes.category_ids[0]) == ("person", 1)
    assert (classes.names[79], classes.category_ids[79]) == ("toothbrush", 90)
    assert classes.categories[11] == {"id": 13, "name": "stop sign"}


def test_lvis_counts_from_one_and_needs_no_file():
    classes = classes_of(config(names="lvis_v1_val"))
    assert classes.category_ids == tuple(range(1, 1204))
    assert classes.names[0] == "aerosol_can" and classes.names[-1] == "zucchini"


def test_own_json_in_the_order_of_its_ids(small, tmp_path):
    path = tmp_path / "own.json"
    path.write_text(json.dumps(small))
    classes = classes_of(config(names="coco_2017_val", json=str(path)))
    assert classes.names == ("cat", "dog") and classes.category_ids == (3, 7)


def test_registered_json_as_evaluation_reads_it(small, register):
    name, _ = register(small)
    classes = classes_of(config(names=[name]))
    truth = load_ground_truth(name, None)
    assert dict(enumerate(classes.category_ids)) == truth.classes
    assert list(classes.names) == truth.names
    DatasetCatalog.get(name)  # loads, and then knows the mapping
    again = classes_of(config(names=name))
    assert (again.names, again.category_ids) == (classes.names, classes.category_ids)


def test_the_evaluators_name_where_the_loader_has_none():
    cfg = OmegaConf.create({"dataloader": {"evaluator": {"dataset_name": "coco_2017_val"}}})
    assert len(classes_of(cfg).names) == 80


def test_names_without_their_json_stand_with_class_numbers(small, register, caplog):
    name, path = register(small)
    MetadataCatalog.get(name).thing_classes = ["cat", "dog"]
    path.unlink()
    classes = classes_of(config(names=name))
    assert classes.names == ("cat", "dog") and classes.category_ids == (0, 1)
    assert str(path) in caplog.text and "class numbers, 0 to 1, stand for them" in caplog.text


@pytest.mark.parametrize(
    ("cfg", "says"),
    [
        ({}, "does not say which classes"),
        (config(names="coco_2018"), "'coco_2018'"),
        (config(json="/no/own.json"), "/no/own.json"),
    ],
)
def test_unknown(cfg, says):
    with pytest.raises(UserError, match=says):
        classes_of(OmegaConf.create(cfg))


def test_no_names_and_no_json(small, register):
    name, path = register(small)
    path.unlink()
    with pytest.raises(UserError, match=f"the classes of {name} are not known"):
        classes_of(config(names=name))
