"""Attention of several models on the same photos, drawn and measured."""

import json as json_module
import logging
import os
import re
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from omegaconf import OmegaConf
from torch import Tensor

from ..checkpoint.encoder import EncoderSize, load_encoder
from ..config import load_config
from ..data import CropResizeTransform, read_image
from ..data.datasets.detection import detection_dataset
from ..errors import UserError
from ..evaluation.attention_share import AttentionShare, paired_difference, patch_cover
from ..modeling.attention_maps import AttentionViT
from ..photos.inputs import list_inputs
from ..regions import InstanceSource
from ..tables import table
from ..visualization.attention import Query, draw_attention, draw_components, draw_query, patch_of
from ..visualization.sheets import Picture, SheetRow, contact_sheet, save_picture
from .features import NORMALIZATIONS
from .finished_run import config_beside, names_of

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class NamedViT:
    """One model of a comparison; ``kind`` is that of its file, "random" if it has none."""

    name: str
    kind: str
    size: EncoderSize
    vit: AttentionViT
    normalization: str = "imagenet"  # of NORMALIZATIONS

    def prepare(self, image_HWC: Picture, side: int | None = None) -> Tensor:
        """Prepares a photo, uint8 RGB, as model input: uncropped, resized, normalised, on its device.

        Args:
            side: length of the shorter side, pixels; None for the image size of the position embedding.

        Returns:
            (1, 3, h, w), both multiples of the patch size.
        """
        height, width = image_HWC.shape[:2]
        patch = self.size.patch_size
        scale = (side or min(self.size.img_size)) / min(height, width) / patch
        high, wide = (max(1, round(length * scale)) * patch for length in (height, width))
        transform = CropResizeTransform(0, 0, width, height, high, wide, width, height)
        resized = transform.apply_image(image_HWC)
        mean, std = (torch.tensor(x).view(3, 1, 1) for x in NORMALIZATIONS[self.normalization])
        pixels = torch.from_numpy(np.ascontiguousarray(resized.transpose(2, 0, 1))).float()
        device = next(self.vit.net.parameters()).device
        return ((pixels - mean) / std)[None].to(device)

    def with_random_weights(self, name: str, seed: int = 0) -> "NamedViT":
        """Returns a network of the same size as it was before training."""
        device = next(self.vit.net.parameters()).device
        net = AttentionViT(self.size.build(seed).to(device))
        return replace(self, name=name, kind="random", vit=net)


def load_models(
    weights: Sequence[str],
    names: Sequence[str] = (),
    *,
    num_heads: int | None = None,
    normalizations: Sequence[str] = (),
    device: torch.device | None = None,
) -> list[NamedViT]:
    """Loads the files of a comparison.

    A run's config.yaml next to its weights gives the number of heads and windows, which tensors do not.

    Args:
        weights: files of any type that `rmae_d2.checkpoint.load_weights` accepts.
        names: see `names_of`.
        num_heads: for all of them; None for the value in config.yaml, else 64 channels per head.
        normalizations: keys of `NORMALIZATIONS`, one per file, or one for all.

    Raises:
        CheckpointError: if a file is missing, is no plain ViT, or its number of heads is unknown.
        UserError: if the number of names does not match the files, a normalization is unknown, or images
            are not RGB.
    """
    titles = names_of(weights, names)
    wanted = [*normalizations] or ["imagenet"]
    wanted *= len(weights) if len(wanted) == 1 else 1
    if len(wanted) != len(weights):
        raise UserError(f"--normalize: {len(wanted)} given for {len(weights)} weight files")
    for name in wanted:
        if name not in NORMALIZATIONS:
            raise UserError(f"--normalize {name}: one of {', '.join(NORMALIZATIONS)}")
    models = []
    for path, name, normalization in zip(weights, titles, wanted, strict=True):
        size, net, kind = load_encoder(path, *_hints(path, num_heads))
        if size.in_chans != 3:
            raise UserError(f"{path}: a ViT for images of {size.in_chans} channels, not RGB")
        vit = AttentionViT(net if device is None else net.to(device))
        models.append(NamedViT(name, kind, size, vit, normalization))
    return models


def _hints(weights: str, num_heads: int | None) -> tuple[int | None, Any]:
    """Reads heads, and size and blocks of windows, from the config next to the weights; None if not given."""
    config = config_beside(weights)
    net = None if config is None else OmegaConf.select(load_config(config), "model.backbone.net")
    if net is None:
        return num_heads, None
    blocks = net.get("window_block_indexes") or ()
    window = (int(net.get("window_size") or 0), [int(i) for i in blocks])
    return num_heads or net.get("num_heads"), window if window[0] and window[1] else None


