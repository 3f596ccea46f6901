"""How well a pre-trained model reconstructs images it has not seen."""

from collections import OrderedDict
from itertools import chain
from typing import Any

import torch
from detectron2.evaluation import DatasetEvaluator
from detectron2.utils import comm
from torch import Tensor

from ..modeling import mask_to_pixels
from ..regions import unpack_bits


class ReconstructionEvaluator(DatasetEvaluator):
    """Mean losses over a data set and, with a region branch, the IoU of predicted regions.

    The IoU is of foreground pixels of hidden patches at probability 0.5, pooled over all regions and images.
    """

    def reset(self) -> None:
        """Forgets everything."""
        self._losses: list[dict[str, float]] = []
        self._intersection = 0
        self._union = 0

    def process(self, inputs: list[dict[str, Any]], outputs: list[dict[str, Tensor]]) -> None:
        """Takes samples and an RMAE's evaluation outputs."""
        for sample, output in zip(inputs, outputs, strict=True):
            self._losses.append({k: v.item() for k, v in output.items() if k.startswith("loss")})
            if "region_probability" in output:
                self._add_regions(sample, output)

    def _add_regions(self, sample: dict[str, Any], output: dict[str, Tensor]) -> None:
        probability = output["region_probability"]
        truth = torch.from_numpy(unpack_bits(sample["regions"].numpy(), len(probability)))
        height, width = truth.shape[1:]
        hidden = mask_to_pixels(output["region_mask"].cpu(), (height, width))
        predicted = (probability.cpu() > 0.5) & hidden
        truth = truth & hidden
        self._intersection += int((predicted & truth).sum())
        self._union += int((predicted | truth).sum())

    def evaluate(self) -> OrderedDict[str, dict[str, float]] | None:
        """``{"reconstruction": {"loss_pixel": ..., "loss_region": ..., "region_iou": ...}}`` on rank 0."""
        losses = list(chain(*comm.gather(self._losses)))
        counts = comm.gather((self._intersection, self._union))
        if not comm.is_main_process():
            return None
        results = {k: sum(x[k] for x in losses) / len(losses) for k in losses[0]}
        intersection, union = (sum(c) for c in zip(*counts, strict=True))
        if union:
            results["region_iou"] = intersection / union
        return OrderedDict(reconstruction=results)
