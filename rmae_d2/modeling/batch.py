"""Model input: images of one size, stacked once, moved once, unpacked once.

Letters: B images, C channels, K regions, H W pixels.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any, Union

import torch
from torch import Tensor
from torch.utils.data import default_collate

from ..errors import UserError


@dataclass(frozen=True)
class Batch:
    """B images and their metadata; also a sequence of Detectron2's dicts, created on demand as views.

    Args:
        images: uint8 or float in the range 0-255, (B, C, H, W).
        facts: per image, everything that is not a pixel tensor: ``file_name``, ``image_id``, ``height`` and
            ``width`` of the file, ``skipped`` files that it replaces, a ``label`` ...
        regions: region maps, as uint8 bit planes (B, ceil(K / 8), H, W) in which bit k % 8 of plane k // 8 is
            region k, or as bool (B, K, H, W); None if there are none.
        num_regions: K.
        mask_seeds: int64 (B,), seeds from which masks are drawn; always on the CPU. None if there are none.
    """

    images: Tensor
    facts: Sequence[dict[str, Any]]
    regions: Tensor | None = None
    num_regions: int = 0
    mask_seeds: Tensor | None = None

    @classmethod
    def of(cls, samples: Union["Batch", Sequence[dict[str, Any]]]) -> "Batch":
        """Stacks Detectron2's dicts; in a loader worker, into memory shared with the main process.

        Args:
            samples: dicts of ``image`` (C, H, W) and, if all have them, ``regions``, packed with
                ``num_regions`` or bool (K, H, W), and ``mask_seed``, an int. A `Batch` is returned as is.
        """
        if isinstance(samples, Batch):
            return samples
        images, first = [sample["image"] for sample in samples], samples[0]
        for image, sample in zip(images, samples, strict=True):
            if image.shape != images[0].shape:
                raise UserError(
                    f"{sample.get('file_name', 'an image')} comes as (C, H, W) = {tuple(image.shape)}, the "
                    f"first of its batch as {tuple(images[0].shape)}: set the mapper's crop size"
                )
        pixels = ("image", "regions")
        facts = [{k: v for k, v in sample.items() if k not in pixels} for sample in samples]
        regions, number = None, 0
        if "regions" in first:
            maps = [sample["regions"] for sample in samples]
            is_packed = maps[0].dtype != torch.bool
            counts = {int(s["num_regions"]) if is_packed else len(s["regions"]) for s in samples}
            if len(counts) != 1:
                raise UserError(f"a batch needs one num_regions, this one has {sorted(counts)}")
            regions, number = default_collate(maps), counts.pop()
        seeds = None
        if "mask_seed" in first:
            seeds = torch.tensor([int(sample["mask_seed"]) for sample in samples])
        return cls(default_collate(images), facts, regions, number, seeds)

    def to(self, device: torch.device) -> "Batch":
        """Moves images and regions to a device, without waiting if they are pinned."""
        if self.images.device == device:
            return self
        images = self.images.to(device, non_blocking=True)
        regions = None if self.regions is None else self.regions.to(device, non_blocking=True)
        return replace(self, images=images, regions=regions)

    def pin_memory(self) -> "Batch":
        """Hook for the DataLoader."""
        regions = None if self.regions is None else self.regions.pin_memory()
        return replace(self, images=self.images.pin_memory(), regions=regions)

    def region_maps(self) -> Tensor | None:
        """Unpacks the regions on their current device: bool (B, K, H, W)."""
        if self.regions is None or self.regions.dtype == torch.bool:
            return self.regions
        k = torch.arange(self.num_regions, device=self.regions.device)
        return (self.regions[:, k // 8] >> (k % 8).view(-1, 1, 1).to(torch.uint8)) & 1 > 0

    def region_levels(self) -> Tensor | None:
        """Label planes of the regions in their records, int64 (B, K) on the images' device, if known."""
        if self.regions is None or any("region_levels" not in fact for fact in self.facts):
            return None
        levels = torch.tensor([fact["region_levels"] for fact in self.facts])
        return levels.to(self.images.device, non_blocking=True)

    def __len__(self) -> int:
        """B."""
        return len(self.facts)

    def __getitem__(self, index: int) -> dict[str, Any]:
        """One image in Detectron2's format."""
        sample = {**self.facts[index], "image": self.images[index]}
        return sample if self.regions is None else {**sample, "regions": self.regions[index]}

    def __iter__(self) -> Iterator[dict[str, Any]]:
        return (self[index] for index in range(len(self)))