def patch_attention(
    model: NamedViT, images_1CHW: Tensor, layer: str = "-1", head: int | None = None
) -> Tensor:
    """Computes the attention of one photo's tokens: (T, T) on the CPU, the cls token first if there is one.

    Args:
        layer: index of a block, "-1" for the last, or "rollout".
        head: index of a head; None for the mean over all.
    """
    check_layer(layer, head)
    if head is not None and not 0 <= head < model.vit.num_heads:
        raise UserError(f"{model.name} has {model.vit.num_heads} heads: no --head {head} from 0 on")
    try:
        if layer == "rollout":
            return model.vit.rollout(images_1CHW)[0].cpu()
        weights = model.vit.attention(images_1CHW, int(layer))[0]
    except UserError as error:
        raise UserError(f"{model.name}: --layer {layer}: {error}") from error
    return (weights.mean(dim=0) if head is None else weights[head]).cpu()


def check_layer(layer: str, head: int | None) -> None:
    """Rejects arguments that no model could satisfy."""
    if layer == "rollout" and head is not None:
        raise UserError("--head with --layer rollout, which is of the mean over the heads")
    if not re.fullmatch(r"rollout|-?\d+", layer):
        raise UserError(f"--layer {layer}: the number of a block, -1, or rollout")


def describe_layer(model: NamedViT, layer: str, head: int | None) -> str:
    """Describes the layer for titles: "block 11, mean of 12 heads"."""
    if layer == "rollout":
        return "rollout"
    heads = f"mean of {model.vit.num_heads} heads" if head is None else f"head {head}"
    return f"block {int(layer) % model.vit.depth}, {heads}"


_CAPTION = (
    "Attention: from 0 (dark) to the 98th percentile of each map (light), so strengths do not compare "
    "between maps; the query's patch is framed. Features: the first three principal components of the last "
    "block's patches as red, green, blue; each picture has its own, so colours do not compare either."
)


def parse_query(text: str) -> Query:
    """Parses ``x,y`` in pixels of the photo, or ``cls``."""
    if text == "cls":
        return Query(None, None)
    try:
        x, y = text.split(",")
        return Query(int(x), int(y))
    except ValueError as error:
        raise UserError(f"--query {text}: two whole numbers x,y in pixels, or cls") from error


