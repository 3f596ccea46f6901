"""Whether a masking policy hides what matters: how many of the hidden patches lie on objects."""

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
    """Share of hidden patches on objects, compared with random masks and with position alone.

    A patch is on objects if the sample's regions cover at least half of it, so the test mapper's regions
    must be objects (``dataloader.test.mapper.regions``, an InstanceSource); works for any masking policy.
    Images with no foreground, or nothing else, are uninformative and left out. Photographers
    centre objects: a policy that hides the middle of every image hides more of them than
    chance. So each image's mask is also compared with the objects of all other images.
    """

    def reset(self) -> None:
        #: Per image: the patches on objects, and the masks or probabilities, sum 1; float64 (L,).
        self._inside: list[Tensor] = []
        self._spread: dict[str, list[Tensor]] = {"hidden": [], "chosen": []}
        self._left_out = 0

    def process(self, inputs: list[dict[str, Any]], outputs: list[dict[str, Tensor]]) -> None:
        """Adds samples with ``regions`` and an RMAE's evaluation outputs."""
        for sample, output in zip(inputs, outputs, strict=True):
            if "regions" not in sample:
                wanted = "dataloader.test.mapper.regions, an InstanceSource"
                raise UserError(f"ForegroundEvaluator needs objects: {wanted}")
            maps = unpack_bits(sample["regions"].numpy(), int(sample["num_regions"]))
            regions = torch.from_numpy(maps)
            hidden = output["mask"].cpu().double()
            side = math.isqrt(regions[0].numel() // len(hidden))
            grid = (regions.shape[1] // side, regions.shape[2] // side)
            inside = foreground_patches(regions[None], grid)[0].double()
            if not 0 < inside.mean() < 1:
                self._left_out += 1
                continue
            self._inside.append(inside)
            self._spread["hidden"].append(hidden / hidden.sum())
            if "mask_probability" in output:
                self._spread["chosen"].append(output["mask_probability"].cpu().double())

    def evaluate(self) -> OrderedDict[str, dict[str, float]] | None:
        """Returns the report on rank 0, None elsewhere.

        Returns:
            ``{"masking": {...}}``, means over images: ``all_foreground``, the share of patches on objects;
            ``hidden_foreground``, that of hidden patches; ``foreground_ratio``, the latter over the former, 1
            for random masks; ``hidden_elsewhere``, the share of hidden patches that would lie on the objects
            of another image, averaged over all others, if there are any. For a policy with a learned
            probability also ``chosen_foreground`` and ``chosen_elsewhere``, how much of it is on objects.
            Empty without images.
        """
        inside = list(chain(*comm.gather(self._inside)))
        spread = {name: list(chain(*comm.gather(maps))) for name, maps in self._spread.items()}
        left_out = sum(comm.gather(self._left_out))
        if not comm.is_main_process():
            return None
        text = "foreground: %d images, %d left out for having none or nothing else"
        logger.info(text, len(inside), left_out)
        if not inside:
            return OrderedDict(masking={})
        inside_NL = torch.stack(inside)
        results = {"all_foreground": inside_NL.mean().item()}
        for name, maps in spread.items():
            if maps:
                results.update(_on_objects(name, torch.stack(maps), inside_NL))
        results["foreground_ratio"] = results["hidden_foreground"] / results["all_foreground"]
        return OrderedDict(masking=results)


def _on_objects(name: str, spread_NL: Tensor, inside_NL: Tensor) -> dict[str, float]:
    """Mean share of each map on its own image's objects, and on those of all others."""
    N = len(inside_NL)
    own = (spread_NL * inside_NL).sum()
    shares = {f"{name}_foreground": own.item() / N}
    if N > 1:
        # Over all pairs of images; an image's pair with itself is subtracted.
        pairs = spread_NL.sum(dim=0) @ inside_NL.sum(dim=0)
        shares[f"{name}_elsewhere"] = (pairs - own).item() / (N * (N - 1))
    return shares
