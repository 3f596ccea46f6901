"""Whether a masking policy hides what matters: how much of the hidden patches lies on objects."""

import logging
import math
from collections import OrderedDict
from itertools import chain
from typing import Any

import torch
from detectron2.evaluation import DatasetEvaluator
from detectron2.utils import comm
from torch import Tensor

from ..errors import UserError
from ..modeling import foreground_patches
from ..regions import unpack_bits

logger = logging.getLogger(__name__)


class ForegroundEvaluator(DatasetEvaluator):
    """Share of hidden patches on objects, beside the share of all patches, which random masks give.

    A patch is on objects where the sample's regions cover half of it or more, so the test mapper's regions
    must be objects (``dataloader.test.mapper.regions``, an InstanceSource); any masking policy can be asked.
    Images without foreground, and those that are nothing else, say nothing and are left out.
    """

    def reset(self) -> None:
        self._shares: list[dict[str, float]] = []
        self._left_out = 0

    def process(self, inputs: list[dict[str, Any]], outputs: list[dict[str, Tensor]]) -> None:
        """Takes samples with ``regions`` and an RMAE's evaluation outputs."""
        for sample, output in zip(inputs, outputs, strict=True):
            if "regions" not in sample:
                wanted = "dataloader.test.mapper.regions, an InstanceSource"
                raise UserError(f"ForegroundEvaluator needs objects: {wanted}")
            maps = unpack_bits(sample["regions"].numpy(), int(sample["num_regions"]))
            regions = torch.from_numpy(maps)
            hidden = output["mask"].cpu()
            side = math.isqrt(regions[0].numel() // len(hidden))
            grid = (regions.shape[1] // side, regions.shape[2] // side)
            inside = foreground_patches(regions[None], grid)[0].float()
            if not 0 < inside.mean() < 1:
                self._left_out += 1
                continue
            shares = {"hidden_foreground": inside[hidden].mean(), "all_foreground": inside.mean()}
            if "mask_probability" in output:
                probability = output["mask_probability"].float().cpu()
                shares["chosen_foreground"] = (probability * inside).sum()
            self._shares.append({name: float(value) for name, value in shares.items()})

    def evaluate(self) -> OrderedDict[str, dict[str, float]] | None:
        """The report on rank 0, None elsewhere.

        Returns:
            ``{"masking": {...}}``, means over images: ``hidden_foreground``, ``all_foreground``,
            ``foreground_ratio``, the one by the other, 1 for random masks; of a policy with a learned
            probability also ``chosen_foreground``, how much of it is on objects. Empty without images.
        """
        shares = list(chain(*comm.gather(self._shares)))
        left_out = sum(comm.gather(self._left_out))
        if not comm.is_main_process():
            return None
        text = "foreground: %d images, %d left out for having none or nothing else"
        logger.info(text, len(shares), left_out)
        if not shares:
            return OrderedDict(masking={})
        results = {name: sum(s[name] for s in shares) / len(shares) for name in shares[0]}
        results["foreground_ratio"] = results["hidden_foreground"] / results["all_foreground"]
        return OrderedDict(masking=results)
