"""Fine-tuning a small ViTDet on somebody's own COCO json, from the command line's arguments to AP."""

import copy
import json
import math
import sys

import pytest
import torch
from PIL import Image

from rmae_d2.errors import AnnotationError, CheckpointError, UserError
from tests.helpers import coco_rectangle, records

RECIPE = "configs/coco/mask_rcnn_vitdet_b_1x_small.py"
CASCADE = "configs/coco/cascade_mask_rcnn_vitdet_b_100ep.py"
LVIS = "configs/lvis/mask_rcnn_vitdet_b_100ep.py"
TINY = [
    "train.device=cpu",
    "train.precision=fp32",
    "train.init_checkpoint=",
    "train.max_iter=4",
    "train.log_period=1",
    "train.eval_period=0",
    "train.checkpointer.period=100",
    "train.grad_accum=1",
    "train.activation_checkpointing=false",
    "train.ddp.fp16_compression=false",
    "dataloader.train.total_batch_size=4",
    "dataloader.train.num_workers=0",
    "dataloader.test.num_workers=0",
    "model.backbone.net.img_size=64",
    "model.backbone.net.pretrain_img_size=32",
    "model.backbone.net.embed_dim=32",
    "model.backbone.net.depth=2",
    "model.backbone.net.num_heads=4",
    "model.backbone.net.window_size=2",
    "model.backbone.net.window_block_indexes=[0]",
    "model.backbone.out_channels=16",
    "model.proposal_generator.pre_nms_topk=[60,60]",
    "model.proposal_generator.post_nms_topk=[30,30]",
    "model.roi_heads.mask_head.conv_dims=[16,16]",
    "optimizer.lr=1e-3",
    "lr_multiplier.warmup_length=0.0",
]
BOX_HEAD = [
    "model.roi_heads.box_head.conv_dims=[16]",
    "model.roi_heads.box_head.fc_dims=[32]",
]
CASCADE_HEADS = [f"model.roi_heads.box_heads.{i}.conv_dims=[16]" for i in range(3)]
LOSSES = ("loss_cls", "loss_box_reg", "loss_mask", "loss_rpn_cls", "loss_rpn_loc", "total_loss")


def content(num_images=8):
    """A COCO json of photos that `write_photos` made: two instances each, of classes with a gap between."""
    annotations = []
    for i in range(num_images):
        for k, (x, y, w, h) in enumerate([(3 + i, 5, 30, 24), (20, 10 + i, 24, 20)]):
            category = (7, 3)[(i + k) % 2]
            annotations.append(coco_rectangle(2 * i + k + 1, i, category, [x, y, w, h]))
    return {
        "images": [
            {"id": i, "file_name": f"photo{i:02d}.jpg", "height": 48, "width": 60}
            for i in range(num_images)
        ],
        "categories": [{"id": 3, "name": "cup"}, {"id": 7, "name": "cat"}],
        "annotations": annotations,
    }


@pytest.fixture
def data(runs, tmp_path):
    """Overrides for a json: the content above, changed, as training and test data."""

    def make(change=lambda content: None, text=None, name="own.json", splits=("train", "test")):
        changed = copy.deepcopy(content())
        change(changed)
        path = tmp_path / name
        path.write_text(json.dumps(changed) if text is None else text)
        return [
            f"dataloader.{split}.dataset.{key}={value}"
            for split in splits
            for key, value in (("json", path), ("root", runs.photos))
        ]

    return make


@pytest.fixture
def finetune(runs):
    def run(out, *overrides, config=RECIPE, **options):
        options = {"tiny": False, **options}
        box_head = CASCADE_HEADS if config == CASCADE else BOX_HEAD
        return runs.train(out, *TINY, *box_head, *overrides, config=config, **options)

    return run


@pytest.fixture
def losses():
    """Losses of every step, from metrics.json."""

    def read(out):
        steps = [record for record in records(out) if "total_loss" in record]
        return [{k: step[k] for k in (*LOSSES, "grad_norm") if k in step} for step in steps]

    return read


def log(out):
    return (out / "log.txt").read_text()


def drop_masks(content):
    for annotation in content["annotations"]:
        del annotation["segmentation"]


