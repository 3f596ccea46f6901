"""Measures the rows of `rmae-d2 benchmark gpu`, each in its own process.

    python -m rmae_d2.commands.benchmarks.gpu_rows '{"kind": "pretrain", "arch": "base", ...}'

prints a JSON list with one entry per variant as the last line of its output: ``variant``, ``seconds`` per
step, ``images_per_second``, and if known ``mfu``, ``mib`` (memory of a step beyond weights and
optimizer) and ``ratio``, the time relative to the first variant's.
"""

import argparse
import json
import sys
import tempfile
from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

import numpy as np
import torch
from detectron2.config import instantiate
from detectron2.structures import BitMasks, Boxes, Instances
from detectron2.utils.events import EventStorage
from torch import nn

from ...checkpoint import export_backbone
from ...config import apply_overrides, get_config
from ...deploy.model import open_session
from ...engine.throughput import device_peak, step_flops
from ...errors import UserError
from ...export.graphs import EncoderGraph
from ...export.source import load_source
from ...export.write import to_onnx
from ...extras import needed
from ...inference import Predictor
from . import loader, step, vitdet
from .common import autocast, device, race, synchronize
from .gpu_plan import SKIPPED

Lines = list[dict[str, Any]]


def lines_of(
    variants: Mapping[str, Callable[[], Any]],
    images: int,
    repeat: int,
    flops: Mapping[str, float | None] | None = None,
    precision: str = "bf16",
) -> Lines:
    """Races variants, each call of which also synchronises the device.

    Args:
        images: number of images per call.
        flops: of each variant for one image, for MFU.
    """
    memory = {name: step.gpu_mib(call) for name, call in variants.items()}
    best = race(variants, repeat)
    peak = device_peak(torch.device(device()), precision).flops if flops else 0.0
    first = next(iter(best.values()))
    found = []
    for name, seconds in best.items():
        line: dict[str, Any] = {"variant": name, "seconds": seconds, "ratio": seconds / first}
        line["images_per_second"] = images / seconds
        if flops and (own := flops[name]):
            line["mfu"] = own * images / seconds / peak
        if (mib := memory[name]) is not None:
            line["mib"] = float(mib)
        found.append(line)
    return found


def pretrain(
    arch: str,
    batch: int,
    precision: str,
    variants: list[str],
    repeat: int = 5,
    compile: bool = False,
    checkpointing: bool = False,
) -> Lines:
    """Times pre-training steps, optimizer included; see `step`."""
    args = argparse.Namespace(
        arch=arch, precision=precision, compile=compile, checkpointing=checkpointing
    )
    data = step.synthetic(batch)
    steps = {name: step.make_step(name, args, data) for name in variants}
    flops = {name: step_flops(one.model, next(one.batches)) for name, one in steps.items()}
    return lines_of(steps, batch, repeat, flops, precision)


def backbone(size: str, image: int, batch: int, precision: str, repeat: int = 3) -> Lines:
    """Times forward and backward passes of our ViT and of Detectron2's in ViTDet's setting."""
    args = argparse.Namespace(size=size, image=image, batch=batch, precision=precision, depth=None)
    steps = {name: vitdet.prepare(name, args) for name in vitdet.VARIANTS}
    return lines_of(steps, batch, repeat)


def finetune(config: str, image: int, batch: int, overrides: list[str], repeat: int = 3) -> Lines:
    """Times a training step of a detector or segmentor on noise, without the optimizer."""
    cfg = apply_overrides(get_config(config), overrides)
    model = instantiate(cfg.model).to(device()).train()
    samples = [_sample(image, i) for i in range(batch)]
    return lines_of({"ours": partial(_train, model, samples)}, batch, repeat)


def _sample(side: int, number: int) -> dict[str, Any]:
    """Creates a noise image with ten boxes and masks, and with pixel classes."""
    generator = torch.Generator().manual_seed(number)
    corner = torch.rand(10, 2, generator=generator) * side / 2
    boxes = torch.cat([corner, corner + side / 4], dim=1)
    masks = torch.zeros(10, side, side, dtype=torch.bool)
    for mask, (x0, y0, x1, y1) in zip(masks, boxes.int().tolist(), strict=True):
        mask[y0:y1, x0:x1] = True
    objects = Instances((side, side), gt_boxes=Boxes(boxes), gt_masks=BitMasks(masks))
    objects.gt_classes = torch.arange(10) % 2
    image = torch.randint(0, 256, (3, side, side), dtype=torch.uint8, generator=generator)
    classes = torch.randint(0, 2, (side, side), generator=generator)
    return {"image": image, "instances": objects, "sem_seg": classes, "height": side, "width": side}


