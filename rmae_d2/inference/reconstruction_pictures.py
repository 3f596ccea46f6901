"""Implements `rmae-d2 visualize reconstruction` (the paper's figure 5 for any photos) and `masking`."""

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from detectron2.config import instantiate
from numpy.typing import NDArray
from omegaconf import DictConfig, OmegaConf

from ..data import CropResizeTransform, read_image
from ..data.images import label_indices
from ..data.loader import seeded
from ..data.mappers import RegionSource
from ..errors import UserError
from ..evaluation import nearest_visible
from ..modeling import RMAE, ChannelRegionBranch, num_visible
from ..photos.inputs import list_inputs
from ..regions import FelzenszwalbSource, InstanceSource, RegionRecord, SamSource
from ..visualization import draw_reconstructions, draw_regions
from ..visualization.reconstruction import Panel, draw_contact_sheet, draw_panel
from ..visualization.sheets import save_picture
from .finished_run import load_run, names_of

SHEET = "contact_sheet.png"
SOURCES = ("fh", "json", "sam")

_FH_SCALES = (500, 1000, 1500)  # the paper's
# Regions shown: none above this share of the picture if there are others, and mutually dissimilar.
_LARGEST = 0.5
_SAME_IOU = 0.5
_NUM_REGIONS = 8


def region_source(name: str, json: str | None = None, sam_model: str | None = None) -> RegionSource:
    """Returns the source named on the command line.

    Args:
        name: ``fh``, the paper's unsupervised one; ``json``, instance masks in COCO or LVIS format;
            ``sam``.
    """
    if name == "fh":
        return FelzenszwalbSource(scales=_FH_SCALES)
    if name not in SOURCES:
        raise UserError(f"--regions {name}: one of {', '.join(SOURCES)}")
    option, given = ("--json FILE", json) if name == "json" else ("--sam-model NAME", sam_model)
    if not given:
        raise UserError(f"--regions {name} needs {option}")
    return InstanceSource(given) if name == "json" else SamSource(given)


def draw_reconstruction_pictures(
    weights: Sequence[str],
    inputs: Sequence[str],
    output: Path,
    source: RegionSource,
    *,
    names: Sequence[str] = (),
    config_file: str | None = None,
    overrides: Sequence[str] = (),
    mask_ratios: Sequence[float] = (),
    seed: int = 0,
    max_images: int = 8,
    max_regions: int = 3,
    worst: int | None = None,
) -> list[Path]:
    """Draws one picture per photo, and one of all.

    From each photo, the largest centred crop of the model's shape is taken. Its regions are given to the
    model, largest first, filled up to the number it was trained with, with repeats if there are fewer.

    Args:
        weights: checkpoints of pre-training runs: R-MAE, MAE (no regions are drawn), or RAE (no pixels);
            several are drawn below each other, each with its own size and masks.
        output: folder for the PNGs, named after the photos, and `SHEET`.
        source: of the regions; unused if the model needs none.
        names: of the models, if there are several, see `names_of`.
        config_file: of the run; None for the config.yaml next to the weights.
        mask_ratios: fractions of pixel patches hidden, one row each; empty for the model's own. The region
            branch follows, unless its config sets its own ratio.
        seed: of the masks; photo i uses seed + i at every ratio, so a higher ratio hides more patches.
        max_images: use only this many inputs, from the first.
        max_regions: regions drawn per photo.
        worst: draw only this many photos, those with the largest loss of the first model at the first
            ratio (region loss if it predicts regions, else pixel loss), largest first; None for all.
    """
    if max_images < 1 or max_regions < 1:
        raise UserError(f"--max-images {max_images}, --max-regions {max_regions}: 1 or more")
    photos = list_inputs(inputs)[:max_images]
    if config_file is not None and len(weights) > 1:
        raise UserError(f"--config-file {config_file} with several --weights: each has its own")
    shown_as = [f", {name}" for name in names_of(weights, names)] if len(weights) > 1 else [""]
    runs = [load_run(file, config_file, overrides) for file in weights]
    for _, model in runs:
        _check_drawable(model, mask_ratios)
    drawn = []
    for number, photo in enumerate(photos):
        panels = []
        for name, (cfg, model) in zip(shown_as, runs, strict=True):
            title = os.path.basename(photo.path) + name
            given = (photo.dataset_dict, source, mask_ratios, max_regions, seed + number)
            panels += _panels(title, cfg, model, *given)
        drawn.append((photo.picture, panels))
    if worst is not None:
        drawn = sorted(drawn, key=lambda of_photo: -_loss(of_photo[1][0]))[:worst]
    written = [
        save_picture(draw_panel(panels), (output / picture).with_suffix(".png"))
        for picture, panels in drawn
    ]
    of_all = [panel for _, panels in drawn for panel in panels]
    return [*written, save_picture(draw_contact_sheet(of_all), output / SHEET)]


def _loss(panel: Panel) -> float:
    """Returns the region loss if there is one, else the pixel loss."""
    return float(panel.output.get("loss_region", panel.output.get("loss_pixel", torch.zeros(()))))


def _check_drawable(model: RMAE, mask_ratios: Sequence[float]) -> None:
    """Rejects a model that does not take RGB images, or ratios that leave it nothing."""
    net = model.backbone.net
    if net.in_chans != 3:
        raise UserError(f"a model for images of {net.in_chans} channels, not RGB")
    for ratio in mask_ratios:
        try:
            num_visible(net.num_patches, ratio)
        except UserError as error:
            raise UserError(f"--mask-ratio: {error}") from error


