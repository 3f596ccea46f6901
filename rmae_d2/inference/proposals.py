"""Class-agnostic proposals from the trained region branch: a grid of points, a mask for each, the best kept.

R-MAE is trained to complete regions from parts of them, so a patch shown as inside asks for the region around
it. As in SAM's mask generation (Kirillov et al. 2023, appendix B), a mask that hinges on the threshold is
ranked low, and of similar masks the best stays. Nothing is trained for this.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from os import PathLike
from typing import Any

import numpy as np
import pycocotools.mask as mask_util
from numpy.typing import NDArray

from ..annotations.segmentation import run_counts
from ..checkpoint.weight_file import checksum
from ..errors import UserError
from ..regions.record.record import RegionRecord, largest_first, record_of_counts
from .region_prompt import NEARLY_ALL, RegionPromptPredictor

_AT_ONCE = 32  # masks that are in memory as pixels
#: Probabilities between which a stable mask hardly changes. On scenes these rank masks better than wider ones
#: (SAM's would be 0.27 and 0.73) or than the expected IoU (`mask_confidence`).
_LOW, _HIGH = 0.4, 0.6


@dataclass(frozen=True)
class Proposals:
    """The proposals of one image, best first.

    Attributes:
        masks: COCO's RLE, N.
        scores: float64 (N,), stability: the IoU of the masks at a low and at a high threshold, 0 to 1.
    """

    masks: list[dict[str, Any]]
    scores: NDArray[np.float64]


class ProposalSource:
    """Proposes masks of an image; also a region source of overlapping masks. Picklable.

    Attributes:
        params: what the regions depend on, among it a checksum of the weights.
    """

    def __init__(
        self,
        weights: str | PathLike[str],
        device: str | None = None,
        points_per_side: int = 16,
        max_overlap: float = 0.7,
        min_area: float = 0.002,
        max_proposals: int = 100,
        edges: str = "image",
    ) -> None:
        """Loads the weights.

        Args:
            weights: of an R-MAE or RAE: a run, a file, or a name.
            device: such as "cuda:1" or "cpu"; None takes a GPU where there is one.
            points_per_side: of the grid of points.
            max_overlap: highest IoU of two proposals, 0 to 1.
            min_area: of a mask, as a share of the image.
            max_proposals: per image; those of the highest scores.
            edges: see `RegionPromptPredictor`.

        Raises:
            UserError: an argument out of its range, or a model without a region branch that takes prompts.
            CheckpointError: weights that are not there or do not fit.
        """
        if min(points_per_side, max_proposals) < 1:
            raise UserError(
                f"points_per_side={points_per_side} and max_proposals={max_proposals} must be positive"
            )
        shares = {"max_overlap": max_overlap, "min_area": min_area}
        for name, value in shares.items():
            if not 0 <= value <= 1:
                raise UserError(f"{name}={value} must be from 0 to 1")
        self.weights, self.device = str(weights), device
        self.settings: dict[str, Any] = {
            "points_per_side": points_per_side,
            **shares,
            "max_proposals": max_proposals,
            "edges": edges,
        }
        self._predictor: Any = self._load()
        digest = checksum(self._predictor.model.state_dict())
        self.params: dict[str, Any] = {"source": "proposals", "weights": digest, **self.settings}

    def __repr__(self) -> str:
        return f"proposals of {self.weights}, {self.settings}, computed each time (make a store)"

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_predictor": None}

    def __call__(
        self, dataset_dict: Mapping[str, Any], image_HWC: NDArray[np.uint8]
    ) -> RegionRecord:
        """Record of the proposals of an image, uint8 RGB (H, W, 3); `dataset_dict` plays no part.

        Raises:
            UserError: no such image.
        """
        size = (image_HWC.shape[0], image_HWC.shape[1])
        counts = [run_counts(mask, size) for mask in self.propose(image_HWC).masks]
        masks = largest_first(mask for mask in counts if mask is not None)
        return record_of_counts(masks, size, self.params)

    def propose(self, image_HWC: NDArray[np.uint8]) -> Proposals:
        """Proposals of an image, uint8 RGB (H, W, 3), upright."""
        found = list(self._candidates(image_HWC))
        found.sort(key=lambda each: -each[1])
        kept = [found[i] for i in _apart([mask for mask, _ in found], self.settings["max_overlap"])]
        kept = kept[: self.settings["max_proposals"]]
        return Proposals([mask for mask, _ in kept], np.array([score for _, score in kept]))

    def _load(self) -> RegionPromptPredictor:
        return RegionPromptPredictor.from_files(
            self.weights, device=self.device or "auto", edges=self.settings["edges"]
        )

    def _candidates(self, image_HWC: NDArray[np.uint8]) -> Iterator[tuple[dict[str, Any], float]]:
        """The masks of all points, with their scores."""
        if self._predictor is None:
            self._predictor = self._load()
        predictor: RegionPromptPredictor = self._predictor
        embedding = predictor.embed(image_HWC)
        H, W = embedding.image_size
        side = self.settings["points_per_side"]
        middles = (np.arange(side) + 0.5) / side
        points = [(x * W, y * H) for y in middles for x in middles]
        given: dict[str, Any] = {"assume_background": True, "embedding": embedding}
        for start in range(0, len(points), _AT_ONCE):
            prompts = [predictor.prompt(points=[p], **given) for p in points[start:][:_AT_ONCE]]
            found = predictor.predict(prompts, embedding=embedding)
            low, high = ((found.probabilities > t).sum(axis=(1, 2)) for t in (_LOW, _HIGH))
            stability = high / np.maximum(low, 1)
            area = found.masks.mean(axis=(1, 2))
            least = max(self.settings["min_area"], 1 / (H * W))
            for k in np.flatnonzero((area >= least) & (area <= NEARLY_ALL)):
                mask = mask_util.encode(np.asfortranarray(found.masks[k].astype(np.uint8)))
                yield mask, float(stability[k])


def _apart(masks: list[dict[str, Any]], max_overlap: float) -> list[int]:
    """Non-maximum suppression: which of the masks, best first, overlap with no better one that is kept."""
    if not masks:
        return []
    overlaps = np.asarray(mask_util.iou(masks, masks, [0] * len(masks)))
    kept: list[int] = []
    for i, overlap in enumerate(overlaps):
        if not (overlap[kept] > max_overlap).any():
            kept.append(i)
    return kept
