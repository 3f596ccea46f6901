"""Whole runs in one process: what they leave behind, what they say, how they fail."""

import json
import subprocess
from pathlib import Path

import pytest
import torch
from omegaconf import OmegaConf
from PIL import Image
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from rmae_d2.config import get_config, load_config
from rmae_d2.engine.train import out_of_memory
from rmae_d2.errors import CheckpointError, UserError
from tests.helpers import events, records

SHORT = ("train.max_iter=8", "train.checkpointer.period=4")


@pytest.fixture(scope="module")
def finished(runs, tmp_path_factory):
    """A run with everything on; its folder and what it returned."""
    out = tmp_path_factory.mktemp("finished") / "run"
    watch = ("train.vis_period=4", "train.eval_period=4", "train.ema.decay=0.5")
    return out, runs.train(out, *SHORT, *watch)


def test_files_of_a_run(finished, metrics):
    out, _ = finished
    assert (out / "last_checkpoint").read_text() == "model_final.pth"
    assert sorted(metrics(out)) == list(range(8))
    assert (out / "model_0000003.pth").exists() and not (out / "model_0000007.pth").exists()
    state = torch.load(out / "model_final.pth", weights_only=True)
    assert state.keys() == {"model", "iteration", "trainer", "ema"} and state["iteration"] == 7
    lines = records(out)
    keys = {"loss_pixel", "loss_region", "total_loss", "grad_norm", "lr", "images_per_second"}
    for record in lines[:8]:
        assert keys | {"data_time", "skipped_images"} <= record.keys()
        assert record["images_per_second"] > 0 and record["skipped_images"] == 0
        parts = record["loss_pixel"] + record["loss_region"]
        assert record["total_loss"] == pytest.approx(parts, rel=1e-6)
    evaluated = [r["iteration"] for r in lines if "reconstruction/region_iou" in r]
    assert evaluated == [3, 8]  # as Detectron2 counts: the last is after training
    log = (out / "log.txt").read_text()
    for text in (
        f"actual {load_config(out / 'config.yaml').optimizer.base_lr * 4 / 256:g} for batches of 4",
        "images are few",
        "environment:",
        "PyTorch",
        "done:",
        "eta: ",
    ):
        assert text in log
    for path in ("model_final.pth", "loss_curve.png", "reconstruction.png", "backbone_final.pth"):
        assert str(out.resolve() / path) in log


def test_pictures_of_a_run(finished):
    out, _ = finished
    with Image.open(out / "reconstruction.png") as picture:
        assert picture.mode == "RGB" and picture.width > 11 * 112 and picture.height > 4 * 112
        assert len(picture.getcolors(10**6)) > 1000
    with Image.open(out / "loss_curve.png") as curve:
        assert curve.width > 500
    events = EventAccumulator(str(out), size_guidance={"images": 0, "scalars": 0}).Reload()
    assert {"loss_pixel", "lr", "grad_norm"} <= set(events.Tags()["scalars"])
    assert [event.step for event in events.Images("reconstruction")] == [3, 7]
    assert [event.step for event in events.Scalars("total_loss")] == list(range(8))
    assert "reconstruction/loss_pixel" in events.Tags()["scalars"]


def test_exported_backbone_is_the_average(finished):
    out, _ = finished
    state = torch.load(out / "model_final.pth", weights_only=True)
    exported = torch.load(out / "backbone_final.pth", weights_only=True)
    assert exported["matching_heuristics"] is True
    name = "blocks.0.attn.qkv.weight"
    assert torch.equal(exported["model"][name], state["ema"][f"module.backbone.net.{name}"])
    assert not torch.equal(exported["model"][name], state["model"][f"backbone.net.{name}"])


def test_saved_config_trains_again(finished, runs, tmp_path, assert_same):
    out, _ = finished
    cfg = load_config(out / "config.yaml")
    assert OmegaConf.select(cfg, "model.backbone.net.embed_dim") == 32
    assert "model" not in cfg.optimizer.params
    runs.train(tmp_path / "again", config=out / "config.yaml", tiny=False)
    a, b = (torch.load(x / "model_final.pth", weights_only=True) for x in (out, tmp_path / "again"))
    assert_same(a, b)


def test_evaluation_of_a_checkpoint(finished, runs, tmp_path):
    out, trained = finished
    config = (out / "config.yaml").read_bytes()
    weights = f"train.init_checkpoint={out / 'model_final.pth'}"
    results = runs.train(out, weights, eval_only=True)["reconstruction"]
    assert results == pytest.approx(trained["reconstruction"], rel=1e-6)
    assert 0 < results["region_iou"] < 1 and results["loss_pixel"] > 0
    assert (out / "config.yaml").read_bytes() == config
    other = runs.train(tmp_path / "run", weights, "dataloader.test.batch_size=5", eval_only=True)
    assert other["reconstruction"] == pytest.approx(results, rel=1e-5)


