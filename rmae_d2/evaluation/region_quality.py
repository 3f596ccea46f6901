"""How well regions agree with annotated instances, whatever their classes.

Letters: N regions and K instances of an image, H W pixels.
"""

from collections.abc import Iterable, Iterator, Sequence
from typing import Any

import numpy as np
import pycocotools.mask as mask_util
from numpy.typing import NDArray

from ..errors import UserError
from ..regions import RegionRecord
from .average_precision import curves_of, metrics_of

#: Numbers of regions per image at which average recall is measured, as in the literature on proposals.
LIMITS = (10, 100, 1000)
_AT_ONCE = 64  # masks that are in memory as pixels

RLE = dict[str, Any]


def encoded(record: RegionRecord) -> tuple[list[RLE], NDArray[np.int64]]:
    """The regions of a record as COCO's RLE, the largest first, and their areas in pixels, int64 (N,)."""
    table = record.regions()
    order = np.argsort(-table.area, kind="stable")
    rles: list[RLE] = []
    for start in range(0, len(order), _AT_ONCE):
        masks = record.select(order[start : start + _AT_ONCE])
        rles += mask_util.encode(np.asfortranarray(masks.transpose(1, 2, 0).astype(np.uint8)))
    return rles, table.area[order]


class RegionQuality:
    """Collects the regions and instances of images, and compares them.

    The best overlap of an instance is its highest IoU with any region of the image. Average recall
    (Hosang et al. 2016) is COCO's: over IoU thresholds 0.5 to 0.95, of the best 10, 100 or 1000 regions of an
    image, one region for each instance, all classes as one.
    """

    def __init__(self) -> None:
        self._images: list[dict[str, Any]] = []
        self._truth: list[dict[str, Any]] = []
        self._found: list[dict[str, Any]] = []
        self._best: list[float] = []

    def process(
        self, regions: Sequence[RLE], scores: Iterable[float], truth: Sequence[RLE]
    ) -> None:
        """Adds an image.

        Args:
            regions: N masks as COCO's RLE.
            scores: N numbers by which the best are chosen; areas for regions without a score.
            truth: K masks of its instances.
        """
        number = len(self._images) + 1
        height, width = next((rle["size"] for rle in (*truth, *regions)), (1, 1))
        self._images.append({"id": number, "height": height, "width": width})
        for rle in truth:
            area = float(mask_util.area(rle))
            self._truth.append(
                {"image_id": number, "category_id": 1, "segmentation": rle, "area": area}
                | {"iscrowd": 0, "bbox": [float(x) for x in mask_util.toBbox(rle)]}
            )
        self._found += [
            {"image_id": number, "category_id": 1, "segmentation": rle, "score": float(score)}
            for rle, score in zip(regions, scores, strict=True)
        ]
        self._best += list(_best_overlaps(regions, truth))

    def evaluate(self) -> dict[str, float]:
        """Figures over all images.

        Returns:
            ``images``, ``instances``; ``regions``, mean number per image; ``best_iou``, mean best overlap;
            ``recall_50``, the share of instances whose best overlap is at least 0.5; ``ar@10``,
            ``ar@100``, ``ar@1000``. All but numbers are from 0 to 1.

        Raises:
            UserError: no instance was seen.
        """
        if not self._truth:
            raise UserError(
                "there are no instances with masks: regions can't be compared with them"
            )
        content = {
            "images": self._images,
            "annotations": self._truth,
            "categories": [{"id": 1, "name": "object"}],
        }
        metrics = metrics_of(curves_of(content, self._found, "segm", list(LIMITS)))
        best = np.array(self._best)
        return {
            "images": len(self._images),
            "instances": len(best),
            "regions": len(self._found) / len(self._images),
            "best_iou": float(best.mean()),
            "recall_50": float((best >= 0.5).mean()),
            **{f"ar@{n}": metrics[f"AR@{n}"] / 100 for n in LIMITS},
        }


def _best_overlaps(regions: Sequence[RLE], truth: Sequence[RLE]) -> Iterator[float]:
    """The highest IoU of each instance with any region; 0 where there are no regions."""
    if not regions or not truth:
        return iter([0.0] * len(truth))
    overlaps = mask_util.iou(list(regions), list(truth), [0] * len(truth))
    return iter(overlaps.max(axis=0).tolist())
