"""Map a labelled photo's dataset dict to the sample that a classifier takes."""

import logging
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from detectron2.data import transforms as T
from numpy.typing import NDArray
from PIL import Image
from timm.data.auto_augment import RandAugment as _TimmRandAugment
from timm.data.auto_augment import posterize, rand_augment_transform

from ..errors import UserError
from ..modeling.batch import Batch
from .images import CropResizeTransform, read_image

logger = logging.getLogger(__name__)


class ClassificationDatasetMapper:
    """Reads and augments one labelled image.

    Random choices come from the global generators of Python, numpy and torch, which our loaders seed for
    each sample. Augmentations that need normalized pixels or a whole batch (erasing, mixing) happen in the
    model: `Classifier`.
    """

    collate = staticmethod(Batch.of)

    def __init__(self, *, augmentations: Sequence[T.Augmentation | T.Transform]) -> None:
        self.augmentations = T.AugmentationList(augmentations)
        logger.info("augmentations: %s", self.augmentations)

    def __call__(self, dataset_dict: dict[str, Any]) -> dict[str, Any]:
        """Add ``image`` uint8 (3, h, w) RGB, and ``height`` and ``width`` of the file's image, to a dict.

        Raises:
            ImageReadError: the file cannot be read as an image.
        """
        image = read_image(dataset_dict["file_name"])
        augmented = T.AugInput(image)
        self.augmentations(augmented)
        return {
            **dataset_dict,
            "height": image.shape[0],
            "width": image.shape[1],
            "image": torch.as_tensor(np.ascontiguousarray(augmented.image.transpose(2, 0, 1))),
        }


class ResizeCenterCrop(T.Augmentation):
    """Resizes (bicubic) until the output covers a given share of the shorter side, then crops the centre.

    224 of 256 pixels is how ImageNet accuracy is measured.
    """

    def __init__(self, size: int | Sequence[int] = 224, crop_share: float = 224 / 256) -> None:
        """Takes the output's (h, w) in pixels, or the side of a square, and its share in (0, 1]."""
        super().__init__()
        if not 0 < crop_share <= 1:
            raise UserError(f"crop_share={crop_share} must be above 0 and at most 1")
        self.size = (size, size) if isinstance(size, int) else (int(size[0]), int(size[1]))
        self.crop_share = crop_share

    def get_transform(self, image: NDArray[Any]) -> T.TransformList:
        """The resize and the crop for an (H, W) or (H, W, C) image."""
        height, width = image.shape[:2]
        crop_h, crop_w = self.size
        # As in torchvision, sides are rounded down, and the crop's position is rounded half to even.
        least_h, least_w = int(crop_h / self.crop_share), int(crop_w / self.crop_share)
        if height * least_w <= width * least_h:
            new_h, new_w = least_h, int(least_h * width / height)
        else:
            new_h, new_w = int(least_w * height / width), least_w
        top, left = round((new_h - crop_h) / 2), round((new_w - crop_w) / 2)
        return T.TransformList(
            [
                CropResizeTransform(0, 0, width, height, new_h, new_w, width, height),
                T.CropTransform(left, top, crop_w, crop_h, new_w, new_h),
            ]
        )


class RandAugment(T.Augmentation):
    """timm's RandAugment (Cubuk et al., 2020): a few random operations on colours and geometry.

    For images only: it cannot map coordinates.
    """

    def __init__(
        self,
        policy: str = "rand-m9-mstd0.5-inc1",
        pixel_mean: Sequence[float] = (123.675, 116.28, 103.53),
    ) -> None:
        """Takes a policy in timm's notation, and the RGB colour, 0-255, that fills in from outside.

        The default has magnitude 9 of 10 with a deviation of 0.5, operations that all get stronger with the
        magnitude, and two operations per image, each applied with probability 0.5.
        """
        super().__init__()
        try:
            rand_augment_transform(policy, {})
        except Exception as error:  # timm's parser may assert, or fail on an index or a conversion
            raise UserError(
                f"policy={policy!r} is none of timm's RandAugment: as rand-m9-mstd0.5-inc1, a magnitude (m), "
                "its deviation (mstd), number of operations (n), and inc1 for those that get stronger"
            ) from error
        self.policy = policy
        self.pixel_mean = tuple(pixel_mean)

    def get_transform(self, image: NDArray[Any]) -> "_PictureTransform":
        """The operations, drawn at random when they are applied."""
        hyperparameters = {
            "translate_const": int(0.45 * min(image.shape[:2])),  # the largest shift, pixels
            "img_mean": tuple(min(255, round(value)) for value in self.pixel_mean),
            "interpolation": Image.Resampling.BICUBIC,
        }
        operations = rand_augment_transform(self.policy, hyperparameters)
        for operation in operations.ops:
            if operation.name.startswith("Posterize"):
                operation.aug_fn = _posterize
        return _PictureTransform(operations)


def _posterize(image: Image.Image, bits: int, **_unused: Any) -> Image.Image:
    """Like timm's, but black at 0 bits, as implied by magnitude 10 (1 in 700 images of the default policy).

    Pillow produced black, too, until it refused 0 bits: timm 1.0.31 with Pillow 13.0 stops the run there.
    """
    return posterize(image, bits) if bits else Image.new(image.mode, image.size)


@dataclass(repr=False, eq=False)
class _PictureTransform(T.Transform):
    """A function from PIL image to PIL image."""

    operation: _TimmRandAugment

    def apply_image(self, img: NDArray[np.uint8]) -> NDArray[np.uint8]:
        """Apply it to an (H, W, 3) uint8 RGB image."""
        picture = Image.fromarray(np.ascontiguousarray(img))
        return np.array(self.operation(picture))

    def apply_coords(self, coords: NDArray[Any]) -> NDArray[Any]:
        """Not supported: NotImplementedError."""
        raise NotImplementedError("RandAugment is for pictures alone, not for boxes or masks")
