"""Implements `rmae-d2 evaluate-interactive`: IoU versus number of patches or clicks, with baselines."""

import json
import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..data.datasets import detection_dataset
from ..data.images import read_image
from ..errors import UserError
from ..evaluation import interactive
from ..evaluation.interactive import Curve, Hints, Mask, Method, Segmenter
from ..regions.segment_walk import place_seeds
from ..visualization.curves import draw_iou_curves
from .region_prompt import RegionPrompt, RegionPromptPredictor

COUNTS = tuple(range(21))
_LEAST_PATCHES = 2  # of the model's grid: smaller objects consist of border only
_MOST_SHARE = 0.6  # of the image: larger objects are its background
_TABLE = (0, 1, 2, 3, 5, 10, 20)


def _with_edges(predictor: RegionPromptPredictor) -> Method:
    """The predictor with its default, edges drawn by the image."""

    def start(image_HWC: NDArray[np.uint8]) -> Segmenter:
        embedding = predictor.embed(image_HWC)
        assert embedding.segments is not None
        size = embedding.segments.labels.shape

        def segment(hints: Sequence[Hints]) -> Mask:
            prompts = [
                RegionPrompt(h.visible, h.region, seeds=place_seeds(h.seeds, size)) for h in hints
            ]
            return predictor.predict(prompts, embedding=embedding).masks

        return segment

    return Method(start, by_patches=False)


def _model_alone(predictor: RegionPromptPredictor) -> Method:
    """The same model with the same input, using its probabilities as the mask."""

    def start(image_HWC: NDArray[np.uint8]) -> Segmenter:
        embedding = replace(predictor.embed(image_HWC), segments=None)

        def segment(hints: Sequence[Hints]) -> Mask:
            prompts = [RegionPrompt(h.visible, h.region).with_background() for h in hints]
            return predictor.predict(prompts, embedding=embedding).masks

        return segment

    return Method(start, by_patches=True)


def evaluate_interactive(
    predictor: RegionPromptPredictor,
    output: Path,
    *,
    dataset: str | None = None,
    json_file: str | None = None,
    root: str | None = None,
    protocol: str = "clicks",
    max_objects: int = 100,
    seed: int = 0,
    settings: dict[str, Any] | None = None,
) -> str:
    """Runs one protocol and writes ``interactive_PROTOCOL.json`` and ``.png``.

    Objects are drawn at random from those, except crowds, with an area of at least two patches of the
    model's grid and at most 60 % of the image.

    Besides R-MAE with the image's edges, each half is measured alone: the model without edges, and edges
    without the model.

    Args:
        predictor: one with edges drawn by the image.
        dataset: registered name; used if there is no json.
        json_file, root: custom data in COCO format.
        seed: for the choice of objects and patches.
        settings: recorded in the json besides this call's own.

    Returns:
        A table of mean IoU in percent.

    Raises:
        UserError: if the predictor uses the model's edges, neither dataset nor json is given, the protocol is
            unknown, there are no such objects, or an image's size differs from its annotations.
    """
    if protocol not in interactive.PROTOCOLS:
        raise UserError(f"protocol={protocol!r}: one of {', '.join(interactive.PROTOCOLS)}")
    if predictor.edges != "image":
        raise UserError(f"a predictor with edges={predictor.edges!r}: give one with edges='image'")
    samples = detection_dataset(dataset or (), json_file, root, masks=True)
    least = _LEAST_PATCHES / predictor.model.backbone.net.num_patches
    chosen = interactive.choose_objects(samples, least, _MOST_SHARE, max_objects, seed)
    methods = {
        "R-MAE": _with_edges(predictor),
        "R-MAE without the image's edges": _model_alone(predictor),
        "the image's edges without R-MAE": Method(interactive.edges_alone, by_patches=False),
        "random walker": Method(interactive.random_walk, by_patches=False),
        "FH segments": Method(interactive.fh_segments, by_patches=False),
        "given patches only": Method(interactive.given_patches, by_patches=True),
    }
    rows: dict[str, list[NDArray[np.float64]]] = {name: [] for name in methods}
    seconds = dict.fromkeys(methods, 0.0)
    targets = [target for own in chosen.values() for target in own]
    for i, own in chosen.items():
        image = read_photo(samples[i])
        where = (predictor.embed(image).grid, predictor.patch_size, COUNTS)
        for name, method in methods.items():
            begin = time.perf_counter()
            segment = method.start(image)
            if protocol == "patches":
                found = interactive.patches_protocol(segment, own, *where, seed)
            else:
                found = interactive.clicks_protocol(segment, own, *where, method.by_patches)
            rows[name].append(found)
            seconds[name] += time.perf_counter() - begin
    curves = {name: Curve(COUNTS, np.concatenate(values)) for name, values in rows.items()}
    report = {
        "protocol": protocol,
        "dataset": json_file or dataset,
        "objects": len(targets),
        "images": len(chosen),
        "area_share": [least, _MOST_SHARE],
        "seed": seed,
        "predictor": {
            "resolution": predictor.resolution,
            "mask_ratio": predictor.mask_ratio,
            "seed": predictor.seed,
        },
        **(settings or {}),
        "seconds": {name: round(value, 1) for name, value in seconds.items()},
        **interactive.summary(curves, targets),
    }
    output.mkdir(parents=True, exist_ok=True)
    (output / f"interactive_{protocol}.json").write_text(json.dumps(report, indent=1))
    units = {"clicks": "simulated clicks", "patches": "random patches with their true content"}
    draw_iou_curves(
        {n: (c.counts, c.mean.tolist(), c.standard_error.tolist()) for n, c in curves.items()},
        output / f"interactive_{protocol}.png",
        title=f"{Path(str(json_file or dataset)).name}: {len(targets)} objects in {len(chosen)} images",
        unit=units[protocol],
    )
    return interactive.iou_table(curves, _TABLE)


def read_photo(sample: dict[str, Any]) -> NDArray[np.uint8]:
    """Reads a sample's image; rejects it if its size differs from its annotations."""
    image = read_image(sample["file_name"])
    if image.shape[:2] != (sample["height"], sample["width"]):
        raise UserError(
            f"{sample['file_name']} has {image.shape[0]} x {image.shape[1]} pixels (height x width), its "
            f"annotations are for {sample['height']} x {sample['width']}"
        )
    return image