@pytest.mark.parametrize(
    "overrides, error, message",
    [
        ([], UserError, "needs weights: train.init_checkpoint="),
        (["train.init_checkpoint=absent.pth"], CheckpointError, "absent.pth: no such weight file"),
        (["model.backbone.net.depth=3"], CheckpointError, "does not fit"),
    ],
)
def test_evaluation_without_weights(finished, runs, tmp_path, overrides, error, message):
    if "model" in str(overrides):
        overrides = [*overrides, f"train.init_checkpoint={finished[0] / 'model_final.pth'}"]
    with pytest.raises(error, match=message):
        runs.train(tmp_path / "run", *overrides, eval_only=True)


def test_init_checkpoint_begins_with_its_weights(finished, runs, tmp_path):
    weights = finished[0] / "model_final.pth"
    runs.train(tmp_path / "run", "train.max_iter=1", f"train.init_checkpoint={weights}")
    a, b = (
        torch.load(x, weights_only=True)["model"]
        for x in (weights, tmp_path / "run/model_final.pth")
    )
    # The first step's rate is 0.
    assert all(torch.equal(a[name], b[name]) for name in a)


@pytest.mark.parametrize("variant", ["model.region_branch=null", "model.pixel_decoder=null"])
def test_mae_and_rae(runs, tmp_path, metrics, variant):
    out = tmp_path / "run"
    regions = [] if "pixel" in variant else ["dataloader.train.mapper.regions=null"]
    runs.train(out, *SHORT, variant, *regions, "train.vis_period=8", "train.eval_period=8")
    name = "loss_region" if "pixel" in variant else "loss_pixel"
    assert metrics(out)[7]["total_loss"] == metrics(out)[7][name]
    state = torch.load(out / "model_final.pth", weights_only=True)
    # DDP would refuse parameters without a gradient; so each has moments.
    assert len(state["trainer"]["optimizer"]["state"]) == sum(
        len(group["params"]) for group in state["trainer"]["optimizer"]["param_groups"]
    )
    assert (out / "reconstruction.png").exists() and (out / "loss_curve.png").exists()


@pytest.mark.parametrize("precision", ["fp32", "bf16", "fp16"])
def test_every_precision_learns(runs, tmp_path, metrics, precision):
    out = tmp_path / "run"
    runs.train(
        out,
        "train.max_iter=60",
        "train.checkpointer.period=0",
        "optimizer.base_lr=0.25",
        f"train.precision={precision}",
        "dataloader.train.total_batch_size=8",
    )
    losses = [values["total_loss"] for _, values in sorted(metrics(out).items())]
    assert sum(losses[-10:]) < 0.97 * sum(losses[:10])


def model_of(error):
    """The model in the frame of train(), as the failed run left it."""
    frames = (entry.frame for entry in error.traceback if entry.path.name == "train.py")
    return next(frame.f_locals["model"] for frame in frames if frame.code.name == "train")


def test_divergence_ends_the_run(runs, tmp_path, metrics):
    out = tmp_path / "run"
    with pytest.raises(UserError, match="at iteration 2.*a learning rate") as error:
        runs.train(out, "optimizer.base_lr=1e30", "train.checkpointer.period=1")
    assert (out / "last_checkpoint").read_text() == "model_0000001.pth"
    assert not list(out.glob("model_0000002*")) and not (out / "model_final.pth").exists()
    saved = torch.load(out / "model_0000001.pth", weights_only=True)["model"]
    left = model_of(error).state_dict()
    assert all(torch.equal(saved[name], left[name]) for name in saved)
    batch = json.loads((out / "nonfinite_batch_rank0.json").read_text())
    assert batch["iteration"] == 2 and len(batch["images"]) == 4
    for image in batch["images"]:
        assert image["file_name"].startswith(str(runs.photos)) and image["mask_seed"] >= 0
    assert sorted(metrics(out)) == [0, 1]


@pytest.mark.parametrize("precision", ["fp32", "bf16", "fp16"])
def test_a_bad_first_step_leaves_the_initial_weights(runs, tmp_path, precision):
    out = tmp_path / "run"
    with pytest.raises(UserError, match="at iteration 0") as error:
        runs.train(out, "model.pixel_std=[1e-45, 1e-45, 1e-45]", f"train.precision={precision}")
    runs.train(tmp_path / "sound", "train.max_iter=1")  # whose only step has rate 0
    initial = torch.load(tmp_path / "sound/model_final.pth", weights_only=True)["model"]
    left = model_of(error).state_dict()
    assert all(torch.equal(initial[name], left[name]) for name in initial)
    assert not (out / "last_checkpoint").exists()


@pytest.mark.slow
def test_a_failed_run_says_so_on_the_command_line(runs, tmp_path):
    command = runs.command(
        tmp_path / "run", "model.pixel_std=[1e-45, 1e-45, 1e-45]", "train.max_iter=9"
    )
    code, output = runs.run(command)
    assert code == 1
    assert output.rstrip().splitlines()[-1].startswith("error: loss or gradient not finite")