def _panels(
    title: str,
    cfg: DictConfig,
    model: RMAE,
    photo: dict[str, Any],
    source: RegionSource,
    mask_ratios: Sequence[float],
    max_regions: int,
    seed: int,
) -> list[Panel]:
    """Runs one photo through one model at each ratio, or at the model's own if none is given."""
    image, record = _centre(model, photo, source)
    shown, given = _choose(record, model, cfg, max_regions)
    sample = {
        "image": torch.from_numpy(np.ascontiguousarray(image.transpose(2, 0, 1))),
        "mask_seed": seed,
    }
    if given is not None:
        sample["regions"] = torch.from_numpy(given)
    overview = [] if record is None else draw_regions(image, record)[1:2]
    seen = overview[0] if overview else image
    panels = []
    for ratio in mask_ratios or [model.mask_ratio]:
        predicted = _predict(model, sample, ratio)
        nearest = shown
        if "region_mask" in predicted:
            nearest = nearest_visible(torch.from_numpy(shown), predicted["region_mask"]).numpy()
        made = (image, predicted, shown, nearest, seen, model.norm_pix_loss)
        panels.append(Panel(title, ratio, *made))
    return panels


def _centre(
    model: RMAE, photo: dict[str, Any], source: RegionSource
) -> tuple[NDArray[np.uint8], RegionRecord | None]:
    """Returns the largest centred crop of the model's shape, at its size, with its regions."""
    whole = read_image(photo["file_name"])
    height, width = whole.shape[:2]
    high, wide = model.backbone.net.img_size
    scale = min(height / high, width / wide)
    crop = (min(height, max(1, round(high * scale))), min(width, max(1, round(wide * scale))))
    top, left = (height - crop[0]) // 2, (width - crop[1]) // 2
    transform = CropResizeTransform(left, top, crop[1], crop[0], high, wide, width, height)
    image = np.ascontiguousarray(transform.apply_image(whole))
    if not model.needs_regions:
        return image, None
    try:
        record = source(photo, whole)
    except (OSError, UserError, RuntimeError) as error:
        raise UserError(f"the regions of {photo['file_name']}: {error}") from error
    taken = label_indices(transform, record.size)
    assert taken is not None  # known for a CropResizeTransform
    return image, record.take(*taken)


def _choose(
    record: RegionRecord | None, model: RMAE, cfg: DictConfig, max_regions: int
) -> tuple[NDArray[np.bool_], NDArray[np.bool_] | None]:
    """Returns the regions to show, and all that the model gets, beginning with these."""
    size = model.backbone.net.img_size
    if record is None:
        return np.zeros((0, *size), np.bool_), None
    areas = record.regions().area
    order = np.lexsort((-areas, areas > _LARGEST * size[0] * size[1]))
    shown: list[int] = []
    for index in order.tolist():
        if len(shown) == max_regions:
            break
        pairs = (record.select([index, other]) for other in shown)
        if all((a & b).sum() < _SAME_IOU * max(1, (a | b).sum()) for a, b in pairs):
            shown.append(index)
    wanted = OmegaConf.select(cfg, "dataloader.train.mapper.num_regions", default=_NUM_REGIONS)
    if isinstance(model.region_branch, ChannelRegionBranch):  # takes exactly that many
        shown = shown[:wanted]
    pool = [*shown, *(index for index in order.tolist() if index not in shown)]
    count = max(wanted, len(shown))
    if not pool:
        return np.zeros((0, *size), np.bool_), np.zeros((count, *size), np.bool_)
    filled = [pool[k % len(pool)] for k in range(count)]
    return record.select(shown), record.select(filled)


def _predict(model: RMAE, sample: dict[str, Any], ratio: float) -> dict[str, torch.Tensor]:
    with torch.no_grad():
        (output,) = model([sample], mask_ratio=ratio)
    return {key: value.cpu() for key, value in output.items()}


def draw_masking(
    config_file: str | None,
    weights: str,
    inputs: Sequence[str],
    output: Path,
    *,
    overrides: Sequence[str] = (),
    max_images: int = 8,
    seed: int = 0,
) -> Path:
    """Draws one sheet, one row per photo: image, mask probability if the policy has one, mask, predictions.

    Photos pass through the config's test mapper, so they are cropped as in evaluation; regions are made only
    if the model or its policy uses them.

    Args:
        config_file: of a pre-training run; None for the config.yaml next to its weights.
        weights: its checkpoint, masking policy included; every tensor must fit.
        seed: of crops and masks.
    """
    photos = list_inputs(inputs)[:max_images]
    cfg, model = load_run(weights, config_file, overrides)
    node = OmegaConf.select(cfg, "dataloader.test.mapper")
    if node is None:
        raise UserError(f"{config_file or weights}: no dataloader.test.mapper to read photos with")
    if not model.needs_regions:
        node.regions = None
    mapper = instantiate(node)
    samples: list[dict[str, Any]] = []
    for i, photo in enumerate(photos):
        try:
            with seeded(seed, i):
                samples.append(mapper(photo.dataset_dict))
        except UserError as error:
            source = "(Regions are those of dataloader.test.mapper.regions.)"
            raise UserError(f"{photo.path}: {error}\n{source}") from error
    with torch.no_grad():
        outputs = model(samples)
    return save_picture(draw_reconstructions(samples, outputs), output)
