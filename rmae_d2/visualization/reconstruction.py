"""What a model was given of a photo and its regions, and what it predicted.

Letters: K regions, C channels, H W pixels, L patches.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from ..modeling import mask_to_pixels
from ..photos.bands import limits, shown_between, three_of
from ..regions import unpack_bits
from .sheets import Picture, SheetRow, contact_sheet

_GRAY = 128  # for hidden patches
_MIN_WIDTH = 112  # of a tile, to fit its title


def draw_reconstructions(
    samples: Sequence[dict[str, Any]], outputs: Sequence[dict[str, Any]], max_regions: int = 3
) -> NDArray[np.uint8]:
    """Draws samples and an RMAE's evaluation outputs, one row per sample.

    A row has the image, the mask probability (if the masking policy learned one), the masked image and the
    predicted pixels; then for a few regions: region, masked region, predicted region.

    Args:
        samples: as from the mapper, ``image`` (C, H, W); of more than three channels, or of floats,
            three are shown, see `picture_of`.
        outputs: of the model in evaluation mode, one per sample.
        max_regions: number of regions to show per sample, largest first, as the most informative.

    Returns:
        An RGB picture, (height, width, 3) uint8; small images are enlarged by an integer factor.
    """
    rows = [_row(s, o, max_regions) for s, o in zip(samples, outputs, strict=True)]
    titles = ["image", "visible patches"]
    if "mask_probability" in outputs[0]:
        titles.insert(1, "mask probability")
    if "reconstruction" in outputs[0]:
        titles.append("pixels predicted")
    for k in range((len(rows[0]) - len(titles)) // 3):
        titles += [f"region {k + 1}", "visible patches", "region predicted"]
    side = max(rows[0][0].shape[:2])
    return contact_sheet([SheetRow("", row) for row in rows], titles, side=side)


def _row(sample: dict[str, Any], output: dict[str, Tensor], max_regions: int) -> list[NDArray[Any]]:
    show = _view(sample["image"])
    image = show(sample["image"])
    tiles = [image, _masked(image, output["mask"])]
    if "mask_probability" in output:
        tiles.insert(1, _heat(output["mask_probability"], image))
    if "reconstruction" in output:
        tiles.append(show(output["reconstruction"]))
    if "region_probability" in output:
        probability = output["region_probability"].float().cpu().numpy()
        truths = unpack_bits(sample["regions"].cpu().numpy(), len(probability))
        largest = sorted(range(len(truths)), key=lambda k: int(truths[k].sum()), reverse=True)
        # A region that no scale splits is found at every scale: show repeats last.
        first = set({truths[k].tobytes(): k for k in reversed(largest)}.values())
        for k in sorted(largest, key=lambda k: k not in first)[:max_regions]:
            region = _three(np.where(truths[k], 255, 0))
            tiles += [region, _masked(region, output["region_mask"]), _three(probability[k] * 255)]
    enlarge = -(-_MIN_WIDTH // tiles[0].shape[1])
    return [tile.astype(np.uint8).repeat(enlarge, 0).repeat(enlarge, 1) for tile in tiles]


def _view(image_CHW: Tensor) -> Callable[[Tensor], NDArray[Any]]:
    """Returns how to show an image and others like it: unchanged, or three bands between its own limits."""
    channels = len(image_CHW)
    if channels == 3 and not image_CHW.is_floating_point():
        return lambda image: image.float().cpu().round().numpy().transpose(1, 2, 0)
    bands = three_of(channels)
    low, high = limits(image_CHW[bands].float().cpu().numpy().transpose(1, 2, 0))

    def show(image: Tensor) -> NDArray[Any]:
        return shown_between(image[bands].float().cpu().numpy().transpose(1, 2, 0), low, high)

    return show


def _three(values_HW: NDArray[Any]) -> NDArray[Any]:
    return np.repeat(values_HW[:, :, None], 3, axis=2)


def _pixels_of(values_L: Tensor, picture: NDArray[Any]) -> NDArray[Any]:
    """Enlarges per-patch values to the picture's size, (H, W)."""
    return np.asarray(mask_to_pixels(values_L.cpu(), (picture.shape[0], picture.shape[1])))


def _masked(picture_HWC: NDArray[Any], mask_L: Tensor) -> NDArray[Any]:
    return np.where(_pixels_of(mask_L, picture_HWC)[:, :, None], _GRAY, picture_HWC)


def _heat(probability_L: Tensor, picture: NDArray[Any]) -> NDArray[Any]:
    """Maps 0 to black, through red and yellow to white for the highest, (H, W, 3)."""
    from matplotlib import colormaps

    share = _pixels_of((probability_L / probability_L.max()).float(), picture)
    return (colormaps["hot"](share)[:, :, :3] * 255).round()


_NORMALISED = (
    "Pixels predicted: the model predicts patches normalised to zero mean and unit variance; they are shown "
    "with the mean and variance that each patch has in the original, which the model does not predict."
)
_AS_THEY_ARE = "Pixels predicted: as the model predicts them."
_EITHER = (
    "Pixels predicted: of models with norm_pix_loss, which predict patches normalised to zero mean and unit "
    "variance, with the original's mean and variance; of others as they are."
)
_VISIBLE = "Visible patches are shown as they were given, in the predictions too."
_REGIONS = "Regions predicted: white for probability 1, black for 0."


