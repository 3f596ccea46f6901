"""What test files share: the checkout, and small real runs over a dozen photos."""

import argparse
import json
import logging
import os
import signal
import stat
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from rmae_d2.config import apply_overrides, get_config, save_config
from rmae_d2.events import FILE, read_events, read_run, step_values

#: Seconds after which tests take a process for hung, however busy the machine is.
HUNG = 1200
ROOT = Path(__file__).resolve().parents[1]
CONFIG = ROOT / "configs/demo/rmae_tiny_scenes.py"
TINY = [
    "train.device=cpu",
    "train.max_iter=24",
    "train.log_period=1",
    "train.vis_period=0",
    "train.eval_period=0",
    "train.checkpointer.period=6",
    "dataloader.train.total_batch_size=4",
    "dataloader.train.num_workers=0",
    "dataloader.test.num_workers=0",
    "model.backbone.net.img_size=32",
    "model.backbone.net.patch_size=8",
    "model.backbone.net.embed_dim=32",
    "model.backbone.net.depth=2",
    "model.backbone.net.num_heads=4",
    "model.pixel_decoder.dim=16",
    "model.pixel_decoder.depth=1",
    "model.region_branch.encoder_dim=16",
    "model.region_branch.decoder_dim=16",
]
VALUES = ("loss_pixel", "loss_region", "total_loss", "grad_norm", "lr")


