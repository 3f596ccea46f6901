"""Configs follow the data: classes, masks, what is evaluated. Jsons and folders are real ones, small."""

import functools
import json

import pytest
from detectron2.config import instantiate
from detectron2.data import MetadataCatalog
from omegaconf import OmegaConf
from PIL import Image

from rmae_d2.config import apply_overrides, get_config, load_config, save_config
from rmae_d2.data.recipes.own_data import adapt_to_data, data_name, naming
from rmae_d2.errors import AnnotationError, UserError
from tests.releases import registered_at, write_cars, write_cub, write_inaturalist

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
        fixed = {"bbox": [1, 1, 8, 8], "iscrowd": 0, "area": 32}
        fixed |= {"segmentation": mask} if mask else {}
        content = {"images": [], "categories": [], "annotations": []}
        for i, c in enumerate(classes):
            image = {"id": i, "file_name": f"{i}.png", "height": 20, "width": 30}
            content["images"].append(image)
            content["categories"].append({"id": 10 * i + 7, "name": c})
            instance = {"id": i + 1, "image_id": i, "category_id": 10 * i + 7, **fixed}
            content["annotations"].append(instance)
        if crowd_mask:
            content["annotations"][0] |= {"iscrowd": 1, "segmentation": crowd_mask}
        (tmp_path / name).write_text(json.dumps(content))
        return str(tmp_path / name)

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
    for eval_only in (False, True):
        assert adapt_to_data(pretraining, eval_only=eval_only) == pretraining


DEMO = "demo/rmae_tiny_scenes.py"
OWN_PHOTOS = "dataloader.train.dataset.root=/photos"


def held_out(cfg):
    return [cfg.dataloader[split].dataset.get("held_out") for split in ("train", "test")]


@pytest.mark.parametrize("eval_only", [False, True])
def test_pretraining_on_own_photos_is_evaluated_on_some_of_them(eval_only, tmp_path, caplog):
    with caplog.at_level("INFO"):
        cfg = adapt(DEMO, OWN_PHOTOS, eval_only=eval_only)
    assert cfg.dataloader.test.dataset.root == "/photos" and held_out(cfg) == [False, True]
    assert data_name(cfg, "dataloader.test") == "/photos (held out)"
    (said,) = [line for line in caplog.messages if "evaluation follows" in line]
    assert "a tenth of /photos" in said and ("has trained on" in said) == eval_only
    # A saved config says so itself, and a second time changes nothing.
    save_config(cfg, tmp_path / "config.yaml")
    again = load_config(tmp_path / "config.yaml")
    assert adapt_to_data(again) == again and held_out(again) == [False, True]
    assert adapt_to_data(again, eval_only=True) == again


def test_test_data_that_are_given_are_kept(tmp_path):
    cfg = adapt(DEMO, OWN_PHOTOS, "dataloader.test.dataset.root=/others")
    assert held_out(cfg) == [None, None]
    assert data_name(cfg, "dataloader.test") == "/others"
    cfg = adapt(DEMO, OWN_PHOTOS, "dataloader.test.dataset.names=[scenes_val]")
    save_config(cfg, tmp_path / "config.yaml")
    again = adapt_to_data(load_config(tmp_path / "config.yaml"), eval_only=True)
    assert held_out(again) == [None, None]
    assert data_name(again, "dataloader.test") == "scenes_val"


def test_without_evaluation_all_photos_are_trained_on():
    assert held_out(adapt(DEMO, OWN_PHOTOS, "train.eval_period=0")) == [None, None]


def test_names_are_evaluated_on_their_validation_part():
    cfg = adapt(DEMO, "dataloader.train.dataset.names=[coco_2017_train]")
    assert data_name(cfg, "dataloader.test") == "coco_2017_val" and held_out(cfg) == [None, None]
    cfg = adapt(DEMO, "dataloader.train.dataset.names=[coco_2017_unlabeled]")
    assert data_name(cfg, "dataloader.test") == "coco_2017_unlabeled (held out)"
    assert held_out(cfg) == [False, True]


def test_regions_of_held_out_photos_are_those_of_training():
    json = "dataloader.train.mapper.regions.json_file=/photos.json"
    cfg = adapt("demo/automae_vitt_scenes.py", OWN_PHOTOS, json)
    assert cfg.dataloader.test.mapper.regions.json_file == "/photos.json"


