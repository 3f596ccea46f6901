"""Semantic segmentation through the command line's path, on real photos of ADE20K."""

import json
from pathlib import Path

import pytest
import torch
from detectron2.config import instantiate

from rmae_d2.config import apply_overrides, get_config
from rmae_d2.errors import CheckpointError
from rmae_d2.events import read_run, step_values
from rmae_d2.solver import build_optimizer
from tests.helpers import records

CONFIGS = Path(__file__).resolve().parents[2] / "configs"
DEMO = CONFIGS / "demo/semantic_tiny_ade20k.py"
TINY = [
    "train.device=cpu",
    "train.precision=fp32",
    "train.log_period=1",
    "train.max_iter=4",
    "train.eval_period=0",
    "train.checkpointer.period=2",
    "dataloader.train.total_batch_size=2",
    "dataloader.train.num_workers=0",
    "dataloader.test.num_workers=0",
    "dataloader.train.mapper.augmentations.0.short_edge_length=[32,128]",
    "model.backbone.net.img_size=64",
    "model.backbone.net.embed_dim=32",
    "model.backbone.net.depth=4",
    "model.backbone.net.num_heads=4",
    "model.stride=48",
]
# With the cls token and the trained table of the recipe, which the demo leaves out.
UPERNET = [
    "model.backbone.net.keep_cls_token=true",
    "model.backbone.net.pretrain_img_size=64",
    "model.backbone.net.out_indices=[0,1,2,3]",
    "model.backbone.in_features=[block0,block1,block2,block3]",
    "model.sem_seg_head.channels=8",
    "model.sem_seg_head.aux_channels=8",
]


@pytest.fixture(scope="module")
def ade20k(shared_data):
    """Overrides that name the real photos, official labels and all."""
    folder = shared_data / "ADEChallengeData2016"
    return [
        "dataloader.train.dataset.zero_is_ignored=true",
        "dataloader.train.dataset.num_classes=150",
        *(
            f"dataloader.{part}.dataset.{key}={folder / name / split}"
            for part, split in (("train", "training"), ("test", "validation"))
            for key, name in (("images", "images"), ("labels", "annotations"))
        ),
    ]


@pytest.fixture(scope="module")
def finished(runs, ade20k, tmp_path_factory):
    out = tmp_path_factory.mktemp("semantic") / "run"
    overrides = [*TINY, *UPERNET, *ade20k, "train.eval_period=4"]
    return out, overrides, runs.train(out, *overrides, config=DEMO, tiny=False)


def test_a_run(finished):
    out, _, results = finished
    lines = records(out)
    first = next(record for record in lines if record["iteration"] == 0)
    assert first["total_loss"] == pytest.approx(
        first["loss_sem_seg"] + first["loss_sem_seg_aux"], rel=1e-5
    )
    # Equal chances of 150 classes at the start; the auxiliary head counts 0.4.
    assert first["loss_sem_seg"] == pytest.approx(5.01, abs=0.3)
    assert first["loss_sem_seg_aux"] == pytest.approx(0.4 * 5.01, abs=0.15)
    assert 0 <= results["sem_seg"]["mIoU"] <= results["sem_seg"]["mACC"] < 100
    assert (out / "model_final.pth").exists() and (out / "loss_curve.png").exists()
    assert "sliding window of 64 pixels, stride 48; scale 1" in (out / "log.txt").read_text()


def test_evaluation_of_a_checkpoint(finished, runs, tmp_path):
    out, overrides, results = finished
    weights = f"train.init_checkpoint={out / 'model_final.pth'}"

    def evaluate(*more):
        folder = tmp_path / str(len(more))
        found = runs.train(
            folder, *overrides, weights, *more, config=DEMO, tiny=False, eval_only=True
        )
        summary = json.loads((folder / "inference/sem_seg_evaluation.json").read_text())
        return found["sem_seg"], summary["inference"]

    again, how = evaluate("model.output=labels")
    assert again == pytest.approx(results["sem_seg"], nan_ok=True)
    assert how == "sliding window of 64 pixels, stride 48; scale 1"
    # Classes of own data are the values in its files: here 0 is none.
    assert "IoU-150" in again and "IoU-0" not in again
    _, how = evaluate(
        "model.inference=whole",
        "model.multi_scale.scales=[0.5,1.0]",
        "model.multi_scale.flip=true",
    )
    assert how == "whole image; scales 0.5, 1, mirrored too"
    with pytest.raises(CheckpointError, match="does not fit this model"):
        evaluate("model.sem_seg_head.channels=16", "dataloader.test.num_workers=0")


def test_resuming_changes_nothing(finished, runs, tmp_path, assert_same):
    out, overrides, _ = finished
    part = tmp_path / "run"
    no_evaluation = [*overrides, "train.eval_period=0"]
    runs.train(part, *no_evaluation, config=DEMO, tiny=False)
    (part / "model_final.pth").unlink()
    (part / "last_checkpoint").write_text("model_0000001.pth")
    runs.train(part, *no_evaluation, config=DEMO, tiny=False, resume=True)
    assert_same(*(torch.load(x / "model_final.pth", weights_only=True) for x in (out, part)))