def test_own_data_from_training_to_evaluation(finetune, data, losses, tmp_path):
    own = data()
    results = finetune(tmp_path / "run", *own, "train.eval_period=4")
    assert {"bbox", "segm"} <= set(results)
    assert {"AP", "APs", "AP-cup", "AP-cat"} <= set(results["segm"])
    assert len(losses(tmp_path / "run")) == 4 and set(losses(tmp_path / "run")[0]) > set(LOSSES)
    assert "model.roi_heads.num_classes: 80 -> 2" in log(tmp_path / "run")
    with Image.open(tmp_path / "run/predictions.png") as picture:
        assert picture.width > 800  # photos, and beside them what is predicted
    assert "more predictions: rmae-d2 predict" in log(tmp_path / "run")
    assert "predictions could not be drawn" not in log(tmp_path / "run")
    weights = torch.load(tmp_path / "run/model_final.pth", weights_only=True)["model"]
    assert len(weights["roi_heads.box_predictor.cls_score.weight"]) == 3
    # The same again from the weights: with the recipe, and with the config that training saved.
    final = f"train.init_checkpoint={tmp_path / 'run/model_final.pth'}"
    again = finetune(tmp_path / "eval", *own[2:], final, eval_only=True)
    assert again["bbox"] == pytest.approx(results["bbox"], nan_ok=True)
    saved = finetune(
        tmp_path / "saved", final, config=str(tmp_path / "run/config.yaml"), eval_only=True
    )
    assert saved["segm"] == pytest.approx(results["segm"], nan_ok=True)


@pytest.mark.parametrize("config", [CASCADE, LVIS])
def test_other_heads_and_losses(config, finetune, data, losses, tmp_path):
    own = data(splits=["train"])
    finetune(tmp_path / "run", *own, "train.max_iter=1", config=config)
    (step,) = losses(tmp_path / "run")
    assert all(math.isfinite(value) for value in step.values())
    assert "NO EVALUATION" not in log(tmp_path / "run")  # it was not asked for


@pytest.mark.parametrize("change", [drop_masks, None], ids=["boxes", "rle"])
def test_boxes_without_masks_and_rle(change, finetune, data, losses, tmp_path):
    def to_rle(content):
        for annotation in content["annotations"]:
            annotation["segmentation"] = {"size": [48, 60], "counts": [480, 960, 1440]}

    results = finetune(tmp_path / "run", *data(change or to_rle), "train.eval_period=4")
    first = losses(tmp_path / "run")[0]
    if change is drop_masks:
        assert set(results) == {"bbox"} and "loss_mask" not in first
        assert log(tmp_path / "run").count("BOXES ONLY") == 1
        assert "train a model without mask head" not in log(tmp_path / "run")
    else:
        assert set(results) == {"bbox", "segm"} and first["loss_mask"] > 0


def test_the_same_seed_gives_the_same_losses(finetune, data, losses, tmp_path):
    """With random crops, drop paths and sampled proposals; whoever loads the images."""
    own = [
        *data(),
        "model.backbone.net.drop_path_rate=0.3",
        "model.roi_heads.batch_size_per_image=8",
    ]
    for name, overrides in {
        "one": [],
        "same": ["dataloader.train.num_workers=2"],
        "other": ["train.seed=1"],
    }.items():
        finetune(tmp_path / name, *own, *overrides)
    one, same, other = (losses(tmp_path / name) for name in ("one", "same", "other"))
    assert one == same
    assert one[0] != other[0]


def test_recomputed_activations_change_nothing(finetune, data, losses, tmp_path):
    """Drop paths are drawn again as they were."""
    own = [*data(), "model.backbone.net.drop_path_rate=0.5"]
    finetune(tmp_path / "kept", *own)
    finetune(tmp_path / "recomputed", *own, "train.activation_checkpointing=true")
    for kept, recomputed in zip(
        losses(tmp_path / "kept"), losses(tmp_path / "recomputed"), strict=True
    ):
        assert recomputed == pytest.approx(kept, rel=1e-5)


def test_a_model_that_cannot_recompute_says_so(runs, tmp_path):
    with pytest.raises(UserError, match="activation_checkpointing=true: no part of this RMAE"):
        off = [f"model.{x}.use_act_checkpoint=false" for x in ("backbone.net", "pixel_decoder")]
        runs.train(tmp_path, "train.activation_checkpointing=true", *off)


@pytest.mark.slow
def test_two_processes_are_as_one(runs, finetune, data, losses, tmp_path, two_processes):
    """With the same global batch in the same micro-batches.

    Detectron2's losses are means over the proposals of a micro-batch, whose number differs: a batch of four
    in one piece has other losses than two of two, in any number of processes.
    """
    own = [*data(), "model.backbone.net.drop_path_rate=0.3", "train.max_iter=6"]
    finetune(tmp_path / "one", *own, "train.grad_accum=2")
    command = [sys.executable, "tools/train_net.py", "--config-file", RECIPE, *two_processes]
    overrides = [*TINY, *BOX_HEAD, *own, f"train.output_dir={tmp_path / 'two'}"]
    code, output = runs.run([*command, *overrides])
    assert code == 0, output
    one, two = losses(tmp_path / "one"), losses(tmp_path / "two")
    assert len(one) == len(two) == 6
    for step, (expected, found) in enumerate(zip(one, two, strict=True)):
        assert found == pytest.approx(expected, rel=1e-5, abs=1e-6), step
    weights = [
        torch.load(tmp_path / name / "model_final.pth", weights_only=True)["model"]
        for name in ("one", "two")
    ]
    # A step of Adam is of the size of the rate even where a gradient is rounding alone.
    torch.testing.assert_close(*weights, rtol=1e-4, atol=1e-4)


