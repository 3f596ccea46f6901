"""Statistics of a set of region records that show whether it suits pre-training."""

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from ...errors import UserError
from .record import EncodedRecord, RegionRecord

#: Edges of the area histogram, as fractions of the image.
AREA_EDGES = (0.0, 0.001, 0.003, 0.01, 0.03, 0.1, 0.3, 1.0)
_BAR = 40


@dataclass(frozen=True)
class RegionStatistics:
    """Statistics of N records."""

    sizes: NDArray[np.int64]  # (N,), bytes of each record
    counts: NDArray[np.int64]  # (N,), regions in each whole image
    #: (len(AREA_EDGES) - 1,), regions by fraction of their image; an area on an edge counts above it.
    areas: NDArray[np.int64]
    crop_counts: NDArray[np.int64]  # (C,), regions in each random crop
    num_regions: int  # K, the number that a crop should offer

    @property
    def few(self) -> float:
        """Fraction of crops with fewer than K regions, in which some are repeated."""
        return float(np.mean(self.crop_counts < self.num_regions))

    def __str__(self) -> str:
        lines = [
            f"images looked at     {len(self.counts)}",
            f"bytes per image       {_spread(self.sizes)}",
            f"regions per image     {_spread(self.counts)}",
            f"regions per crop       {_spread(self.crop_counts)} ({len(self.crop_counts)} random crops)",
            f"crops with fewer than {self.num_regions} regions: {self.few:.1%}; with none: "
            f"{np.mean(self.crop_counts == 0):.1%}",
            "area of a region, as a share of its image:",
        ]
        total = max(1, int(self.areas.sum()))
        for low, high, number in zip(AREA_EDGES, AREA_EDGES[1:], self.areas, strict=False):
            bar = "#" * round(_BAR * number / max(1, self.areas.max()))
            lines.append(f"  {low:6.1%} to {high:6.1%}  {number / total:6.1%}  {bar}")
        return "\n".join(lines)


def measure(
    records: Iterable[EncodedRecord],
    *,
    num_regions: int = 8,
    crops_per_image: int = 4,
    seed: int = 0,
) -> RegionStatistics:
    """Compute statistics of records, one per image, and of MAE's random resized crops of them.

    `num_regions` is K, the number that pre-training draws per crop; crops have MAE's scale 0.2-1, ratio
    3/4-4/3 and 224 x 224 pixels.
    """
    sizes, counts, crop_counts = [], [], []
    areas = np.zeros(len(AREA_EDGES) - 1, np.int64)
    generator = np.random.default_rng(seed)
    for encoded in records:
        record = encoded.decode()
        table = record.regions()
        share = table.area / (record.size[0] * record.size[1])
        bins = np.searchsorted(AREA_EDGES, share, side="right") - 1
        areas += np.bincount(bins.clip(max=len(areas) - 1), minlength=len(areas))
        sizes.append(len(encoded.data))
        counts.append(len(table))
        crop_counts += [_count_in_crop(record, generator) for _ in range(crops_per_image)]
    if not counts:
        raise UserError("there is no record to measure")
    return RegionStatistics(
        np.array(sizes), np.array(counts), areas, np.array(crop_counts), num_regions
    )


def _count_in_crop(record: RegionRecord, generator: np.random.Generator) -> int:
    """Number of regions in a random resized crop, drawn as in torchvision."""
    height, width = record.size
    crop_h, crop_w = height, width
    for _ in range(10):
        area = height * width * generator.uniform(0.2, 1.0)
        ratio = np.exp(generator.uniform(np.log(3 / 4), np.log(4 / 3)))
        h, w = round(np.sqrt(area / ratio)), round(np.sqrt(area * ratio))
        if 0 < h <= height and 0 < w <= width:
            crop_h, crop_w = h, w
            break
    y = int(generator.integers(height - crop_h + 1))
    x = int(generator.integers(width - crop_w + 1))
    return len(record.crop(y, x, crop_h, crop_w).resize((224, 224)).regions())


def _spread(values: NDArray[np.int64]) -> str:
    low, median, high = np.quantile(values, (0, 0.5, 1))
    return f"mean {values.mean():.1f}, median {median:.0f}, {low:.0f} to {high:.0f}"
