"""Map a dataset dict to a semantic segmentation sample."""

import logging
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from detectron2.data import transforms as T
from numpy.typing import NDArray

from ..photos.label_images import IGNORE_LABEL, read_labels
from .datasets.semantic import check_label_size
from .images import Photo

logger = logging.getLogger(__name__)

#: Padding colour: ImageNet's mean, nearly 0 after normalization.
_FILL = (124, 116, 104)


class SemanticDatasetMapper:
    """Makes the sample that `SlidingSemanticSegmentor` takes.

    Labels are read from the files as published: in ADE20K's official release, 0 means no class and classes
    are 1 to 150; here these become 255 and 0 to 149.
    """

    def __init__(
        self,
        is_train: bool,
        *,
        augmentations: Sequence[T.Augmentation | T.Transform],
        pad_to: int | None = None,
        all_bands: bool = False,
    ) -> None:
        """Configures the mapping.

        Args:
            is_train: include labels, augmented like the image.
            augmentations: applied to the image and, in training, its labels.
            pad_to: in training, side to which smaller crops are padded at the right and bottom: the image
                with the mean colour, the labels with 255. None for no padding.
            all_bands: read images as stored, with any number of channels and any depth, see `read_bands`,
                instead of as 8-bit RGB.
        """
        self.is_train = is_train
        self.augmentations = T.AugmentationList(augmentations)
        self.pad_to = pad_to
        self.all_bands = all_bands
        logger.info(
            "augmentations in %s: %s", "training" if is_train else "testing", self.augmentations
        )

    def __call__(self, dataset_dict: dict[str, Any]) -> dict[str, Any] | None:
        """Read and augment one image.

        Args:
            dataset_dict: from `semantic_dataset`; it is not modified.

        Returns:
            its keys; ``image`` uint8 (3, h, w) RGB, or all bands, float32 (C, h, w); ``height`` and
            ``width`` of the file's image; in training ``sem_seg`` uint8 (h, w), class indices and 255; else
            ``original``, the image before augmentation, if that has another size. None, in training, for a
            crop without any label.

        Raises:
            ImageReadError: image or labels cannot be read.
            AnnotationError: labels are out of range or differ in size from the image.
        """
        image = np.asarray(Photo(dataset_dict["file_name"], self.all_bands))
        if (
            self.all_bands
        ):  # Detectron2 resizes bytes with Pillow, which supports only a few numbers of channels
            image = image.astype(np.float32)
        sample = {**dataset_dict, "height": image.shape[0], "width": image.shape[1]}
        if not self.is_train:
            augmented = T.AugInput(image)
            self.augmentations(augmented)
            sample["image"] = _channels_first(augmented.image)
            if augmented.image.shape != image.shape:
                sample["original"] = _channels_first(image)
            return sample
        labels = read_labels(
            dataset_dict["sem_seg_file_name"],
            dataset_dict["num_classes"],
            dataset_dict["zero_is_ignored"],
        )
        check_label_size(dataset_dict, image.shape, labels.shape)
        augmented = T.AugInput(image, sem_seg=labels)
        self.augmentations(augmented)
        labels = augmented.sem_seg
        if (labels == IGNORE_LABEL).all():
            return None
        sample["image"] = _channels_first(
            self._padded(augmented.image, np.nan if self.all_bands else _FILL)
        )
        sample["sem_seg"] = torch.from_numpy(self._padded(labels, IGNORE_LABEL))
        return sample

    def _padded(self, pixels: NDArray[Any], value: float | tuple[int, ...]) -> NDArray[Any]:
        height, width = pixels.shape[:2]
        size = (max(height, self.pad_to or 0), max(width, self.pad_to or 0))
        padded = np.full((*size, *pixels.shape[2:]), value, pixels.dtype)
        padded[:height, :width] = pixels
        return padded


def _channels_first(image_HWC: NDArray[Any]) -> torch.Tensor:
    return torch.as_tensor(np.ascontiguousarray(image_HWC.transpose(2, 0, 1)))
