"""The paper's figure 5: what a model was given of a photo and its regions, and what it made of that.

Letters: K regions, C channels, H W pixels.
"""

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from ..modeling import mask_to_pixels
from .sheets import Picture, SheetRow, contact_sheet

_GRAY = 128  # of hidden patches

_NORMALISED = (
    "Pixels predicted: the model predicts patches normalised to zero mean and unit variance; they are shown "
    "with the mean and variance that each patch has in the original, which the model does not predict."
)
_AS_THEY_ARE = "Pixels predicted: as the model predicts them."
_VISIBLE = "Visible patches are shown as they were given, in the predictions too."
_REGIONS = "Regions predicted: white for probability 1, black for 0."


@dataclass(frozen=True)
class Panel:
    """One photo through the model, at one mask ratio.

    Attributes:
        title: of the photo.
        mask_ratio: of the pixel patches.
        image: uint8 (H, W, 3), as the model was given it.
        output: of the model in evaluation mode, on the CPU.
        regions: bool (K, H, W), those that are shown: the first K of the output's.
        all_regions: a picture of them; None where the model gets none.
    """

    title: str
    mask_ratio: float
    image: Picture
    output: dict[str, Tensor]
    regions: NDArray[np.bool_]
    all_regions: Picture | None = None


def draw_panel(panels: list[Panel], norm_pix_loss: bool, side: int = 224) -> Picture:
    """One photo: for each mask ratio a row of pixels, then one for each region.

    Args:
        panels: of one photo, one a mask ratio.
        norm_pix_loss: whether the model predicts normalised pixels.
        side: of a picture on the sheet, pixels.
    """
    output = panels[0].output
    has_regions = "region_probability" in output
    rows = []
    for panel in panels:
        pixels = _pixels(panel)
        if "reconstruction" not in output:
            pixels.insert(1, None)
        rows.append(SheetRow(_title(panel), [*pixels, *([panel.all_regions] * has_regions)]))
        for k in range(len(panel.regions) if has_regions else 0):
            pictures = [*_region(panel, k), _on_photo(panel.image, panel.regions[k])]
            rows.append(SheetRow(_region_title(panel, k), pictures))
    titles = ["given", "predicted", "original", *(["regions in the image"] * has_regions)]
    return contact_sheet(rows, titles, _caption(output, norm_pix_loss), side)


def draw_contact_sheet(panels: list[Panel], norm_pix_loss: bool, side: int = 160) -> Picture:
    """Several photos: a row a photo and mask ratio, with the first of its regions, as the paper has it."""
    output = panels[0].output
    titles = ["masked image", "pixels predicted", "image"]
    if "reconstruction" not in output:
        titles.remove("pixels predicted")
    if "region_probability" in output:
        titles += ["masked region", "region predicted", "region", "all regions"]
    rows = []
    for panel in panels:
        title, pictures = _title(panel), _pixels(panel)
        if "region_probability" in output:
            found = len(panel.regions) > 0
            title += f"; {_region_title(panel, 0) if found else 'no region'}"
            pictures += [*(_region(panel, 0) if found else [None] * 3), panel.all_regions]
        rows.append(SheetRow(title, pictures))
    return contact_sheet(rows, titles, _caption(output, norm_pix_loss), side)


def region_iou(truth_HW: NDArray[np.bool_], predicted_HW: Any, hidden_HW: Any) -> float:
    """Intersection over union of a region and its prediction (probability 1/2), of hidden pixels only.

    Returns:
        in [0, 1]; 1 where both are empty.
    """
    truth, predicted = truth_HW & hidden_HW, (predicted_HW >= 0.5) & hidden_HW
    union = int((truth | predicted).sum())
    return int((truth & predicted).sum()) / union if union else 1.0


def _title(panel: Panel) -> str:
    return f"{panel.title}: {panel.mask_ratio:.0%} of the patches hidden"


def _pixels(panel: Panel) -> list[Picture | None]:
    """Masked image, prediction where there is one, image."""
    hidden = _hidden(panel, "mask")[:, :, None]
    pictures: list[Picture | None] = [np.where(hidden, _GRAY, panel.image).astype(np.uint8)]
    if "reconstruction" in panel.output:
        pictures.append(_bytes(panel.output["reconstruction"].numpy().transpose(1, 2, 0)))
    return [*pictures, panel.image]


def _region(panel: Panel, k: int) -> list[Picture]:
    """Masked region, prediction, region."""
    region = np.where(panel.regions[k], 255, 0)
    masked = np.where(_hidden(panel, "region_mask"), _GRAY, region)
    tiles = (masked, panel.output["region_probability"][k].float().numpy() * 255, region)
    return [np.repeat(_bytes(tile)[:, :, None], 3, axis=2) for tile in tiles]


def _region_title(panel: Panel, k: int) -> str:
    probability = panel.output["region_probability"][k].float().numpy()
    iou = region_iou(panel.regions[k], probability, _hidden(panel, "region_mask"))
    return f"region {k + 1}, IoU {iou:.2f} on hidden patches"


def _on_photo(image: Picture, region: NDArray[np.bool_]) -> Picture:
    """The region as it is, the rest dim."""
    return np.where(region[:, :, None], image, image // 4)


def _hidden(panel: Panel, key: str) -> NDArray[np.bool_]:
    """Bool (H, W)."""
    size = (panel.image.shape[0], panel.image.shape[1])
    hidden: NDArray[np.bool_] = mask_to_pixels(panel.output[key], size).numpy()
    return hidden


def _bytes(values: NDArray[Any]) -> Picture:
    picture: Picture = values.round().clip(0, 255).astype(np.uint8)
    return picture


def _caption(output: dict[str, Tensor], norm_pix_loss: bool) -> str:
    parts = []
    if "reconstruction" in output:
        parts.append(_NORMALISED if norm_pix_loss else _AS_THEY_ARE)
    if "region_probability" in output:
        parts.append(_REGIONS)
    return " ".join([*parts, _VISIBLE])