def _train(model: nn.Module, samples: list[dict[str, Any]]) -> None:
    with EventStorage(), autocast("bf16"):
        losses = torch.stack([*model(samples).values()]).sum()
    losses.backward()
    model.zero_grad(set_to_none=True)
    synchronize()


def predict(config: str, image: int, overrides: list[str], repeat: int = 3) -> Lines:
    """Times a whole prediction for one photo, resizing and copying included, with random weights."""
    cfg = apply_overrides(get_config(config), overrides)
    predictor = Predictor(cfg, instantiate(cfg.model))
    photo = np.random.default_rng(0).integers(0, 256, (image, image, 3), dtype=np.uint8)
    return lines_of({"ours": lambda: predictor(photo)}, 1, repeat)  # its result is on the CPU


def onnx(arch: str, batch: int, repeat: int = 5) -> Lines:
    """Times an encoder's forward pass in fp32 by PyTorch and by onnxruntime."""
    providers = needed("onnxruntime", "onnx", "this row").get_available_providers()
    if device() == "cuda" and "CUDAExecutionProvider" not in providers:
        raise UserError(
            "the onnxruntime that is installed runs on CPUs only: pip install onnxruntime-gpu"
        )
    as_given = argparse.Namespace(arch=arch, precision="fp32", compile=False, checkpointing=False)
    model = step.build([], as_given)
    with tempfile.TemporaryDirectory() as folder:
        export_backbone(model.state_dict(), f"{folder}/backbone.pth")
        source = load_source(f"{folder}/backbone.pth")
    graph = EncoderGraph(source)
    images = torch.randint(0, 256, (batch, 3, *source.facts.size), dtype=torch.uint8)
    session = open_session(to_onnx(graph, list(images[:2]), source.facts), "the encoder")
    name = session.get_inputs()[0].name
    given = {name: images.numpy()}
    graph.to(device())

    @torch.no_grad()
    def by_torch() -> None:
        graph(images.to(device()))
        synchronize()

    return lines_of(
        {"PyTorch": by_torch, "onnxruntime": lambda: session.run(None, given)}, batch, repeat
    )


def sam(image: int, points: int, config: dict[str, Any], repeat: int = 1) -> Lines:
    """Times SAM's masks of a whole image with random weights; their number differs from a trained SAM's."""
    transformers = needed("transformers", "sam", "this row")
    from ...regions.sources.sam import SamSource

    with tempfile.TemporaryDirectory() as folder:
        transformers.SamModel(transformers.SamConfig(**config)).save_pretrained(folder)
        size = config.get("vision_config", {}).get("image_size", 1024)
        transformers.SamImageProcessor(
            size={"longest_edge": size}, pad_size={"height": size, "width": size}
        ).save_pretrained(folder)
        source = SamSource(folder, points_per_side=points)
        photo = np.random.default_rng(0).integers(0, 256, (image, image, 3), dtype=np.uint8)
        return lines_of({"SAM": lambda: source({}, photo)}, 1, repeat)


def load(batch: int, batches: int, repeat: int = 1) -> Lines:
    """Measures a worker's images per second, to compare with the time of a step."""
    args = argparse.Namespace(
        images=None, max_images=16, batch=batch, batches=batches, repeat=repeat
    )
    return [
        {"variant": f"{name}, {kind}", "images_per_second": rate, "seconds": batch / rate}
        for name, rates, _ in loader.measured(args)
        for kind, rate in rates.items()
    ]


KINDS: dict[str, Callable[..., Lines]] = {
    "pretrain": pretrain,
    "backbone": backbone,
    "finetune": finetune,
    "predict": predict,
    "onnx": onnx,
    "sam": sam,
    "load": load,
}


def main(text: str) -> int:
    """Measures one row and prints it, or why it cannot be measured."""
    row = json.loads(text)
    try:
        lines = KINDS[row.pop("kind")](**row)
    except torch.OutOfMemoryError:
        print("does not fit into the memory")
        return SKIPPED
    except UserError as error:
        print(error)
        return SKIPPED
    print(json.dumps(lines))
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1]))
