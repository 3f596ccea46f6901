"""Measures how well a pre-trained model reconstructs images it has not seen.

Letters: K regions, H W pixels, L patches, V visible patches, P patch side.
"""

from collections import OrderedDict, defaultdict
from itertools import chain
from typing import Any

import torch
from detectron2.evaluation import DatasetEvaluator
from detectron2.utils import comm
from torch import Tensor

from ..modeling import mask_to_pixels
from ..regions import unpack_bits


class ReconstructionEvaluator(DatasetEvaluator):
    """Mean losses over a dataset and, with a region branch, the IoU of predicted regions.

    The IoU is over foreground pixels of hidden patches at probability 0.5, pooled over all regions and
    images. Empty maps, which stand for the regions of an image that has none, are left out. The model-free
    baseline is ``region_iou_nearest``: every hidden patch filled by `nearest_visible`.

    Samples from additional region sources (``region_source``, see
    `build_reconstruction_loader`) are reported separately, under the source's name: with
    ground truth never seen in training, this is figure 5 of R-MAE as a number.
    """

    def reset(self) -> None:
        self._losses: list[tuple[str, dict[str, float]]] = []
        # Intersection and union, in pixels, by name in the report.
        self._overlaps: defaultdict[str, list[int]] = defaultdict(lambda: [0, 0])

    def process(self, inputs: list[dict[str, Any]], outputs: list[dict[str, Tensor]]) -> None:
        """Adds samples and an RMAE's evaluation outputs."""
        for sample, output in zip(inputs, outputs, strict=True):
            source = sample.get("region_source", "")
            # Pixels are the same for all sources.
            wanted = "loss_region" if source else "loss"
            losses = {k: v.item() for k, v in output.items() if k.startswith(wanted)}
            self._losses.append((source, losses))
            if "region_probability" in output:
                self._add_regions(sample, output, _suffix(source))

    def _add_regions(self, sample: dict[str, Any], output: dict[str, Tensor], suffix: str) -> None:
        probability = output["region_probability"].cpu()
        mask = output["region_mask"].cpu()
        truth = torch.from_numpy(unpack_bits(sample["regions"].numpy(), len(probability)))
        hidden = mask_to_pixels(mask, (truth.shape[1], truth.shape[2]))
        present = truth.flatten(1).any(dim=1)
        truth, probability = truth[present], probability[present]
        for name, predicted in (
            (f"region_iou{suffix}", probability > 0.5),
            (f"region_iou{suffix}_nearest", nearest_visible(truth, mask)),
        ):
            overlap = self._overlaps[name]
            overlap[0] += int((predicted & truth & hidden).sum())
            overlap[1] += int(((predicted | truth) & hidden).sum())

    def evaluate(self) -> OrderedDict[str, dict[str, float]] | None:
        """Returns the report on rank 0, None elsewhere.

        Returns:
            ``{"reconstruction": {"loss_pixel": ..., "loss_region": ..., "region_iou": ...,
            "region_iou_nearest": ...}}``, and for an additional source named S: ``loss_region_S``,
            ``region_iou_S``, ``region_iou_S_nearest``.
        """
        losses = list(chain(*comm.gather(self._losses)))
        overlaps = comm.gather(dict(self._overlaps))
        if not comm.is_main_process():
            return None
        values: defaultdict[str, list[float]] = defaultdict(list)
        for source, of_image in losses:
            for name, value in of_image.items():
                values[name + _suffix(source)].append(value)
        results = {name: sum(x) / len(x) for name, x in values.items()}
        for name in dict.fromkeys(chain(*overlaps)):
            pairs = [of_process.get(name, (0, 0)) for of_process in overlaps]
            intersection, union = map(sum, zip(*pairs, strict=True))
            if union:
                results[name] = intersection / union
        return OrderedDict(reconstruction=results)


def nearest_visible(truth_KHW: Tensor, mask_L: Tensor) -> Tensor:
    """Predicts regions from the visible patches alone: bool (K, H, W), with visible patches unchanged.

    A pixel of a hidden patch gets the value of the nearest pixel of the nearest visible patch (by
    patch centres; if equally near, the first in raster order).

    Args:
        truth_KHW: region maps, bool, made of L equal square patches.
        mask_L: bool, True = hidden; if all are, the maps are empty.
    """
    if mask_L.all():
        return torch.zeros_like(truth_KHW)
    height, width = truth_KHW.shape[1:]
    side = round((height * width / len(mask_L)) ** 0.5)
    grid_width = width // side
    patches = torch.arange(len(mask_L))
    place_L2 = torch.stack([patches // grid_width, patches % grid_width], dim=1)
    visible_V2 = place_L2[~mask_L]
    distance_LV = (place_L2[:, None] - visible_V2).square().sum(dim=2)
    nearest_L2 = visible_V2[distance_LV.argmin(dim=1)]
    y = torch.arange(height).view(-1, 1).expand(height, width)
    x = torch.arange(width).expand(height, width)
    top, left = (nearest_L2[y // side * grid_width + x // side] * side).unbind(dim=2)
    return truth_KHW[:, y.clamp(top, top + side - 1), x.clamp(left, left + side - 1)]


def _suffix(source: str) -> str:
    return f"_{source}" if source else ""
