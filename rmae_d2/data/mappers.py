"""Map a dataset dict to a pre-training sample: an image, K of its regions as bits, a mask seed."""

import copy
import logging
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch
from detectron2.data import transforms as T
from detectron2.utils.registry import locate
from numpy.typing import NDArray
from torch import Tensor

from ..errors import UserError
from ..modeling.batch import Batch
from ..modeling.masking.base import RandomMasking
from ..noise import num_visible
from ..photos.reading import open_photo
from ..regions import EncodedRecord, RegionRecord, is_blind, regions_of
from .images import PhotoInput, label_indices

logger = logging.getLogger(__name__)

RegionSource = Callable[[dict[str, Any], NDArray[np.uint8]], RegionRecord | EncodedRecord]


class RegionDatasetMapper:
    """Makes the sample that `RMAE` takes.

    Random choices come from the global generators of numpy and torch in this order: mask seed,
    augmentations, regions. So MAE and R-MAE, or two region sources, see the same crops and masks.
    """

    collate = staticmethod(Batch.of)

    def __init__(
        self,
        *,
        augmentations: Sequence[T.Augmentation | T.Transform],
        regions: RegionSource | None = None,
        num_regions: int = 8,
        replacement: bool = False,
        level_probabilities: Sequence[float] | None = None,
        min_patches: int = 0,
        visible_foreground_only: bool = False,
        patch_size: int = 16,
        mask_ratio: float = 0.75,
        region_mask_ratio: float | Sequence[float] | None = None,
        masking: Any = None,
        exact_decode: bool = False,
        all_bands: bool = False,
    ) -> None:
        """Configures the mapping.

        Args:
            augmentations: applied to the image and identically to its regions.
            regions: source, called with the dataset dict and the whole image; None for MAE.
            num_regions: K, regions per sample (8 in the paper).
            replacement: draw each region from all of them, so that one may occur twice, which the paper's
                wording allows; the published code does not.
            level_probabilities: of the label planes of a record, such as the levels of nested regions, finest
                first: the level of each region is drawn first, then one of its regions; a level without
                regions in the crop leaves its share to the others. Overlapping masks are the level after the
                planes. None draws from all regions alike, of which fine levels have most.
            min_patches: drop regions that touch fewer patches of the crop; 2 is the reference code's
                ``filter_small_patches``, 0 and 1 keep all.
            visible_foreground_only: drop regions without a pixel in a visible patch of this sample's region
                mask, the reference code's ``random_fg``. The mask must be a function of the seed: a
                uniformly random mask shared by both branches, or, with ``IndependentMasking``, the region
                branch's own.
            patch_size: side of the model's patches; used by the two options above.
            mask_ratio: the model's fraction of hidden patches, beta_I; this and the two below are used by
                visible_foreground_only.
            region_mask_ratio: fraction of hidden region patches, beta_R; None for the pixels' ratio.
            masking: the model's masking policy: its class or the dotted name of it; None for the default.
            exact_decode: decode images in full even if less would do for a crop, see
                `apply_photo`.
            all_bands: read images as stored, with any number of channels and any depth, see `read_bands`,
                instead of as 8-bit RGB.

        Raises:
            UserError: ``num_regions`` is not positive, or visible_foreground_only is combined with a policy
                whose masks are not a function of the seed, or with a mask that hides everything.
        """
        if num_regions < 1:
            raise UserError(
                f"num_regions={num_regions} must be positive; for no regions set regions=None"
            )
        if visible_foreground_only and isinstance(region_mask_ratio, Sequence):
            raise UserError(
                "visible_foreground_only=True with a region mask ratio that is drawn for each step, so that "
                f"the loader cannot know it: set model.region_branch.mask_ratio={region_mask_ratio[0]}"
            )
        self.mask_ratio = mask_ratio
        if region_mask_ratio is not None and not isinstance(region_mask_ratio, Sequence):
            self.mask_ratio = region_mask_ratio
        if visible_foreground_only and self.mask_ratio == 1:
            raise UserError(
                "visible_foreground_only=True with a region mask ratio of 1: no region has a visible patch. "
                "Set dataloader.train.mapper.visible_foreground_only=false"
            )
        if level_probabilities is not None and (
            min(level_probabilities, default=0) < 0 or sum(level_probabilities) <= 0
        ):
            raise UserError(
                f"level_probabilities={list(level_probabilities)}: one per level, 0 or more, one above 0"
            )
        self.level_probabilities = level_probabilities
        self.augmentations = T.AugmentationList(augmentations)
        self.regions = regions
        self.num_regions = num_regions
        self.replacement = replacement
        self.min_patches = min_patches
        self.patch_size = patch_size
        self.exact_decode = exact_decode
        self.all_bands = all_bands
        self.order = _order_of(masking) if visible_foreground_only else None
        logger.info("augmentations: %s; regions: %s", self.augmentations, regions)

    def with_regions(self, regions: RegionSource | None) -> "RegionDatasetMapper":
        """The same mapper with another region source: same crops, flips and masks."""
        other = copy.copy(self)
        other.regions = regions
        return other

    def __call__(self, dataset_dict: dict[str, Any]) -> dict[str, Any]:
        """Read and augment one image, and draw K of its regions.

        If there are fewer than K, all are used, repeated and shuffled; if there are none, masks are empty.

        Args:
            dataset_dict: ``file_name``, and what the region source needs. It is not copied, so a source must
                not modify it.

        Returns:
            ``image`` uint8 (3, h, w) RGB, or all bands, uint8 or float32 (C, h, w); ``mask_seed``, an int
            in [0, 2**63); ``file_name``; ``image_id``; ``height`` and ``width`` of the file's image; and,
            with a source, ``num_regions`` K, ``regions``, uint8 (ceil(K / 8), h, w), in which bit k % 8 of
            plane k // 8 is region k; with level_probabilities also ``region_levels``, K ints.

        Raises:
            ImageReadError: the file cannot be read as an image.
            UserError: the source's regions and the image differ in size.
        """
        photo = open_photo(dataset_dict["file_name"], self.all_bands)
        mask_seed = int(np.random.randint(0, 2**63 - 1, dtype=np.int64))
        # A source that looks at the pixels needs the full image, which is then decoded once for both.
        whole = self.exact_decode or photo.is_decoded
        whole = whole or not (self.regions is None or is_blind(self.regions))
        aug_input = PhotoInput(photo, self.augmentations, exact=whole)
        transforms = self.augmentations(aug_input)
        sample: dict[str, Any] = {
            "file_name": dataset_dict["file_name"],
            "image_id": dataset_dict.get("image_id", dataset_dict["file_name"]),
            "height": photo.shape[0],
            "width": photo.shape[1],
            "image": torch.as_tensor(np.ascontiguousarray(aug_input.image.transpose(2, 0, 1))),
            "mask_seed": mask_seed,
        }
        if self.regions is None:
            return sample
        seen = photo if is_blind(self.regions) else photo.for_regions()
        record, size = regions_of(self.regions, dataset_dict, seen), photo.shape[:2]
        if record.size != size:
            raise UserError(
                f"regions of {dataset_dict['file_name']} are {record.size} pixels (height, width), the image "
                f"is {size}: make its regions again"
            )
        # If the transforms' effect on labels is known, only the crop's pixels are decoded.
        indices = label_indices(transforms, size)
        if indices is None:
            record = record.map_planes(transforms.apply_segmentation)
        else:
            record = record.take(*indices)
        candidates = np.arange(record.regions().area.size)
        if candidates.size and (self.min_patches > 1 or self.order is not None):
            candidates = candidates[self._may_be_drawn(record, candidates, mask_seed)]
        sample["num_regions"] = K = self.num_regions
        if candidates.size:
            levels = record.regions().plane
            drawn = self._draw(candidates, levels[candidates])
            bits, of_drawn = record.select_bits(drawn), levels[drawn].tolist()
        else:
            bits, of_drawn = np.zeros((-(-K // 8), *record.size), np.uint8), [0] * K
        if self.level_probabilities is not None:
            sample["region_levels"] = of_drawn
        sample["regions"] = torch.from_numpy(bits)
        return sample

    def _draw(self, candidates: NDArray[np.int64], levels: NDArray[np.int64]) -> NDArray[np.int64]:
        """Draw K of them, in random order."""
        if self.level_probabilities is not None:
            return self._draw_by_level(candidates, levels)
        if self.replacement:
            return np.random.choice(candidates, self.num_regions)
        repeats = -(-self.num_regions // candidates.size)
        return np.random.permutation(np.tile(candidates, repeats))[: self.num_regions]

    def _draw_by_level(
        self, candidates: NDArray[np.int64], levels: NDArray[np.int64]
    ) -> NDArray[np.int64]:
        """Draw K of them, each from a level drawn before; without repeats while a level has others."""
        given = self.level_probabilities or ()
        if levels.max() >= len(given):
            raise UserError(
                f"level_probabilities={list(given)} for regions of {levels.max() + 1} levels: give one each"
            )
        by_level = {
            level: np.random.permutation(candidates[levels == level]).tolist()
            for level in np.unique(levels).tolist()
        }
        shares = np.array([given[level] for level in by_level])
        if not shares.any():
            shares = np.ones(len(shares))
        chosen = np.random.choice(list(by_level), self.num_regions, p=shares / shares.sum())
        drawn = []
        for level in chosen.tolist():
            drawn.append(by_level[level].pop())
            by_level[level].insert(0, drawn[-1])  # again once all others have been drawn
        return np.array(drawn)

    def _may_be_drawn(
        self, record: RegionRecord, indices: NDArray[np.int64], mask_seed: int
    ) -> NDArray[np.bool_]:
        """Mask over indices into ``record.regions()``, by ``min_patches`` and ``visible_foreground_only``."""
        covered = record.coverage(indices, self.patch_size)
        keep = covered.sum(axis=1) >= self.min_patches
        if self.order is not None:
            L = covered.shape[1]
            order = self.order(torch.tensor([mask_seed]), L)[0]
            visible = order[: num_visible(L, self.mask_ratio, ends=True)].numpy()
            keep &= covered[:, visible].any(axis=1)
        return keep


def _order_of(masking: Any) -> Callable[[Tensor, int], Tensor]:
    """The function from seeds and a number of patches to the order in which region patches become visible.

    Raises:
        UserError: the policy's order is not a function of these alone.
    """
    policy = locate(masking) if isinstance(masking, str) else masking or RandomMasking
    order: Callable[[Tensor, int], Tensor] | None = getattr(policy, "order_by_seed", None)
    if order is None:
        raise UserError(
            f"visible_foreground_only=True with model.masking={policy.__name__}: which patches that hides is "
            "no matter of the seed alone. Set dataloader.train.mapper.visible_foreground_only=false, or wrap "
            "the policy in IndependentMasking"
        )
    return order
