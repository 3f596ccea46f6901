"""SLIC superpixels (Achanta et al. 2012) as regions, by scikit-image."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray
from skimage.segmentation import slic

from ...errors import UserError
from ..record.record import RegionRecord


class SlicSource:
    """Region source with one label plane per number of segments. Picklable.

    Attributes:
        params: what the regions depend on.
    """

    def __init__(self, segments: Sequence[int] = (10, 20, 40), compactness: float = 10.0) -> None:
        """Arguments are those of `skimage.segmentation.slic`.

        Args:
            segments: numbers of segments, about, one for each plane.
            compactness: weighs distance against colour; a higher value gives squarer segments.
        """
        if not segments or min(segments) < 1:
            raise UserError(f"segments={list(segments)}: one or more numbers from 1")
        if compactness <= 0:
            raise UserError(f"compactness={compactness} must be above 0")
        self.params: dict[str, Any] = {
            "source": "slic",
            "segments": [int(n) for n in segments],
            "compactness": float(compactness),
        }

    def __repr__(self) -> str:
        return f"SLIC superpixels, {self.params['segments']} per image, computed each time"

    def __call__(
        self, dataset_dict: Mapping[str, Any], image_HWC: NDArray[np.uint8]
    ) -> RegionRecord:
        """Record of the whole image, uint8 (H, W, C); `dataset_dict` plays no part."""
        planes = [
            slic(image_HWC, n, self.params["compactness"], start_label=0)
            for n in self.params["segments"]
        ]
        return RegionRecord.from_labels(np.stack(planes), params=self.params)