def write_photos(folder: Path, count: int = 12, name: str = "photo") -> Path:
    """Crops of scikit-image's photographs as small JPEGs."""
    from PIL import Image
    from skimage import data

    folder.mkdir(parents=True, exist_ok=True)
    sources = [data.astronaut(), data.coffee(), data.chelsea(), data.rocket()]
    for i in range(count):
        top = 20 * (i // len(sources))
        crop = sources[i % len(sources)][top : top + 160, 40:240]
        Image.fromarray(crop).resize((60, 48)).save(folder / f"{name}{i:02d}.jpg")
    return folder


#: What is not a file, whatever its name; see put_special.
SPECIAL = ("folder", "FIFO", "socket", "device")


def put_special(path: Path, kind: str) -> None:
    """Puts something of SPECIAL in place of a file."""
    path.unlink(missing_ok=True)
    if kind == "folder":
        path.mkdir()
    elif kind == "FIFO":
        os.mkfifo(path)
    elif kind == "socket":
        os.mknod(path, stat.S_IFSOCK | 0o600)
    else:
        path.symlink_to("/dev/zero")


def coco_rectangle(identifier, image_id, category_id, box, **more) -> dict[str, Any]:
    """An annotation of COCO's format: a rectangle [x, y, width, height], as box and as polygon."""
    x, y, w, h = box
    polygon = [x, y, x + w, y, x + w, y + h, x, y + h]
    numbers = {"id": identifier, "image_id": image_id, "category_id": category_id, "bbox": box}
    return {**numbers, "segmentation": [polygon], "area": w * h, "iscrowd": 0, **more}


def region_samples(count: int = 2, size=(32, 32), regions: int = 3) -> list[dict[str, Any]]:
    """What a mapper gives for photos with region maps; the same at every call."""
    generator = torch.Generator().manual_seed(1)
    return [
        {
            "image": torch.randint(0, 256, (3, *size), dtype=torch.uint8, generator=generator),
            "mask_seed": 7 + i,
            "regions": torch.rand(regions, *size, generator=generator) > 0.6,
        }
        for i in range(count)
    ]


def save_run(
    folder: Path, *overrides: str, name: str = "demo/rmae_tiny_scenes.py", tiny: bool = True
) -> Path:
    """What a run leaves of a config's network with random weights: config.yaml and model_final.pth.

    Args:
        overrides: of the config.
        name: of the config.
        tiny: with the overrides of TINY before these.

    Returns:
        the weights' path.
    """
    cfg = apply_overrides(get_config(name), [*(TINY if tiny else ()), *overrides])
    save_config(cfg, folder / "config.yaml")
    return Path(save_random(cfg, folder / "model_final.pth"))


def write_coco(folder: Path, boxes) -> Path:
    """Photos a.png, b.png and c.png, 120 x 160 pixels, and labels.json with (image, x, y, width, height)."""
    from PIL import Image
    from skimage import data

    for name, photo in (("a", data.astronaut()), ("b", data.coffee()), ("c", data.chelsea())):
        Image.fromarray(photo[:120, :160]).save(folder / f"{name}.png")
    annotations = [
        {"id": i, "image_id": image, "category_id": 1, "bbox": [x, y, w, h], "area": w * h}
        | {"segmentation": [[x, y, x + w, y, x + w, y + h, x, y + h]], "iscrowd": 0}
        for i, (image, x, y, w, h) in enumerate(boxes)
    ]
    images = [
        {"id": i, "file_name": f"{name}.png", "height": 120, "width": 160}
        for i, name in enumerate("abc")
    ]
    content = {"images": images, "annotations": annotations}
    content["categories"] = [{"id": 1, "name": "thing"}]
    (folder / "labels.json").write_text(json.dumps(content))
    return folder


DETECTOR = "demo/vitdet_tiny_coco.py"
SMALL_DETECTOR = [
    "train.device=cpu",
    "model.backbone.net.img_size=64",
    "model.backbone.net.pretrain_img_size=64",
    "model.backbone.net.embed_dim=32",
    "model.backbone.net.depth=2",
    "model.backbone.net.num_heads=2",
    "model.backbone.out_channels=16",
    "model.roi_heads.box_head.conv_dims=[16]",
    "model.roi_heads.box_head.fc_dims=[32]",
    "model.roi_heads.mask_head.conv_dims=[16, 16]",
    "model.roi_heads.box_predictor.test_score_thresh=0.0",
    "model.roi_heads.box_predictor.test_topk_per_image=5",
]


#: Of a config of semantic segmentation (UPerNet).
SMALL_SEMANTIC = [
    "model.backbone.net.img_size=32",
    "model.backbone.net.embed_dim=32",
    "model.backbone.net.depth=4",
    "model.backbone.net.num_heads=4",
    "model.backbone.net.out_indices=[0,1,2,3]",
    "model.backbone.in_features=[block0,block1,block2,block3]",
    "model.sem_seg_head.channels=8",
    "model.sem_seg_head.aux_channels=8",
]


def small_detector(*overrides: str):
    """The config of a small Mask R-CNN (ViTDet) for COCO's classes that finds five objects in any image."""
    return apply_overrides(get_config(DETECTOR), [*SMALL_DETECTOR, *overrides])


def save_random(cfg, path: Path) -> str:
    """Writes weights of a config's model as it begins; their path."""
    from detectron2.config import instantiate

    torch.manual_seed(1)
    torch.save({"model": instantiate(cfg.model).state_dict()}, path)
    return str(path)


SHRUNK = [
    *("backbone.net.embed_dim=32", "backbone.net.depth=1", "backbone.net.num_heads=4"),
    *("pixel_decoder.dim=16", "pixel_decoder.depth=1", "pixel_decoder.num_heads=4"),
    *("region_branch.encoder_dim=16", "region_branch.encoder_num_heads=4"),
    *("region_branch.decoder_dim=16", "region_branch.decoder_num_heads=4"),
]


def shrunk(name: str, *overrides: str):
    """A pre-training config with a model of one small block a part, on 4x4 patches."""
    cfg = get_config(name)
    absent = [part for part in ("pixel_decoder", "region_branch") if cfg.model[part] is None]
    small = [f"model.{x}" for x in SHRUNK if not x.startswith(tuple(absent))]
    if "stages" in cfg.model.backbone.net:
        small = [x for x in small if "backbone" not in x]
        sizes = {"embed_dim": 32, "stages": "[1,1,1,1]"}
        small += [f"model.backbone.net.{key}={value}" for key, value in sizes.items()]
    if cfg.model.backbone.net.get("window_size"):
        windows = {"window_size": 2, "window_block_indexes": "[0]"}
        small += [f"model.backbone.net.{key}={value}" for key, value in windows.items()]
    side = 4 * cfg.model.backbone.net.patch_size
    return apply_overrides(cfg, [*small, f"model.backbone.net.img_size={side}", *overrides])


def config_step(cfg):
    """A step of a config's own model and optimizer: model, losses, names of the parameters that moved."""
    from detectron2.config import instantiate

    from rmae_d2.solver import build_optimizer

    model = instantiate(cfg.model).train()
    optimizer = build_optimizer(cfg.optimizer, model)
    before = {name: value.clone() for name, value in model.named_parameters()}
    side, K = cfg.model.backbone.net.img_size, cfg.dataloader.train.mapper.num_regions
    losses = model(region_samples(2, (side, side), K))
    sum(losses.values()).backward()
    optimizer.step()
    moved = {k for k, v in model.named_parameters() if not torch.equal(v, before[k])}
    return model, losses, moved


def hf_mae_config(**changes):
    """Hugging Face's config of the small MAE that ``make_rmae(regions=None)`` builds."""
    sizes = {
        "hidden_size": 32,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "intermediate_size": 128,
        "image_size": 32,
        "patch_size": 8,
        "decoder_hidden_size": 16,
        "decoder_num_hidden_layers": 1,
        "decoder_num_attention_heads": 4,
        "decoder_intermediate_size": 64,
        "layer_norm_eps": 1e-6,
    }
    return pytest.importorskip("transformers").ViTMAEConfig(**{**sizes, **changes})


def jittered(module, std: float = 0.2):
    """The module with noise on every parameter, so that none can be mistaken for another."""
    for parameter in module.parameters():
        parameter.data += std * torch.randn_like(parameter)
    return module


class Runs:
    """Starts runs over one folder of photos."""

    def __init__(self, photos: Path) -> None:
        self.photos = photos
        self.config = CONFIG
        self.tiny = [*TINY, *(f"dataloader.{x}.dataset.root={photos}" for x in ("train", "test"))]
        self.env = {**os.environ, "OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": ""}

    def train(
        self,
        out: Path,
        *overrides: str,
        config=CONFIG,
        resume=False,
        eval_only=False,
        profile=False,
        tiny=True,
    ):
        """One run in this process; what it leaves in the logging module is taken out again."""
        from detectron2.utils.logger import setup_logger

        from rmae_d2.engine import main

        args = argparse.Namespace(
            config_file=str(config),
            resume=resume,
            eval_only=eval_only,
            profile=profile,
            opts=[*(self.tiny if tiny else ()), f"train.output_dir={out}", *overrides],
        )
        names = ("rmae_d2", "detectron2", "fvcore")
        logs = {n: logging.getLogger(n) for n in names}
        before = {n: (list(log.handlers), log.propagate, log.level) for n, log in logs.items()}
        threads = torch.get_num_threads()
        torch.set_num_threads(1)
        setup_logger.cache_clear()
        try:
            return main(args)
        finally:
            torch.set_num_threads(threads)
            setup_logger.cache_clear()
            for name, (handlers, propagate, level) in before.items():
                logs[name].handlers[:] = handlers
                logs[name].propagate = propagate
                logs[name].setLevel(level)

    def command(self, out: Path, *overrides: str, flags=(), config=CONFIG) -> list[str]:
        line = [sys.executable, str(ROOT / "tools/train_net.py"), "--config-file", str(config)]
        return [*line, *flags, *self.tiny, f"train.output_dir={out}", *overrides]

    def start(self, command: list[str], **env: str) -> subprocess.Popen:
        """Starts a process, its output in one pipe, as a terminal does: in a process group of its own."""
        return subprocess.Popen(
            command,
            cwd=ROOT,
            env={**self.env, **env},
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            start_new_session=True,
        )

    def run(self, command: list[str], **env: str) -> tuple[int, str]:
        """A process from start to end: exit code and output."""
        process = self.start(command, **env)
        try:
            output, _ = process.communicate(timeout=HUNG)
        except subprocess.TimeoutExpired:
            process.send_signal(signal.SIGKILL)
            raise
        return process.returncode, output

    def pair(self, folder: Path, scenarios) -> dict[str, list[Any]]:
        """Several runs in one pair of processes, for starting a pair takes longer than all of them.

        Args:
            folder: gets their results.
            scenarios: of each run a name, the config, its overrides, and further arguments of ``main``.

        Returns:
            results by name, of both ranks; the message where a run ended by one that users can set right.
        """
        command = [
            sys.executable,
            "-m",
            "tests.pair",
            json.dumps(scenarios, default=str),
            str(folder),
        ]
        code, output = self.run(command)
        assert code == 0, output
        found = {
            name: [folder / f"{name}_rank{rank}.json" for rank in (0, 1)] for name, *_ in scenarios
        }
        return {name: [json.loads(f.read_text()) for f in files] for name, files in found.items()}

    def srun(self, tasks: int) -> list[dict[str, str]]:
        """The variables that srun sets, for processes that Slurm does not start."""
        number = str(tasks)
        common = {
            "SLURM_JOB_ID": str(time.time_ns() // 1_000_000),  # from which the port is made
            "SLURM_STEP_ID": "0",
            "SLURM_NTASKS": number,
            "SLURM_STEP_NUM_TASKS": number,
            "SLURM_STEP_TASKS_PER_NODE": number,
            "SLURM_STEP_NODELIST": "localhost",
        }
        ranks = map(str, range(tasks))
        return [{**common, "SLURM_PROCID": rank, "SLURM_LOCALID": rank} for rank in ranks]

    def signal_when(
        self, process: subprocess.Popen, condition, number: int, group: bool = False
    ) -> tuple[int, str]:
        """Sends a signal as soon as a condition holds, also to the whole group; exit code and output."""
        deadline = time.monotonic() + HUNG
        while not condition():
            assert process.poll() is None, process.communicate()[0]
            assert time.monotonic() < deadline, "the run did not get there"
            time.sleep(0.0005)
        os.killpg(process.pid, number) if group else process.send_signal(number)
        output, _ = process.communicate(timeout=HUNG)
        return process.returncode, output


def events(out: Path, kind: str) -> list[dict[str, Any]]:
    """What run.jsonl has of one kind, in its order."""
    return [event for event in read_events(out / FILE)[0] if event["event"] == kind]


def records(out: Path) -> list[dict[str, Any]]:
    """The lines of Detectron2's metrics.json."""
    return [json.loads(line) for line in (out / "metrics.json").read_text().splitlines()]


def wait_for(condition: Callable[[], Any], seconds: float = 600.0) -> Any:
    """What a condition gives, as soon as that is true."""
    deadline = time.monotonic() + seconds
    while not (value := condition()):
        assert time.monotonic() < deadline, "waited too long"
        time.sleep(0.02)
    return value


def logs(out: Path, iteration: int) -> Callable[[], bool]:
    """A condition to wait for: that a run has logged this step."""

    def check() -> bool:
        path = out / "metrics.json"
        return path.exists() and f'"iteration": {iteration},' in path.read_text()

    return check


def final_state(out: Path) -> dict[str, Any]:
    """The last checkpoint; biases of keys as 0.

    No loss depends on them, for softmax is the same for shifted scores: their gradients are rounding alone,
    which Adam enlarges to whole steps.
    """
    state = torch.load(out / "model_final.pth", weights_only=True)
    for weights in (state["model"], state["ema"]):
        for name, value in weights.items():
            if name.endswith("qkv.bias"):
                value[len(value) // 3 : -len(value) // 3] = 0
            elif name.endswith("cross_attn.kv.bias"):
                value[: len(value) // 2] = 0
    return state


def assert_close_runs(a: Path, b: Path, steps: int, rel=1e-5, rtol=1e-4, atol=2e-6) -> None:
    """Two finished runs with an average: the same values of every step, and weights, but for rounding."""
    expected, found = read_metrics(a), read_metrics(b)
    assert expected.keys() == found.keys() == set(range(steps))
    for step, values in expected.items():
        assert found[step] == pytest.approx(values, rel=rel), step
    one, other = final_state(a), final_state(b)
    for part in ("model", "ema"):
        torch.testing.assert_close(one[part], other[part], rtol=rtol, atol=atol)


def read_metrics(out: Path) -> dict[int, dict[str, float]]:
    """What a run says each step computed, by iteration; later events first."""
    records: dict[int, dict[str, float]] = {}
    for name, points in step_values(read_run(out)[0]).items():
        for iteration, value in points if name in VALUES else ():
            records.setdefault(int(iteration), {})[name] = value
    return {i: values for i, values in sorted(records.items()) if "total_loss" in values}


def assert_same(a, b, name: str = "") -> None:
    """Bit-for-bit equality of nested containers of tensors."""
    if isinstance(a, dict):
        assert a.keys() == b.keys(), name
        for key in a:
            assert_same(a[key], b[key], f"{name}.{key}")
    elif isinstance(a, list | tuple):
        assert len(a) == len(b), name
        for i, (x, y) in enumerate(zip(a, b, strict=True)):
            assert_same(x, y, f"{name}.{i}")
    elif isinstance(a, torch.Tensor):
        assert a.dtype == b.dtype and torch.equal(a, b), name
    else:
        assert a == b, name


def assert_same_runs(a: Path, b: Path, lost=()) -> None:
    """Two finished runs: the same final checkpoint and the same metrics of every step, bit for bit.

    Between a checkpoint and the writing of its step's metrics a kill can hit: ``lost`` names such steps.
    """
    one, other = (torch.load(x / "model_final.pth", weights_only=True) for x in (a, b))
    assert_same(one, other)
    expected, found = read_metrics(a), read_metrics(b)
    assert set(expected) - set(found) <= set(lost)
    assert found == {i: expected[i] for i in found}
