"""From a dataset dict to a pre-training sample: an image, K of its regions as bits, a mask seed."""

import copy
import logging
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch
from detectron2.data import transforms as T
from detectron2.utils.registry import locate
from numpy.typing import NDArray

from ..errors import UserError
from ..regions import EncodedRecord, RegionRecord
from .images import read_image
from .transforms import label_indices

logger = logging.getLogger(__name__)

RegionSource = Callable[[dict[str, Any], NDArray[np.uint8]], RegionRecord | EncodedRecord]


class RegionDatasetMapper:
    """Makes the sample that :class:`~rmae_d2.modeling.RMAE` takes.

    Random choices come from the global generators of numpy and torch in this order: mask seed,
    augmentations, regions. So MAE and R-MAE, or two region sources, see the same crops and masks.
    """

    def __init__(
        self,
        *,
        augmentations: Sequence[T.Augmentation | T.Transform],
        regions: RegionSource | None = None,
        num_regions: int = 8,
        min_patches: int = 0,
        visible_foreground_only: bool = False,
        patch_size: int = 16,
        mask_ratio: float = 0.75,
        region_mask_ratio: float | None = None,
        masking: Any = None,
    ) -> None:
        """Sets what happens to an image.

        Args:
            augmentations: applied to the image and, the same, to its regions.
            regions: source, called with the dataset dict and the whole image; None for MAE.
            num_regions: K, regions a sample (8 in the paper).
            min_patches: drop regions that touch fewer patches of the crop; 2 is the reference
                code's ``filter_small_patches``, 0 and 1 keep all.
            visible_foreground_only: drop regions without a pixel in a visible patch of this
                sample's region mask, the reference code's ``random_fg``. The mask is foretold, which
                needs one that is uniformly random: the one shared by both branches, or with
                ``IndependentMasking`` the region branch's own.
            patch_size: side of the model's patches; used by the two options above.
            mask_ratio: the model's share of hidden patches, beta_I; this and the two below are used by
                visible_foreground_only.
            region_mask_ratio: that of region patches, beta_R; None for the pixels' own ratio.
            masking: the model's masking policy: its class, the dotted name of its class, or None for
                the default.

        Raises:
            UserError: ``num_regions`` is not positive, or visible_foreground_only meets a policy whose
                masks cannot be foretold.
        """
        if num_regions < 1:
            raise UserError(
                f"num_regions={num_regions} must be positive; for no regions set regions=None"
            )
        self.augmentations = T.AugmentationList(augmentations)
        self.regions = regions
        self.num_regions = num_regions
        self.min_patches = min_patches
        self.visible_foreground_only = visible_foreground_only
        self.patch_size = patch_size
        self.mask_ratio = mask_ratio if region_mask_ratio is None else region_mask_ratio
        self.independent_masks = visible_foreground_only and _has_own_region_masks(masking)
        logger.info("augmentations: %s; regions: %s", self.augmentations, regions)

    def with_regions(self, regions: RegionSource | None) -> "RegionDatasetMapper":
        """The same mapper with another region source: same crops, flips and masks."""
        other = copy.copy(self)
        other.regions = regions
        return other

    def __call__(self, dataset_dict: dict[str, Any]) -> dict[str, Any]:
        """Reads and augments one image.

        Args:
            dataset_dict: ``file_name``, and what the region source needs. Not copied: a source must
                leave it as it is.

        Returns:
            ``image`` uint8 (3, h, w) RGB; ``mask_seed``, an int in [0, 2**63); ``file_name``;
            ``image_id``; ``height`` and ``width`` of the file's image; and, with a source,
            ``num_regions`` K and ``regions``, uint8 (ceil(K / 8), h, w), bit k % 8 of plane k // 8
            being region k.

        Raises:
            ImageReadError: the file gives no image.
            UserError: the source gave regions of another size than the image.
        """
        image = read_image(dataset_dict["file_name"])
        mask_seed = int(np.random.randint(0, 2**63 - 1, dtype=np.int64))
        aug_input = T.AugInput(image)
        transforms = self.augmentations(aug_input)
        sample: dict[str, Any] = {
            "file_name": dataset_dict["file_name"],
            "image_id": dataset_dict.get("image_id", dataset_dict["file_name"]),
            "height": image.shape[0],
            "width": image.shape[1],
            "image": torch.from_numpy(
                np.require(aug_input.image.transpose(2, 0, 1), None, ["C", "W"])
            ),
            "mask_seed": mask_seed,
        }
        if self.regions is not None:
            record = self.regions(dataset_dict, image)
            if record.size != image.shape[:2]:
                raise UserError(
                    f"regions of {dataset_dict['file_name']} are {record.size} pixels (height, "
                    f"width), the image is {image.shape[:2]}: make its regions again"
                )
            bits = self._choose(_transformed(record, transforms), mask_seed)
            sample["regions"] = torch.from_numpy(bits)
            sample["num_regions"] = self.num_regions
        return sample

    def _choose(self, record: RegionRecord, mask_seed: int) -> NDArray[np.uint8]:
        """Draws K masks, packed as uint8 (ceil(K / 8), h, w).

        Without replacement where there are enough regions; all of them, repeated and shuffled,
        where there are fewer; empty masks where there is none.
        """
        candidates = self._candidates(record, mask_seed)
        if not len(candidates):
            return np.zeros((-(-self.num_regions // 8), *record.size), np.uint8)
        repeats = -(-self.num_regions // len(candidates))
        pool = candidates if repeats == 1 else np.tile(candidates, repeats)
        return record.select_bits(np.random.permutation(pool)[: self.num_regions])

    def _candidates(self, record: RegionRecord, mask_seed: int) -> NDArray[np.int64]:
        """Indices into ``record.regions()`` of the regions that may be drawn."""
        indices = np.arange(len(record.regions()))
        if not len(indices) or not (self.min_patches > 1 or self.visible_foreground_only):
            return indices
        covered = record.coverage(indices, self.patch_size)
        keep = covered.sum(axis=1) >= self.min_patches
        if self.visible_foreground_only:
            visible = _visible_patches(
                mask_seed, covered.shape[1], self.mask_ratio, self.independent_masks
            )
            keep &= covered[:, visible].any(axis=1)
        return indices[keep]


def _transformed(record: RegionRecord | EncodedRecord, transforms: T.TransformList) -> RegionRecord:
    """The regions of the transformed image; only its own pixels are decoded where that can be."""
    indices = label_indices(transforms, record.size)
    if indices is None:
        return record.map_planes(transforms.apply_segmentation)
    return record.take(*indices)


def _has_own_region_masks(masking: Any) -> bool:
    """Whether the region branch draws an order of its own, which is uniformly random as the shared one.

    Raises:
        UserError: for a policy of which neither is known.
    """
    from ..modeling import IndependentMasking, RandomMasking

    policy = locate(masking) if isinstance(masking, str) else masking
    if policy is None or (isinstance(policy, type) and issubclass(policy, RandomMasking)):
        return False
    if isinstance(policy, type) and issubclass(policy, IndependentMasking):
        return True
    raise UserError(
        f"visible_foreground_only=True with model.masking={getattr(policy, '__name__', policy)}: the loader "
        "cannot foretell which patches that hides. Set "
        "dataloader.train.mapper.visible_foreground_only=false, or wrap the policy in IndependentMasking"
    )


def _visible_patches(
    mask_seed: int, num_patches: int, mask_ratio: float, independent: bool
) -> NDArray[np.int64]:
    """Indices of the region patches that the model will leave visible for this seed."""
    # The model's rule, not a copy of it.
    from ..modeling.masking import num_visible, random_shuffle
    from ..modeling.masking.regions import region_seeds

    seeds = torch.tensor([mask_seed])
    order = random_shuffle(region_seeds(seeds) if independent else seeds, num_patches)[0]
    return order[: num_visible(num_patches, mask_ratio)].numpy()