@dataclass(frozen=True)
class Panel:
    """One photo through the model at one mask ratio."""

    title: str
    mask_ratio: float
    image: Picture  #: as given to the model
    output: dict[str, Tensor]  #: of the model in evaluation mode, on the CPU
    regions: NDArray[np.bool_]  #: (K, H, W), those shown: the first K of the output's
    nearest: NDArray[np.bool_]  #: (K, H, W), predictions from the visible patches alone
    all_regions: Picture | None = None  #: a picture of them; None if the model gets none
    normalised: bool = (
        False  #: whether the model predicts normalised pixels, as the caption then states
    )

    @property
    def has_pixels(self) -> bool:
        """Whether the model predicts pixels."""
        return "reconstruction" in self.output

    @property
    def has_regions(self) -> bool:
        """Whether the model predicts regions."""
        return "region_probability" in self.output


def draw_panel(panels: list[Panel], side: int = 224) -> Picture:
    """Draws one photo: for each panel a row of pixels, then one per region; ``side`` is a picture's.

    The panels show several mask ratios or models.
    """
    has_regions = any(panel.has_regions for panel in panels)
    rows = []
    for panel in panels:
        overview = [panel.all_regions] if panel.has_regions else []
        rows.append(SheetRow(_title(panel), [*_pixels(panel), *overview]))
        for k in range(len(panel.regions) if panel.has_regions else 0):
            # In the photo: the region unchanged, the rest dimmed.
            dim = np.where(panel.regions[k][:, :, None], panel.image, panel.image // 4)
            rows.append(SheetRow(_region_title(panel, k), [*_region(panel, k), dim]))
    titles = ["given", "predicted", "original", *(["regions in the image"] * has_regions)]
    return contact_sheet(rows, titles, _caption(panels), side)


def draw_contact_sheet(panels: list[Panel], side: int = 160) -> Picture:
    """Draws several photos: one row per panel, with the first of its regions, as in the paper."""
    has_pixels = any(panel.has_pixels for panel in panels)
    titles = ["masked image", "pixels predicted", "image"]
    if not has_pixels:
        titles.remove("pixels predicted")
    if any(panel.has_regions for panel in panels):
        titles += ["masked region", "region predicted", "region", "all regions"]
    rows = []
    for panel in panels:
        title, pictures = _title(panel), _pixels(panel)
        if not has_pixels:
            del pictures[1]
        if panel.has_regions:
            found = len(panel.regions) > 0
            title += f"; {_region_title(panel, 0) if found else 'no region'}"
            pictures += [*(_region(panel, 0) if found else [None] * 3), panel.all_regions]
        rows.append(SheetRow(title, pictures))
    return contact_sheet(rows, titles, _caption(panels), side)


def region_iou(truth_HW: NDArray[np.bool_], predicted_HW: Any, hidden_HW: Any) -> float:
    """Intersection over union of a region and its prediction (probability 1/2), over hidden pixels only.

    1 if both are empty.
    """
    truth, predicted = truth_HW & hidden_HW, (predicted_HW >= 0.5) & hidden_HW
    union = int((truth | predicted).sum())
    return int((truth & predicted).sum()) / union if union else 1.0


def _title(panel: Panel) -> str:
    return f"{panel.title}: {panel.mask_ratio:.0%} of the patches hidden"


def _pixels(panel: Panel) -> list[Picture | None]:
    """Masked image, prediction if there is one, image."""
    predicted = None
    if panel.has_pixels:
        predicted = _bytes(panel.output["reconstruction"].numpy().transpose(1, 2, 0))
    return [_bytes(_masked(panel.image, panel.output["mask"])), predicted, panel.image]


def _region(panel: Panel, k: int) -> list[Picture]:
    """Masked region, prediction, region."""
    region = _three(np.where(panel.regions[k], 255, 0))
    predicted = _three(panel.output["region_probability"][k].float().numpy() * 255)
    masked = _masked(region, panel.output["region_mask"])
    return [_bytes(tile) for tile in (masked, predicted, region)]


def _region_title(panel: Panel, k: int) -> str:
    probability = panel.output["region_probability"][k].float().numpy()
    hidden = _pixels_of(panel.output["region_mask"], panel.image)
    if not hidden.any():
        return f"region {k + 1}, no patch hidden"
    iou = region_iou(panel.regions[k], probability, hidden)
    nearest = region_iou(panel.regions[k], panel.nearest[k], hidden)
    return f"region {k + 1}, IoU {iou:.2f} on hidden patches (nearest visible patch {nearest:.2f})"


def _bytes(values: NDArray[Any]) -> Picture:
    picture: Picture = values.round().clip(0, 255).astype(np.uint8)
    return picture


def _caption(panels: list[Panel]) -> str:
    parts = []
    normalised = {panel.normalised for panel in panels if panel.has_pixels}
    if normalised == {True, False}:
        parts.append(_EITHER)
    elif normalised:
        parts.append(_NORMALISED if normalised == {True} else _AS_THEY_ARE)
    if any(panel.has_regions for panel in panels):
        parts.append(_REGIONS)
    return " ".join([*parts, _VISIBLE])