def draw_attention_pictures(
    models: Sequence[NamedViT],
    inputs: Sequence[str],
    output: Path,
    *,
    queries: Sequence[Query] = (),
    layer: str = "-1",
    head: int | None = None,
    side: int | None = None,
    tile: int = 320,
) -> list[Path]:
    """Draws one picture per photo: one row per query and one of features, one column per model.

    Args:
        output: folder for the PNGs, named after the photos.
        queries: empty for the centre of each photo.
        layer, head: see `patch_attention`.
        side: shorter side of the model input, see `NamedViT.prepare`.
        tile: longest side of a photo in the picture, pixels.
    """
    check_layer(layer, head)
    written = []
    titles = ["photo", *(f"{m.name}: {describe_layer(m, layer, head)}" for m in models)]
    for photo in list_inputs(inputs):
        image = read_image(photo.path)
        try:
            middle = Query(image.shape[1] // 2, image.shape[0] // 2)
            rows = _rows(models, image, queries or [middle], layer, head, side)
        except UserError as error:
            raise UserError(f"{photo.path}: {error}") from error
        path = output / f"{os.path.splitext(photo.picture)[0]}_attention.png"
        written.append(save_picture(contact_sheet(rows, titles, _CAPTION, tile), path))
    return written


def _rows(
    models: Sequence[NamedViT],
    image: Picture,
    queries: Sequence[Query],
    layer: str,
    head: int | None,
    side: int | None,
) -> list[SheetRow]:
    for model in models:
        if not model.vit.prefix and any(query.x is None for query in queries):
            raise UserError(f"--query cls: {model.name} has no cls token")
    size = (image.shape[0], image.shape[1])
    first = models[0].vit.grid(models[0].prepare(image, side))
    maps = [[draw_query(image, patch_of(query, size, first), first)] for query in queries]
    components = [image]
    for model in models:
        pixels = model.prepare(image, side)
        grid = model.vit.grid(pixels)
        weights = patch_attention(model, pixels, layer, head).numpy()
        for drawn, query in zip(maps, queries, strict=True):
            patch = patch_of(query, size, grid)
            row = 0 if patch is None else model.vit.prefix + patch[0] * grid[1] + patch[1]
            seen = weights[row, model.vit.prefix :].reshape(grid)
            drawn.append(draw_attention(image, seen, patch))
        features = model.vit.features(pixels)[0].cpu().numpy()
        components.append(draw_components(features.reshape(*grid, -1), size))
    rows = [SheetRow(str(query), drawn) for query, drawn in zip(queries, maps, strict=True)]
    return [*rows, SheetRow("features of the last block", components)]


_DEFINITION = (
    "share: of the attention of the patches that an instance covers by half or more, the part that falls on "
    "that instance (patches by the part of them it covers; without the cls token), mean over its patches, "
    "then over the instances. area: what uniform attention would give. elsewhere: the part of the attention "
    "of patches that the instance does not touch. position: what the model's mean attention at each "
    "displacement would give, whatever is in the picture. Errors: standard errors over instances, those of "
    "one image taken together."
)


def measure_attention(
    models: Sequence[NamedViT],
    *,
    names: Sequence[str] = (),
    json: str | None = None,
    root: str | None = None,
    layer: str = "-1",
    head: int | None = None,
    side: int | None = None,
    max_images: int = 0,
    seed: int = 0,
    output: Path | None = None,
) -> dict[str, Any]:
    """Measures models, and a randomly initialised one per size: `rmae_d2.evaluation.attention_share`.

    Args:
        names: registered datasets with instance masks, used if there is no ``json``.
        json, root: custom data in COCO format, and the folder of its images.
        layer, head: see `patch_attention`.
        side: shorter side of the model input, see `NamedViT.prepare`.
        max_images: use only this many images with instances, from the first; 0 for all.

    Returns:
        ``data``, ``layer``, ``definition``; ``models``, with ``name``, ``network``, ``attention`` and the
        output of `AttentionShare.evaluate` for each; ``differences`` of the first model to each other over
        the same instances, of the share and of its excess over elsewhere.
    """
    check_layer(layer, head)
    dicts = detection_dataset(names, json=json, root=root, filter_empty=True, masks=True)
    dicts = dicts[:max_images] if max_images else dicts
    first = {(m.size, m.normalization): m for m in reversed(models)}
    like = list(reversed(first.values()))
    titles = ["random weights"] if len(like) == 1 else [f"random, as {m.name}" for m in like]
    random = [m.with_random_weights(title, seed) for m, title in zip(like, titles, strict=True)]
    compared = {model: AttentionShare() for model in (*models, *random)}
    source = InstanceSource()
    for number, sample in enumerate(dicts, 1):
        image = read_image(sample["file_name"])
        record = source(sample, image)
        masks = record.select(np.arange(len(record.regions())))
        for model, share in compared.items():
            pixels = model.prepare(image, side)
            weights = patch_attention(model, pixels, layer, head).double().numpy()
            patches = weights[model.vit.prefix :, model.vit.prefix :]
            share.process(sample["file_name"], patches, patch_cover(masks, model.vit.grid(pixels)))
        if number % 100 == 0:
            logger.info("%d of %d images", number, len(dicts))
    data = json or ", ".join(names)
    try:
        result = {"data": data, "layer": layer, "definition": _DEFINITION}
        result |= _measured(compared, layer, head)
    except UserError as error:
        raise UserError(f"{data}: {error}") from error
    if output is not None:
        output.parent.mkdir(parents=True, exist_ok=True)
        output.write_text(json_module.dumps(result, indent=1) + "\n")
    return result


def _measured(
    compared: dict[NamedViT, AttentionShare], layer: str, head: int | None
) -> dict[str, Any]:
    models = [
        {
            "name": model.name,
            "network": str(model.size),
            "attention": describe_layer(model, layer, head),
            **share.evaluate(),
        }
        for model, share in compared.items()
    ]
    (first, own), *others = compared.items()
    differences = [
        {
            "value": "share - elsewhere" if beyond else "share",
            "of": first.name,
            "to": model.name,
            **paired_difference(own.shares(beyond), share.shares(beyond)),
        }
        for beyond in (False, True)
        for model, share in others
        if own.shares(beyond).keys() & share.shares(beyond).keys()
    ]
    return {"models": models, "differences": differences}


def share_table(result: dict[str, Any]) -> str:
    """Formats the result of `measure_attention` as lines to print."""
    headers = ["model", "share", "area", "elsewhere", "position"]
    headers += ["share-elsewhere", "share-position", "instances"]
    rows = []
    for entry in result["models"]:
        row = [entry["name"], _percent(entry["share"], entry["share_error"])]
        row += [_percent(entry[key]) for key in ("area", "elsewhere", "position")]
        for key in ("beyond_elsewhere", "beyond_position"):
            row.append(_percent(entry[key], entry[f"{key}_error"], sign=True))
        rows.append([*row, f"{entry['instances']} ({entry['too_small']} too small)"])
    differences = [
        f"{entry['value']}: {entry['of']} less {entry['to']}: "
        f"{_percent(entry['difference'], entry['error'], sign=True)} (paired, {entry['instances']})"
        for entry in result["differences"]
    ]
    title = f"{result['data']}: attention on the query's own instance, %"
    return "\n".join([title, table(headers, rows), *differences, result["definition"]])


def _percent(value: float | None, error: float | None = None, sign: bool = False) -> str:
    if value is None:
        return "-"
    text = f"{100 * value:{'+' if sign else ''}.2f}"
    return text if error is None else f"{text} ± {100 * error:.2f}"