def test_names_of_data():
    for name, part, expected in [
        ("demo/vitdet_tiny_scenes.py", "dataloader.test", "scenes_val"),
        ("imagenet/linear_vitb.py", "dataloader.test", "imagenet/val"),
        ("imagenet/knn_vitb.py", "dataloader.test", "imagenet/val"),
        (DEMO, "dataloader.knn.loader", "imagenet/val"),
        ("ade20k/upernet_vitb_160k.py", "dataloader.test", "ade20k_sem_seg_val"),
        (DEMO, "dataloader.nothing", ""),
    ]:
        assert data_name(recipe(name), part) == expected


def test_hints_name_keys_of_the_part():
    text = "for own data set dataset.json or dataset.root=/x"
    with pytest.raises(UserError) as error, naming("dataloader.test", "or leave it"):
        raise UserError(text)
    assert str(error.value) == (
        "for own data set dataloader.test.dataset.json or dataloader.test.dataset.root=/x\n  or leave it"
    )
    with pytest.raises(UserError, match="^a mydataset.x, a dataset. Then$"), naming("dataloader"):
        raise UserError("a mydataset.x, a dataset. Then")


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
    with pytest.raises(UserError, match=r"num_classes=4 contradicts .*train.json.* 3 classes"):
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
        UserError, match="would evaluate on coco_2017_val.*not those of .*train.json"
    ):
        adapt(MASK_RCNN, train_json(other), eval_only=True)


def test_training_data_without_test_data(write, caplog):
    """COCO's validation images have nothing to say of other classes."""
    cfg = adapt(MASK_RCNN, train_json(write("train.json")))
    assert cfg.train.eval_period == 0 and caplog.text.count("NO EVALUATION") == 1
    # The evaluator stays, for --eval-only with the config that training saves.
    assert "evaluator" in cfg.dataloader
    caplog.clear()
    cfg = adapt(MASK_RCNN, train_json(write("train.json")), "train.eval_period=0")
    assert cfg.train.eval_period == 0
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
    with pytest.raises(UserError, match="val.json has 2 classes, .* not the 80 of coco_2017_train"):
        adapt(MASK_RCNN, test_json(val))


def test_no_such_json():
    with pytest.raises(UserError, match="no annotation file /nowhere/train.json"):
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
    for eval_only in (False, True):
        cfg = adapt(name, train_json(path), test_json(write("val.json")), eval_only=eval_only)
        heads = cfg.model.roi_heads
        for predictor in heads.get("box_predictors") or [heads.box_predictor]:
            assert predictor.fed_loss_num_classes == 3
            weights = instantiate(predictor.get_fed_loss_cls_weights)
            assert weights().tolist() == [1, 1, 1]


def test_an_adapted_config_is_saved_whole(write, tmp_path):
    for path in (write("boxes.json", mask=None), write("rle.json", mask=RLE)):
        save_config(adapt(LVIS, train_json(path)), tmp_path / "config.yaml")


def test_real_annotations(shared_data):
    """The subset's jsons list all of COCO's classes, LVIS's all of LVIS's."""
    train, val = (
        shared_data / f"coco/annotations/instances_{split}2017.json" for split in ("train", "val")
    )
    cfg = adapt(MASK_RCNN, train_json(train), test_json(val))
    assert numbers(cfg) == [80] * 3 and "instance_mask_format" not in cfg.dataloader.train.mapper
    lvis = adapt(MASK_RCNN, train_json(shared_data / "lvis/lvis_v1_train.json"))
    assert numbers(lvis) == [1203] * 3


# --- semantic segmentation

UPERNET = "ade20k/upernet_vitb_160k.py"
FPN = "ade20k/semantic_fpn_vitb_ade20k.py"


def own_labels(split, classes=None, folder="/own"):
    data = f"dataloader.{split}.dataset"
    given = [f"{data}.images={folder}/{split}", f"{data}.labels={folder}/{split}_labels"]
    return [*given, *([f"{data}.num_classes={classes}"] if classes else [])]


def of_data(cfg):
    return [cfg.dataloader[split].dataset.num_classes for split in ("train", "test")]


