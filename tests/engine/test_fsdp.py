"""Two processes with shares of a model (FSDP) do what one does; for copies (DDP) see test_distributed.py."""

import json
import os
import shutil
import signal
import sys
import time
from pathlib import Path

import pytest
import torch

from tests.helpers import HUNG, assert_close_runs, events, final_state, logs, records

STEPS = 8
SUM = (
    f"train.max_iter={STEPS}",
    "train.ema.decay=0.9",
    "train.clip_grad=0.2",
    "train.checkpointer.period=4",
)
LOOK = (f"train.eval_period={STEPS}", f"train.vis_period={STEPS}")
BF16 = "train.precision=bf16"
FSDP = "train.parallel=fsdp"
DECODER = "model.region_branch.decoder_depth=2"  # with a block of cross-attention


@pytest.fixture(scope="module")
def one(runs, tmp_path_factory):
    """One process, one copy: its folder and what its evaluation found."""
    out = tmp_path_factory.mktemp("one") / "run"
    return out, runs.train(out, *SUM, *LOOK, DECODER)


@pytest.fixture(scope="module")
def pair(runs, tmp_path_factory):
    """Folder of what two processes made, and what their runs returned."""
    folder = tmp_path_factory.mktemp("pair")

    def scenario(name, *overrides):
        opts = [*runs.tiny, f"train.output_dir={folder / name}", DECODER, *overrides]
        return name, runs.config, opts, {}

    toys = [
        (f"nan_{parallel}_{fused}", None, [parallel, fused], {})
        for parallel in ("ddp", "fsdp")
        for fused in (True, False)
    ]
    scenarios = [
        scenario("fsdp", *SUM, *LOOK, FSDP),
        scenario("accumulated", *SUM, FSDP, "train.grad_accum=2"),
        scenario("bf16", *SUM, FSDP, BF16),
        scenario("diverge", FSDP, "optimizer.base_lr=1e30"),
    ]
    return folder, runs.pair(folder, [*scenarios, *toys])


def test_shards_are_as_one(one, pair):
    assert_close_runs(one[0], pair[0] / "fsdp", STEPS)
    log = (pair[0] / "fsdp/log.txt").read_text()
    assert "sharded over 2 processes (FSDP), in 6 blocks and the rest" in log


def test_accumulated_shards_are_as_one(one, pair):
    """The gradient is clipped once, when it is whole."""
    assert_close_runs(one[0], pair[0] / "accumulated", STEPS)


def test_bf16_is_as_one(runs, pair, tmp_path):
    """Master weights, moments and averages are fp32."""
    runs.train(tmp_path / "run", *SUM, DECODER, BF16)
    assert_close_runs(tmp_path / "run", pair[0] / "bf16", STEPS, rel=2e-3, atol=1e-3)
    state = final_state(pair[0] / "bf16")
    dtypes = {v.dtype for s in state["trainer"]["optimizer"]["state"].values() for v in s.values()}
    assert {v.dtype for v in state["model"].values()} == dtypes == {torch.float32}


def test_evaluation_and_pictures_see_the_whole_model(one, pair):
    folder, results = pair
    found, nothing = results["fsdp"]
    assert found["reconstruction"] == pytest.approx(one[1]["reconstruction"], rel=1e-4)
    assert nothing == {} and (folder / "fsdp/reconstruction.png").exists()


def test_the_final_file_is_that_of_one_process(one, pair, assert_same):
    def shapes(node):
        if isinstance(node, dict):
            return {k: shapes(v) for k, v in node.items()}
        return (node.shape, node.dtype) if isinstance(node, torch.Tensor) else type(node)

    sharded = pair[0] / "fsdp"
    a, b = (torch.load(x / "model_final.pth", weights_only=True) for x in (one[0], sharded))
    for part in ("model", "ema", "trainer"):
        assert_same(shapes(a[part]), shapes(b[part]))
    exported = [torch.load(x / "backbone_final.pth") for x in (one[0], sharded)]
    torch.testing.assert_close(exported[0]["model"], exported[1]["model"], rtol=1e-4, atol=1e-5)
    # Both processes wrote into the folder of a numbered checkpoint, of which nothing else is left.
    names = sorted(p.name for p in (sharded / "model_0000003").iterdir())
    assert names == [".metadata", "__0_0.distcp", "__1_0.distcp", "state.pth"]
    assert not list(sharded.glob("*.tmp*"))


