"""Configs follow the data: classes, masks, what is evaluated. The jsons are real files, small ones."""

import functools
import json

import pytest
from detectron2.config import instantiate
from detectron2.data import MetadataCatalog
from omegaconf import OmegaConf

from rmae_d2.config import ConfigError, apply_overrides, get_config, save_config
from rmae_d2.data.datasets import AnnotationError, DatasetMissingError
from rmae_d2.engine.own_data import adapt_to_data

MASK_RCNN = "coco/mask_rcnn_vitdet_b_1x_small.py"
CASCADE = "coco/cascade_mask_rcnn_vitdet_b_100ep.py"
LVIS = "lvis/mask_rcnn_vitdet_b_100ep.py"
LVIS_CASCADE = "lvis/cascade_mask_rcnn_vitdet_b_100ep.py"
POLYGON = [[1, 1, 9, 1, 9, 9]]
RLE = {"size": [20, 30], "counts": [0, 20, 580]}


@pytest.fixture
def write(tmp_path):
    """Writes a json of some classes; each has one instance, on an image of its own."""

    def write(name, classes=("cat", "dog", "bird"), mask=POLYGON, crowd_mask=None):
        annotations = [
            {"id": i + 1, "image_id": i, "category_id": 10 * i + 7, "bbox": [1, 1, 8, 8]}
            | ({"segmentation": mask} if mask else {})
            | {"iscrowd": 0, "area": 32}
            for i in range(len(classes))
        ]
        if crowd_mask:
            annotations[0] |= {"iscrowd": 1, "segmentation": crowd_mask}
        path = tmp_path / name
        path.write_text(
            json.dumps(
                {
                    "images": [
                        {"id": i, "file_name": f"{i}.png", "height": 20, "width": 30}
                        for i in range(len(classes))
                    ],
                    "categories": [{"id": 10 * i + 7, "name": c} for i, c in enumerate(classes)],
                    "annotations": annotations,
                }
            )
        )
        return str(path)

    return write


recipe = functools.cache(get_config)  # overriding and adapting copy it


def adapt(name, *overrides, eval_only=False):
    return adapt_to_data(apply_overrides(recipe(name), overrides), overrides, eval_only=eval_only)


def train_json(path):
    return f"dataloader.train.dataset.json={path}"


def test_json(path):
    return f"dataloader.test.dataset.json={path}"


test_json.__test__ = False


def numbers(cfg):
    """Every resolved num_classes of the model."""
    found = []

    def walk(node):
        if isinstance(node, list):
            for child in node:
                walk(child)
        elif isinstance(node, dict):
            for key, child in node.items():
                found.append(child) if key == "num_classes" else walk(child)

    # All of the config, for the model refers to the rest of it.
    walk(OmegaConf.to_container(cfg, resolve=True)["model"])
    return found


@pytest.mark.parametrize(
    "name, heads", [(MASK_RCNN, 3), (CASCADE, 5), (LVIS, 3), (LVIS_CASCADE, 5)]
)
def test_every_head_has_as_many_classes_as_the_json(name, heads, write, caplog):
    path = write("train.json")
    with caplog.at_level("INFO"):
        cfg = adapt(name, train_json(path), test_json(write("val.json")))
    assert numbers(cfg) == [3] * heads
    assert f"model.roi_heads.num_classes: {recipe(name).model.roi_heads.num_classes} -> 3" in (
        caplog.text
    )
    assert cfg.model.roi_heads.mask_head is not None and cfg.dataloader.train.mapper.recompute_boxes
    assert cfg.train.eval_period == recipe(name).train.eval_period
    # It is a copy, and a second time changes nothing.
    assert numbers(recipe(name)) != numbers(cfg)
    assert adapt_to_data(cfg) == cfg


def test_nothing_changes_for_the_recipes_own_data():
    for name in (MASK_RCNN, CASCADE, LVIS, LVIS_CASCADE, "demo/vitdet_tiny_scenes.py"):
        cfg = recipe(name)
        assert adapt_to_data(cfg) == cfg
        assert adapt_to_data(cfg, eval_only=True) == cfg
    pretraining = recipe("pretrain/rmae_vitb.py")
    assert adapt_to_data(pretraining) is pretraining


def test_registered_data_have_their_classes_too(caplog):
    cfg = adapt("demo/vitdet_tiny_scenes.py", "dataloader.train.dataset.names=coco_2017_train")
    assert numbers(cfg) == [80] * 3
    assert "NO EVALUATION: scenes_val has other classes than coco_2017_train" in caplog.text
    cfg = adapt(MASK_RCNN, "dataloader.test.dataset.names=scenes_val", eval_only=True)
    assert numbers(cfg) == [len(MetadataCatalog.get("scenes_val").thing_classes)] * 3


@pytest.mark.parametrize(
    "override", ["model.roi_heads.num_classes=4", "model.roi_heads={num_classes: 4}"]
)
def test_a_contradicting_number_is_an_error(override, write):
    path = write("train.json")
    with pytest.raises(ConfigError, match=r"num_classes=4 contradicts .*train.json.* 3 classes"):
        adapt(MASK_RCNN, train_json(path), override)
    assert numbers(adapt(MASK_RCNN, train_json(path), override.replace("4", "3"))) == [3] * 3