@pytest.mark.parametrize("name", [UPERNET, FPN])
def test_semantic_segmentation_follows_num_classes(name, caplog):
    with caplog.at_level("INFO"):
        cfg = adapt(name, *own_labels("train", 7), *own_labels("test"))
    assert numbers(cfg) == [7] and of_data(cfg) == [7, 7]
    assert cfg.dataloader.evaluator.num_classes == 7
    assert cfg.train.eval_period == recipe(name).train.eval_period
    assert "model.sem_seg_head.num_classes: 150 -> 7, the classes of /own/train" in caplog.text
    assert numbers(recipe(name)) == [150]
    assert adapt_to_data(cfg) == cfg
    # The other way round, and of the model, as the recipe's comment has it.
    assert of_data(adapt(name, *own_labels("train"), *own_labels("test", 7))) == [7, 7]
    by_model = "model.sem_seg_head.num_classes=7"
    cfg = adapt(name, *own_labels("train"), *own_labels("test"), by_model)
    assert numbers(cfg) == [7] and of_data(cfg) == [7, 7]


def test_nothing_changes_for_ade20k_itself():
    for name in (UPERNET, FPN, "demo/semantic_tiny_ade20k.py"):
        for eval_only in (False, True):
            assert adapt_to_data(recipe(name), eval_only=eval_only) == recipe(name)


def test_own_labels_do_not_borrow_the_recipes_number(tmp_path):
    both = *own_labels("train"), *own_labels("test")
    says = "the number of classes of /own/train is not known: set .*num_classes=N .*150 are"
    with pytest.raises(UserError, match=says):
        adapt(UPERNET, *both)
    for number in (150, 7):
        for key in ("dataloader.train.dataset.num_classes", "model.sem_seg_head.num_classes"):
            assert of_data(adapt(UPERNET, *both, f"{key}={number}")) == [number] * 2
    # A saved config is whole; in evaluation the weights say whether the number is right.
    save_config(adapt(UPERNET, *own_labels("train", 7), *own_labels("test")), tmp_path / "c.yaml")
    assert of_data(adapt_to_data(load_config(str(tmp_path / "c.yaml")))) == [7, 7]
    assert of_data(adapt(UPERNET, *own_labels("test"), eval_only=True)) == [150, 150]


@pytest.mark.parametrize("override", ["num_classes=4", "={num_classes: 4}"])
def test_a_contradicting_number_of_the_model(override):
    override = "model.sem_seg_head" + (override if override[0] == "=" else f".{override}")
    with pytest.raises(UserError, match=r"num_classes=4 contradicts /own/train, .* 7 classes"):
        adapt(UPERNET, *own_labels("train", 7), override)
    cfg = adapt(UPERNET, *own_labels("train", 7), override.replace("4", "7"))
    assert numbers(cfg) == [7]


def test_training_and_test_labels_must_agree(caplog):
    with pytest.raises(UserError, match="/own/test has 8 classes, /own/train, the.* 7: give both"):
        adapt(UPERNET, *own_labels("train", 7), *own_labels("test", 8))
    with pytest.raises(UserError, match="/own/test has 8 .*_train, the.*150: set .*images and lab"):
        adapt(UPERNET, *own_labels("test", 8))
    assert not caplog.text
    cfg = adapt(UPERNET, *own_labels("train", 7))
    assert cfg.train.eval_period == 0 and "evaluator" in cfg.dataloader
    text = "NO EVALUATION: ade20k_sem_seg_val has other classes than /own/train"
    assert caplog.text.count(text) == 1
    by_model = "model.sem_seg_head.num_classes=7"
    assert adapt(UPERNET, *own_labels("train"), by_model).train.eval_period == 0
    assert caplog.text.count(text) == 2


def test_in_evaluation_the_test_labels_count():
    cfg = adapt(UPERNET, *own_labels("test", 7), eval_only=True)
    assert numbers(cfg) == [7] and cfg.dataloader.evaluator.num_classes == 7
    # What the config still names of the training.
    cfg = adapt(UPERNET, *own_labels("train", 7), *own_labels("test"), eval_only=True)
    assert numbers(cfg) == [7]
    with pytest.raises(UserError, match="would evaluate on ade20k_sem_seg_val, which has 150 "):
        adapt(UPERNET, *own_labels("train", 7), eval_only=True)
    with pytest.raises(UserError, match="would evaluate on /own/test, which has 8 .* 7: set"):
        adapt(UPERNET, *own_labels("train", 7), *own_labels("test", 8), eval_only=True)
    with pytest.raises(UserError, match=r"num_classes=4 contradicts /own/test, which has 7"):
        adapt(
            *(UPERNET, *own_labels("test", 7), "model.sem_seg_head.num_classes=4"), eval_only=True
        )


# --- classification

LINEAR, FINETUNE = "imagenet/linear_vitb.py", "imagenet/finetune_vitl.py"