def test_divergence_is_noticed_by_both(pair):
    folder, results = pair
    for rank, message in enumerate(results["diverge"]):
        assert "not finite at iteration 2" in message
        batch = json.loads((folder / f"diverge/nonfinite_batch_rank{rank}.json").read_text())
        assert batch["iteration"] == 2 and len(batch["images"]) == 2


@pytest.mark.parametrize("fused", [True, False], ids=["fused", "plain"])
@pytest.mark.parametrize("parallel", ["ddp", "fsdp"])
def test_nan_of_one_rank_stops_both_with_weights_untouched(pair, parallel, fused):
    for found in pair[1][f"nan_{parallel}_{fused}"]:
        assert "not finite at iteration 6" in found["message"]
        assert found["iter"] == 9 and found["steps"] == [6]
        # Between weights after steps 0 and 1, ... 8 and 9 (the last one stops), and now.
        assert found["same"] == [False] * 5 + [True] * 4


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="worker processes are found through /proc")
def test_killed_while_two_processes_save(runs, pair, tmp_path, two_processes):
    """SIGKILL of everything as soon as the unfinished folder is there; --resume cleans up and continues."""
    out = tmp_path / "run"
    command = runs.command(out, *SUM, DECODER, FSDP, flags=two_processes)
    process = runs.start(command)
    unfinished = out / "model_0000003.tmp"
    deadline = time.monotonic() + HUNG
    while not (unfinished.exists() or (out / "model_0000003").exists()):
        assert time.monotonic() < deadline and process.poll() is None
        time.sleep(0.0002)
    workers = Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split()
    for pid in (process.pid, *map(int, workers)):
        os.kill(pid, signal.SIGKILL)
    process.communicate(timeout=HUNG)
    assert not (out / "model_final.pth").exists()
    again = runs.command(out, *SUM, DECODER, FSDP, flags=[*two_processes, "--resume"])
    code, output = runs.run(again)
    assert code == 0, output
    assert not list(out.glob("*.tmp*"))
    one, other = final_state(pair[0] / "fsdp"), final_state(out)
    torch.testing.assert_close(one["model"], other["model"], rtol=1e-4, atol=2e-6)


@pytest.mark.slow
def test_sigterm_saves_shards(runs, tmp_path, two_processes):
    """What two processes saved when they were stopped, one continues."""
    out = tmp_path / "run"
    long = [*SUM, DECODER, "train.max_iter=24"]
    process = runs.start(runs.command(out, *long, FSDP, flags=two_processes))
    code, output = runs.signal_when(process, logs(out, 0), signal.SIGTERM)
    assert code == 0 and "stopped by SIGTERM after iteration" in output, output
    marked = (out / "last_checkpoint").read_text()
    assert (out / marked).is_dir() and not (out / "model_final.pth").exists()
    runs.train(out, *long, FSDP, resume=True)
    assert [e["file"] for e in events(out, "resume")] == [marked]
    runs.train(tmp_path / "whole", *long)
    one, other = final_state(tmp_path / "whole"), final_state(out)
    torch.testing.assert_close(one["model"], other["model"], rtol=1e-4, atol=2e-6)


MODELS = {
    "vitdet": (
        "configs/coco/mask_rcnn_vitdet_b_1x_small.py",
        [
            "train.activation_checkpointing=true",
            "model.backbone.net.drop_path_rate=0.3",
            "model.backbone.net.img_size=64",
            "model.backbone.net.pretrain_img_size=32",
            "model.backbone.net.window_size=2",
            "model.backbone.net.window_block_indexes=[0]",
            "model.backbone.out_channels=16",
            "model.proposal_generator.pre_nms_topk=[60,60]",
            "model.proposal_generator.post_nms_topk=[30,30]",
            "model.roi_heads.mask_head.conv_dims=[16,16]",
            "model.roi_heads.box_head.conv_dims=[16]",
            "model.roi_heads.box_head.fc_dims=[32]",
            "optimizer.lr=1e-3",
            "lr_multiplier.warmup_length=0.0",
        ],
    ),
    "upernet": (
        "configs/demo/semantic_tiny_ade20k.py",
        [
            "dataloader.train.mapper.augmentations.0.short_edge_length=[32,128]",
            "model.backbone.net.img_size=64",
            "model.backbone.net.depth=4",
            "model.backbone.net.out_indices=[0,1,2,3]",
            "model.backbone.in_features=[block0,block1,block2,block3]",
            "model.backbone.norm=LN",
            "model.sem_seg_head.norm=LN",
            "model.sem_seg_head.channels=8",
            "model.sem_seg_head.aux_channels=8",
            "model.stride=48",
        ],
    ),
    "classifier": (
        "configs/imagenet/finetune_vitb.py",
        [
            "model.num_classes=2",
            "model.backbone.net.img_size=32",
            "model.backbone.net.patch_size=8",
        ],
    ),
}
SMALL = [
    "train.device=cpu",
    "train.precision=fp32",
    "train.init_checkpoint=",
    "train.max_iter=4",
    "train.log_period=1",
    "train.eval_period=4",
    "train.checkpointer.period=2",
    "train.clip_grad=1.0",
    "dataloader.train.total_batch_size=4",
    "dataloader.train.num_workers=0",
    "dataloader.test.num_workers=0",
    "model.backbone.net.embed_dim=32",
    "model.backbone.net.num_heads=4",
]