def test_in_evaluation_the_test_data_count(write):
    path = write("val.json", ["cat", "dog"])
    assert numbers(adapt(MASK_RCNN, test_json(path), eval_only=True)) == [2] * 3
    # The json for training need not be there; where it is, it has the same classes.
    gone = train_json("/nowhere/train.json")
    assert numbers(adapt(MASK_RCNN, gone, test_json(path), eval_only=True)) == [2] * 3
    other = write("train.json")
    with pytest.raises(AnnotationError, match=r"train.json has 3 classes, .*val.json 2"):
        adapt(MASK_RCNN, train_json(other), test_json(path), eval_only=True)
    with pytest.raises(
        ConfigError, match="would evaluate on coco_2017_val.*not those of .*train.json"
    ):
        adapt(MASK_RCNN, train_json(other), eval_only=True)


def test_training_data_without_test_data(write, caplog):
    """COCO's validation images have nothing to say of other classes."""
    cfg = adapt(MASK_RCNN, train_json(write("train.json")))
    assert cfg.train.eval_period == 0 and caplog.text.count("NO EVALUATION") == 1
    # The evaluator stays, for --eval-only with the config that training saves.
    assert "evaluator" in cfg.dataloader
    caplog.clear()
    assert (
        adapt(MASK_RCNN, train_json(write("train.json")), "train.eval_period=0").train.eval_period
        == 0
    )
    assert "NO EVALUATION" not in caplog.text


def test_coco_in_a_file_of_ones_own_is_evaluated(write, caplog):
    coco = MetadataCatalog.get("coco_2017_val").thing_classes
    cfg = adapt(MASK_RCNN, train_json(write("train.json", coco)))
    assert cfg.train.eval_period == 5000 and not caplog.text


def test_test_data_of_other_classes(write):
    val = write("val.json", ["cat", "dog"])
    with pytest.raises(
        AnnotationError, match="List the same 'categories', with the same ids, in both"
    ):
        adapt(MASK_RCNN, train_json(write("train.json")), test_json(val))
    with pytest.raises(
        ConfigError, match="val.json has 2 classes, .* not the 80 of coco_2017_train"
    ):
        adapt(MASK_RCNN, test_json(val))


def test_no_such_json():
    with pytest.raises(DatasetMissingError, match="no annotation file /nowhere/train.json"):
        adapt(MASK_RCNN, train_json("/nowhere/train.json"))


@pytest.mark.parametrize("name", [MASK_RCNN, CASCADE])
def test_boxes_only(name, write, caplog):
    boxes = write("boxes.json", mask=None)
    cfg = adapt(name, train_json(boxes), test_json(boxes))
    assert caplog.text.count("BOXES ONLY: ") == 1 and "boxes.json has no masks" in caplog.text
    heads, mapper = cfg.model.roi_heads, cfg.dataloader.train.mapper
    assert heads.mask_in_features is heads.mask_pooler is heads.mask_head is None
    assert not mapper.use_instance_mask and not mapper.recompute_boxes
    assert cfg.dataloader.train.dataset.masks is cfg.dataloader.test.dataset.masks is False
    assert adapt_to_data(cfg) == cfg
    wanted = adapt(name, "dataloader.train.dataset.masks=false")  # of data that have some
    assert wanted.model.roi_heads.mask_head is None
    evaluated = adapt(name, test_json(boxes), eval_only=True)
    assert evaluated.model.roi_heads.mask_head is None
    # A model that was trained on boxes has no mask head, whatever it is evaluated on.
    evaluated = adapt(name, train_json(boxes), test_json(write("val.json")), eval_only=True)
    assert evaluated.model.roi_heads.mask_head is None


def test_masks_in_training_and_boxes_in_testing(write):
    boxes = write("val.json", mask=None)
    cfg = adapt(MASK_RCNN, train_json(write("train.json")), test_json(boxes))
    assert cfg.model.roi_heads.mask_head is not None
    assert cfg.dataloader.test.dataset.masks is False


def test_rle_is_loaded_as_bitmasks(write):
    def format_of(path):
        mapper = adapt(MASK_RCNN, train_json(path)).dataloader.train.mapper
        return mapper.get("instance_mask_format", "polygon")

    assert format_of(write("rle.json", mask=RLE)) == "bitmask"
    assert format_of(write("polygons.json")) == "polygon"
    assert format_of(write("crowds.json", crowd_mask=RLE)) == "polygon"  # crowds are not learnt


@pytest.mark.parametrize("name", [LVIS, LVIS_CASCADE])
def test_the_federated_loss_draws_from_the_data_at_hand(name, write):
    path = write("train.json")
    cfg = adapt(name, train_json(path), test_json(write("val.json")))
    for eval_only in (False, True):
        cfg = adapt(name, train_json(path), test_json(write("val.json")), eval_only=eval_only)
        heads = cfg.model.roi_heads
        for predictor in (
            [heads.box_predictor] if "box_predictor" in heads else heads.box_predictors
        ):
            assert predictor.fed_loss_num_classes == 3
            weights = instantiate(predictor.get_fed_loss_cls_weights)
            assert weights().tolist() == [1, 1, 1]


def test_an_adapted_config_is_saved_whole(write, tmp_path):
    for path in (write("boxes.json", mask=None), write("rle.json", mask=RLE)):
        save_config(adapt(LVIS, train_json(path)), tmp_path / "config.yaml")


def test_real_annotations(shared_data):
    """The subset's jsons list all of COCO's classes, LVIS's all of LVIS's."""
    coco = shared_data / "coco/annotations"
    cfg = adapt(
        MASK_RCNN,
        train_json(coco / "instances_train2017.json"),
        test_json(coco / "instances_val2017.json"),
    )
    assert numbers(cfg) == [80] * 3 and "instance_mask_format" not in cfg.dataloader.train.mapper
    lvis = adapt(MASK_RCNN, train_json(shared_data / "lvis/lvis_v1_train.json"))
    assert numbers(lvis) == [1203] * 3