@pytest.fixture
def folders(tmp_path):
    """Makes class folders with an image each."""

    def make(name, classes=("cat", "dog", "emu"), splits=("train", "val")):
        for split in splits:
            for label in classes:
                (tmp_path / name / split / label).mkdir(parents=True)
                (tmp_path / name / split / label / "1.jpg").touch()
        return tmp_path / name

    return make


def root(split, folder):
    return f"dataloader.{split}.dataset.root={folder}"


@pytest.mark.parametrize("name", [LINEAR, FINETUNE])
def test_classification_follows_the_class_folders(name, folders, caplog):
    photos = folders("photos")
    with caplog.at_level("INFO"):
        cfg = adapt(name, root("train", photos))
    assert cfg.model.num_classes == 3 and of_data(cfg) == [3, 3]
    assert f"model.num_classes: 1000 -> 3, the classes of {photos}/train" in caplog.text
    assert adapt_to_data(cfg) == cfg and recipe(name).model.num_classes == 1000
    for split in ("train", "test"):
        assert len(instantiate(cfg.dataloader[split].dataset)) == 3
    assert adapt_to_data(recipe(name)) == recipe(name)


def names(split, name):
    return f"dataloader.{split}.dataset.names={name}"


def test_registered_images_of_classes(tmp_path, caplog, folders):
    """One name is enough: classes follow it, and evaluation its other split."""
    write_cub(tmp_path)
    write_cars(tmp_path)
    write_inaturalist(tmp_path, 2019)
    with registered_at(tmp_path), caplog.at_level("INFO"):
        cfg = adapt(LINEAR, names("train", "cub_200_train"))
        assert cfg.model.num_classes == 3 and of_data(cfg) == [3, 3]
        assert (
            data_name(cfg, "dataloader.test") == cfg.dataloader.test.dataset.names == "cub_200_test"
        )
        assert "evaluation follows the training data: on cub_200_test" in caplog.text
        assert adapt_to_data(cfg) == cfg == adapt_to_data(cfg, eval_only=True)
        nature = adapt(LINEAR, names("train", "[inaturalist_2019_train]"))
        assert nature.dataloader.test.dataset.names == "inaturalist_2019_val"
        with pytest.raises(UserError, match="num_classes=5 contradicts cub_200_train, which has 3"):
            adapt(LINEAR, names("train", "cub_200_train"), "model.num_classes=5")
        cars = names("test", "stanford_cars_test")
        with pytest.raises(
            UserError, match="cub_200_train, for .* stanford_cars_test, for .* names to"
        ):
            adapt(LINEAR, names("train", "cub_200_train"), cars)
        assert adapt(LINEAR, cars, eval_only=True).model.num_classes == 3
        # Own photos in place of a recipe's names, for testing too.
        own = adapt("finegrained/cub.py", root("train", folders("own", ("cat", "dog"))))
        assert own.model.num_classes == 2 and data_name(own, "dataloader.test").endswith("own/val")
        gone = "inaturalist_2018_train"
        with pytest.raises(
            UserError, match=rf"{gone} is not there(.|\n)*dataloader.train.dataset.root"
        ):
            adapt(LINEAR, names("train", gone), "train.eval_period=0")


def test_few_labels_are_for_training_alone(folders):
    photos = folders("photos")
    few = [f"dataloader.train.dataset.{x}" for x in ("fraction=0.5", "fraction_per_class=false")]
    cfg = adapt(LINEAR, root("train", photos), *few)
    assert [len(instantiate(cfg.dataloader[x].dataset)) for x in ("train", "test")] == [2, 3]


def test_a_contradicting_number_of_class_folders(folders):
    photos = folders("photos")
    with pytest.raises(UserError, match="num_classes=5 contradicts .*photos/train, which has 3"):
        adapt(LINEAR, root("train", photos), "model.num_classes=5")
    assert adapt(LINEAR, root("train", photos), "model.num_classes=3").model.num_classes == 3


def test_evaluation_of_class_folders(folders):
    photos = folders("photos")
    val = folders("val", splits=("val",))
    assert adapt(LINEAR, root("train", photos), eval_only=True).model.num_classes == 3
    assert adapt(LINEAR, root("test", val), eval_only=True).model.num_classes == 3
    # The training images may be gone.
    gone = root("train", "/nowhere")
    assert adapt(LINEAR, gone, root("test", val), eval_only=True).model.num_classes == 3
    with pytest.raises(UserError, match="num_classes=5 contradicts .*val/val, which has 3"):
        adapt(LINEAR, root("test", val), "model.num_classes=5", eval_only=True)
    with pytest.raises(UserError, match="no labelled images in /nowhere"):
        adapt(LINEAR, gone, eval_only=True)