def labelled(photos, folder):
    """Overrides by model for photos with made-up labels of each kind: boxes, pixels, folders."""
    import numpy as np
    from PIL import Image

    annotations, names = [], sorted(path.name for path in photos.iterdir())
    (folder / "labels").mkdir()
    for i, name in enumerate(names):
        x, y, w, h = 3 + i, 5, 30, 24
        polygon = [x, y, x + w, y, x + w, y + h, x, y + h]
        annotations.append(
            {"id": i + 1, "image_id": i, "category_id": 1 + i % 2, "bbox": [x, y, w, h]}
            | {"segmentation": [polygon], "area": w * h, "iscrowd": 0}
        )
        pixels = np.asarray(Image.open(photos / name))
        label = (pixels[..., 0] > pixels[..., 1]).astype("uint8") + (pixels[..., 2] > 100)
        Image.fromarray(label).save(folder / "labels" / f"{Path(name).stem}.png")
        for split in ("train", "val"):
            (folder / "classes" / split / str(i % 2)).mkdir(parents=True, exist_ok=True)
            shutil.copy(photos / name, folder / "classes" / split / str(i % 2) / name)
    images = [
        {"id": i, "file_name": name, "height": 48, "width": 60} for i, name in enumerate(names)
    ]
    categories = [{"id": 1, "name": "cup"}, {"id": 2, "name": "cat"}]
    content = {"images": images, "annotations": annotations, "categories": categories}
    (folder / "own.json").write_text(json.dumps(content))
    of = {
        "vitdet": {"json": folder / "own.json", "root": photos},
        "upernet": {"images": photos, "labels": folder / "labels", "num_classes": 3},
    }
    overrides = {
        model: [
            f"dataloader.{split}.dataset.{k}={v}"
            for split in ("train", "test")
            for k, v in x.items()
        ]
        for model, x in of.items()
    }
    overrides["classifier"] = [f"dataloader.train.dataset.root={folder / 'classes'}"]
    return overrides


def losses(out):
    steps = [record for record in records(out) if "total_loss" in record]
    return [{k: v for k, v in s.items() if "loss" in k or k in ("grad_norm", "lr")} for s in steps]


@pytest.fixture(scope="module")
def models(runs, tmp_path_factory):
    """Folder with every model's run in two processes, and in one with the same micro-batches."""
    folder = tmp_path_factory.mktemp("models")
    data = labelled(runs.photos, folder)
    scenarios, found = [], {}
    for name, (config, overrides) in MODELS.items():
        opts = [*SMALL, *overrides, *data[name]]
        two = [*opts, FSDP, "train.grad_accum=1", f"train.output_dir={folder / name}"]
        scenarios.append((name, config, two, {}))
        alone = folder / f"{name}_one"
        found[name] = runs.train(alone, *opts, "train.grad_accum=2", config=config, tiny=False)
    return folder, found, runs.pair(folder, scenarios)


@pytest.mark.slow
@pytest.mark.parametrize("name", list(MODELS))
def test_every_model_in_two_shares_is_as_one(models, name):
    folder, found, results = models
    expected, steps = losses(folder / f"{name}_one"), losses(folder / name)
    assert len(expected) == len(steps) == 4
    for step, (a, b) in enumerate(zip(expected, steps, strict=True)):
        assert b == pytest.approx(a, rel=1e-4, abs=1e-6), step
    weights = [
        torch.load(out / "model_final.pth", weights_only=True)["model"]
        for out in (folder / f"{name}_one", folder / name)
    ]
    # A step of Adam is of the size of the rate even where a gradient is rounding alone.
    torch.testing.assert_close(*weights, rtol=1e-4, atol=1e-4)
    assert results[name][0].keys() == found[name].keys()