def test_one_bad_image_is_skipped_and_counted(runs, make_photos, tmp_path, metrics):
    photos = make_photos(tmp_path / "photos", 12)
    (photos / "photo05.jpg").write_bytes((photos / "photo05.jpg").read_bytes()[:300])
    out = tmp_path / "run"
    runs.train(out, *SHORT, f"dataloader.train.dataset.root={photos}", "train.log_period=4")
    lines = records(out)
    assert lines[-1]["skipped_images"] == 1
    (skipped,) = events(out, "skipped")
    assert Path(skipped["file"]) == photos / "photo05.jpg"
    assert "it is damaged or cut short" in skipped["reason"]


@pytest.mark.parametrize(
    "good, error, message",
    [
        (24, UserError, "1. of 44 images could not be read, more than 10.*--resume"),
        (0, UserError, "10 images could not be read"),
    ],
)
def test_many_bad_images_end_the_run(runs, make_photos, tmp_path, good, error, message):
    photos = make_photos(tmp_path / "photos", good)
    for i in range(20):
        (photos / f"bad{i}.jpg").write_bytes(b"\xff\xd8 no image")
    root = f"dataloader.train.dataset.root={photos}"
    with pytest.raises(error, match=f"(?s){message}"):
        runs.train(
            tmp_path / "run", root, "dataloader.train.total_batch_size=1", "train.max_iter=99"
        )


@pytest.mark.parametrize(
    "flags",
    [[], pytest.param(["--num-gpus", "2", "--dist-url", "auto"], marks=pytest.mark.slow)],
    ids=["one", "two"],
)
def test_missing_dataset(runs, tmp_path, flags):
    config = "configs/pretrain/rmae_vitb.py"
    command = [*runs.command(tmp_path / "run", flags=flags, config=config)]
    command = [part for part in command if part not in runs.tiny]
    code, output = runs.run(command, DETECTRON2_DATASETS=str(tmp_path))
    assert code == 1
    assert "Traceback" not in output
    message = output[output.index("error: ") :]
    for text in (
        "the dataset coco_2017_train is not there",
        f"looked for: {tmp_path}/coco/train2017",
        "http://images.cocodataset.org/zips/train2017.zip",
        "make demo",
        "dataloader.train.dataset.root=/photos",
    ):
        assert text in message
    assert output.count("is not there") == 1


@pytest.fixture
def small_disk(tmp_path):
    """A file system of 2 MiB, and how to enlarge it."""
    folder = tmp_path / "disk"
    folder.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=2m", "tmpfs", str(folder)]
    try:
        subprocess.run(mount, check=True, capture_output=True)
    except (OSError, subprocess.CalledProcessError) as error:
        pytest.skip(f"cannot mount a tmpfs here: {error}")

    def enlarge():
        subprocess.run(["mount", "-o", "remount,size=20m", str(folder)], check=True)

    yield folder, enlarge
    subprocess.run(["umount", "-l", str(folder)], check=True)


@pytest.mark.slow
def test_disk_full_while_saving(runs, tmp_path, small_disk, assert_same_runs):
    folder, enlarge = small_disk
    out = folder / "run"
    cache = f"dataloader.train.mapper.regions.fallback.cache_dir={tmp_path / 'cache'}"
    overrides = [cache, "train.checkpointer.max_to_keep=0"]
    runs.train(tmp_path / "whole", *overrides)
    code, output = runs.run(runs.command(out, *overrides))
    assert code == 1
    error = output[output.rindex("error: ") :]
    assert "could not be written" in error and "MiB are free" in error and "--resume" in error
    kept = sorted(path.name for path in out.glob("model*"))
    assert kept and "model_final.pth" not in kept and not list(out.glob("*.tmp*"))
    for name in kept:
        assert torch.load(out / name, weights_only=True)["iteration"] == int(name[6:13])
    enlarge()
    runs.train(out, *overrides, resume=True)
    assert_same_runs(tmp_path / "whole", out, lost=range(24))


def test_what_to_do_where_memory_is_full():
    """Names what is not set yet."""
    error = torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB. GPU 0 has")
    cfg = get_config("pretrain/rmae_vitb.py")
    cfg.train.precision = "fp32"
    text = out_of_memory(cfg, 32, error)
    assert text.startswith(
        "32 images at a time do not fit into the GPU's memory (CUDA out of memory)"
    )
    for remedy in (
        "grad_accum=2,",
        "activation_checkpointing=true,",
        "precision=bf16,",
        "img_size",
    ):
        assert remedy in text
    cfg.train.update(precision="bf16", activation_checkpointing=True)
    assert "Set a smaller model.backbone.net.img_size;" in out_of_memory(cfg, 1, error)