def test_a_run_of_the_former_variant_does_not_go_on_with_the_cls_token(finished, runs, tmp_path):
    _, overrides, _ = finished
    former = ["model.backbone.net.keep_cls_token=false", "model.backbone.net.pretrain_img_size=32"]
    short = [*overrides, "train.eval_period=0", "train.max_iter=2"]
    out = tmp_path / "run"
    runs.train(out, *short, *former, config=DEMO, tiny=False)
    with pytest.raises(CheckpointError, match=r"cls_token[^$]*Resume with [^$]*run/config\.yaml"):
        runs.train(out, *short, "train.max_iter=3", config=DEMO, tiny=False, resume=True)
    runs.train(out, "train.max_iter=3", config=out / "config.yaml", tiny=False, resume=True)
    assert records(out)[-1]["iteration"] == 2


def test_semantic_fpn(runs, ade20k, tmp_path):
    small = ["model.backbone.out_channels=32", "model.sem_seg_head.conv_dims=32"]
    overrides = [*TINY, *ade20k, *small, "train.max_iter=2", "train.eval_period=2"]
    config = CONFIGS / "ade20k/semantic_fpn_vitb_ade20k.py"
    found = runs.train(tmp_path / "run", *overrides, config=config, tiny=False)
    assert 0 <= found["sem_seg"]["pACC"] <= 100


def test_the_recipe():
    """MAE's, as mmsegmentation publishes it: 48.1 mIoU. The network is narrower here."""
    narrow = ["model.backbone.net.embed_dim=32", "model.backbone.net.num_heads=4"]
    cfg = apply_overrides(get_config("ade20k/upernet_vitb_160k.py"), narrow)
    assert cfg.train.max_iter == 160_000 and cfg.dataloader.train.total_batch_size == 16
    net = cfg.model.backbone.net
    assert (net.img_size, net.drop_path_rate, list(net.out_indices)) == (512, 0.1, [3, 5, 7, 11])
    model = instantiate(cfg.model)
    assert model.describe_inference() == "sliding window of 512 pixels, stride 341; scale 1"
    assert model.backbone.net.pos_embed.shape == (1, 1 + 32 * 32, 32)
    names = {id(parameter): name for name, parameter in model.named_parameters()}
    found = {
        names[id(parameter)]: (group["lr"], group["weight_decay"])
        for group in build_optimizer(cfg.optimizer, model).param_groups
        for parameter in group["params"]
    }
    assert len(found) == len(names)
    for name, layer, decay in (
        ("backbone.net.patch_embed.proj.weight", 0, 0.05),
        ("backbone.net.pos_embed", 0, 0.0),
        ("backbone.net.cls_token", 0, 0.0),
        ("backbone.net.blocks.0.attn.qkv.weight", 1, 0.05),
        ("backbone.net.blocks.11.attn.rel_pos_h", 12, 0.05),
        ("backbone.net.blocks.11.norm1.weight", 12, 0.0),
        ("backbone.net.blocks.5.mlp.fc1.bias", 6, 0.0),
        ("backbone.resample.0.0.weight", 13, 0.05),
        ("sem_seg_head.fuse.weight", 13, 0.05),
        ("sem_seg_head.fuse.norm.weight", 13, 0.0),
        ("sem_seg_head.predictor.bias", 13, 0.0),
    ):
        assert found[name] == (pytest.approx(1e-4 * 0.65 ** (13 - layer)), decay), name
    schedule = instantiate(cfg.lr_multiplier)
    expected = {0: 1e-6, 750: 0.5, 1500: 1.0, 80_750: 0.5, 159_999: 0.0}
    for iteration, factor in expected.items():
        assert schedule(iteration / 160_000) == pytest.approx(factor, abs=1e-5)


@pytest.mark.slow
def test_eight_photos_are_learned_by_heart(runs, shared_data, ade20k, tmp_path):
    """Minutes on one core. Tested on the photos that it was trained on."""
    folder = shared_data / "ADEChallengeData2016"
    found = runs.train(
        tmp_path / "run",
        *ade20k,
        f"dataloader.test.dataset.images={folder / 'images/training'}",
        f"dataloader.test.dataset.labels={folder / 'annotations/training'}",
        "dataloader.train.num_workers=0",
        "dataloader.test.num_workers=0",
        "dataloader.train.mapper.augmentations.0.short_edge_length=[96,96]",
        "dataloader.train.mapper.augmentations.1.max_share=1.0",
        "model.backbone.net.img_size=96",
        "train.device=cpu",
        "train.max_iter=300",
        "train.eval_period=300",
        "optimizer.lr=2e-3",
        "optimizer.params.lr_decay_rate=1.0",
        config=DEMO,
        tiny=False,
    )
    assert found["sem_seg"]["pACC"] > 80
    losses = step_values(read_run(tmp_path / "run")[0])["loss_sem_seg"]
    assert losses[-1][1] < 0.2 * losses[0][1]