def test_class_folders_of_two_roots_must_agree(folders):
    photos, others = folders("photos"), folders("others", ("ant", "bee"))
    same = folders("same", splits=("val",))
    both = root("train", photos), root("test", others)
    for eval_only in (False, True):
        with pytest.raises(UserError, match="has 3 classes.* 2; only one .* ant, bee, cat"):
            adapt(LINEAR, *both, eval_only=eval_only)
        cfg = adapt(LINEAR, both[0], root("test", same), eval_only=eval_only)
        assert cfg.model.num_classes == 3
    assert adapt(LINEAR, *both, "train.eval_period=0").model.num_classes == 3


def test_knn_has_no_classes_of_its_own(folders):
    name = "imagenet/knn_vitb.py"
    cfg = adapt(name, root("test", folders("photos")), eval_only=True)
    assert "num_classes" not in cfg.model
    assert cfg.dataloader.train.dataset.num_classes is None


# ------------------------------------------------------------------------- data sets with splits


@pytest.fixture
def yolo(tmp_path):
    """Boxes alone, in two splits."""
    for split in ("train", "val"):
        (tmp_path / f"images/{split}").mkdir(parents=True)
        (tmp_path / f"labels/{split}").mkdir(parents=True)
        Image.new("RGB", (100, 80)).save(tmp_path / f"images/{split}/a.jpg")
        (tmp_path / f"labels/{split}/a.txt").write_text("1 0.5 0.5 0.2 0.4")
    (tmp_path / "data.yaml").write_text("train: images/train\nval: images/val\nnames: [cat, dog]")
    return str(tmp_path)


def jsons(cfg):
    return [cfg.dataloader[split].dataset.json for split in ("train", "test")]


def test_one_root_trains_and_evaluates(yolo, tmp_path, caplog):
    """On the splits of its own; boxes alone leave the mask head out."""
    with caplog.at_level("INFO"):
        cfg = adapt(MASK_RCNN, f"dataloader.train.dataset.root={yolo}")
    assert jsons(cfg) == [f"yolo:{yolo}#train", f"yolo:{yolo}#val"]
    assert cfg.dataloader.evaluator.json == f"yolo:{yolo}#val"
    assert numbers(cfg) == [2] * 2 and cfg.model.roi_heads.mask_head is None
    assert cfg.train.eval_period == recipe(MASK_RCNN).train.eval_period
    assert f"evaluation follows the training data: on yolo:{yolo}#val" in caplog.text
    save_config(cfg, tmp_path / "config.yaml")
    again = load_config(tmp_path / "config.yaml")
    assert adapt_to_data(again) == again == adapt_to_data(again, eval_only=True)
    (sample,) = instantiate(cfg.dataloader.test.dataset)
    assert sample["image_id"] == "images/val/a.jpg"


def test_splits_and_formats_that_are_said(yolo):
    root = f"dataloader.train.dataset.root={yolo}"
    cfg = adapt(MASK_RCNN, root, "dataloader.train.dataset.split=val")
    assert jsons(cfg) == [f"yolo:{yolo}#val", None], "what is trained on is not evaluated on"
    assert cfg.train.eval_period == 0
    cfg = adapt(MASK_RCNN, root, f"dataloader.test.dataset.root={yolo}")
    assert jsons(cfg) == [f"yolo:{yolo}#train", f"yolo:{yolo}#val"]
    with pytest.raises(UserError, match="(?s)is not in COCO's format: looked for"):
        adapt(MASK_RCNN, root, "dataloader.train.dataset.format=coco")


def test_a_folder_of_jsons(tmp_path, write):
    """As Roboflow exports it."""
    for split in ("train", "valid"):
        (tmp_path / split).mkdir()
        (tmp_path / f"{write('x.json')}").rename(tmp_path / split / "_annotations.coco.json")
    cfg = adapt(MASK_RCNN, f"dataloader.train.dataset.root={tmp_path}")
    assert jsons(cfg) == [str(tmp_path / s / "_annotations.coco.json") for s in ("train", "valid")]
    assert numbers(cfg) == [3] * 3


def test_pretraining_holds_out_of_the_split_that_it_trains_on(yolo):
    cfg = adapt(
        DEMO, f"dataloader.train.dataset.root={yolo}", "dataloader.train.dataset.split=train"
    )
    assert held_out(cfg) == [False, True] and cfg.dataloader.test.dataset.split == "train"