def spoil_half(content):
    """Much that goes wrong in real files, in half of the images."""
    first, second = content["annotations"][:2]
    first["segmentation"] = [[5, 5, 20, 20]]  # two points
    second["bbox"] = [5, 5, 0, 10]
    content["annotations"][2]["iscrowd"] = content["annotations"][3]["iscrowd"] = 1
    content["annotations"] = [a for a in content["annotations"] if a["image_id"] != 2]


def test_what_cannot_be_learned_from_is_left_out(finetune, data, losses, tmp_path):
    results = finetune(tmp_path / "run", *data(spoil_half), "train.eval_period=4")
    assert set(results) == {"bbox", "segm"} and len(losses(tmp_path / "run")) == 4
    text = log(tmp_path / "run")
    assert "annotations without a usable box, that of the mask is taken: 1, such as" in text
    assert (
        "1 instances have no mask, nor a polygon of three points, such as in the images 0" in text
    )
    assert "1 images without annotations and 1 with crowds only are left out" in text
    assert "6 images, 11 instances of 2 classes" in text


def all_crowds(content):
    for annotation in content["annotations"]:
        annotation["iscrowd"] = 1


def duplicate(content):
    content["images"][1]["id"] = content["images"][0]["id"]


def wrong_size(content):
    content["images"][0].update(height=60, width=48)


@pytest.mark.parametrize(
    "arguments, error",
    [
        (
            dict(text='{"images": [{"id": 1, "file_na'),
            "own.json is cut off .*download, copy or unpack",
        ),
        (
            dict(change=all_crowds),
            "own.json: none of its 8 images has a usable annotation .*8 crowds",
        ),
        (
            dict(change=duplicate),
            "own.json has the image id '0' twice",
        ),
        (dict(change=wrong_size), "own.json: 1 of 8 images .*48x60 .height x width., not 60x48"),
    ],
    ids=["truncated", "crowds", "duplicates", "sizes"],
)
def test_data_that_cannot_be_used(arguments, error, finetune, data, tmp_path):
    with pytest.raises(AnnotationError, match=f"(?s){error}"):
        finetune(tmp_path / "run", *data(**arguments))


def test_bad_test_data_stop_a_run_before_it_begins(finetune, data, tmp_path):
    own = data(splits=["train"]) + data(wrong_size, name="val.json", splits=["test"])
    with pytest.raises(AnnotationError, match=r"val.json: 1 of 8 images"):
        finetune(tmp_path / "run", *own, "train.eval_period=4")
    assert not (tmp_path / "run").exists()
    missing = [*data(splits=["train"]), f"dataloader.test.dataset.json={tmp_path / 'no.json'}"]
    with pytest.raises(UserError, match=r"no.json"):
        finetune(tmp_path / "other", *missing, "train.eval_period=4")


def test_a_checkpoint_of_another_size(finetune, data, tmp_path):
    own = data()
    finetune(tmp_path / "run", *own, "train.max_iter=1")
    weights = f"train.init_checkpoint={tmp_path / 'run/model_final.pth'}"
    with pytest.raises(CheckpointError, match=r"32.*in the file.*48.*in the model"):
        finetune(tmp_path / "wide", *own, weights, "model.backbone.net.embed_dim=48")
    with pytest.raises(CheckpointError, match=r"blocks.2.*not in the file"):
        finetune(tmp_path / "deep", *own, weights, "model.backbone.net.depth=3")
    # Other classes: the heads begin anew, the encoder does not.
    classes = data(lambda c: c["categories"].append({"id": 9, "name": "dog"}), name="more.json")
    with pytest.raises(
        CheckpointError, match=r"cls_score.weight: \(3, 32\) in the file, \(4, 32\)"
    ):
        finetune(tmp_path / "classes", *classes, weights)


def test_random_weights_are_not_silent(finetune, data, tmp_path):
    finetune(tmp_path / "run", *data(), "train.max_iter=1")
    assert "FROM RANDOM WEIGHTS: train.init_checkpoint is empty" in log(tmp_path / "run")
    with pytest.raises(CheckpointError, match="rmae_vitb/model_final.pth"):
        finetune(tmp_path / "missing", *data(), "train.init_checkpoint=rmae_vitb/model_final.pth")
