"""The random resized crop of MAE as a Detectron2 augmentation, so that masks follow the image.

Letters: H W pixels of the input, h w of the output, N channels or masks.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from detectron2.data import transforms as T
from numpy.typing import NDArray
from torchvision.transforms import RandomResizedCrop as _TorchvisionCrop

from ..errors import UserError
from ..regions.record.planes import nearest_indices


class RandomResizedCrop(T.Augmentation):
    """Crop of random area and shape, resized to one size: MAE's augmentation besides the flip.

    Crops are drawn by torchvision from torch's global generator: up to 10 tries, then the largest
    centre crop of an allowed shape, as in the reference code.
    """

    def __init__(
        self,
        size: int | Sequence[int],
        scale: Sequence[float] = (0.2, 1.0),
        ratio: Sequence[float] = (3 / 4, 4 / 3),
    ) -> None:
        """Sets the crop.

        Args:
            size: (h, w) of the output in pixels, or one side of a square.
            scale: smallest and largest area, as a share of the image's.
            ratio: smallest and largest width / height.

        Raises:
            UserError: where a range is empty or a size is not positive.
        """
        super().__init__()
        self.size = (size, size) if isinstance(size, int) else (int(size[0]), int(size[1]))
        self.scale = (float(scale[0]), float(scale[1]))
        self.ratio = (float(ratio[0]), float(ratio[1]))
        if min(self.size) < 1:
            raise UserError(f"size={self.size} must be positive")
        if not 0 < self.scale[0] <= self.scale[1] or not 0 < self.ratio[0] <= self.ratio[1]:
            raise UserError(
                f"scale={self.scale} and ratio={self.ratio} must be (min, max), min > 0"
            )

    def get_transform(self, image: NDArray[Any]) -> "CropResizeTransform":
        """Draws one crop for an (H, W) or (H, W, C) image."""
        height, width = image.shape[:2]
        shape_only = torch.empty(1).expand(1, height, width)
        top, left, crop_h, crop_w = _TorchvisionCrop.get_params(
            shape_only, list(self.scale), list(self.ratio)
        )
        return CropResizeTransform(left, top, crop_w, crop_h, *self.size, width, height)


class CropResizeTransform(T.Transform):
    """Crop, then resize: bicubic with antialias for images, nearest for labels and masks."""

    x0: int
    y0: int
    crop_w: int
    crop_h: int
    new_h: int
    new_w: int
    orig_w: int
    orig_h: int

    def __init__(
        self,
        x0: int,
        y0: int,
        crop_w: int,
        crop_h: int,
        new_h: int,
        new_w: int,
        orig_w: int,
        orig_h: int,
    ) -> None:
        """Takes pixels: the crop's left top corner and size, the output's size, the input's."""
        super().__init__()
        self._set_attributes(locals())

    def apply_image(self, img: NDArray[Any]) -> NDArray[Any]:
        """Crops and resizes an (H, W) or (H, W, N) image, uint8 or float, by antialiased bicubic.

        uint8 goes through torch's native kernel, which is 5 times faster than Pillow's and gives
        its picture. Floats may overshoot the input's range, as bicubic does. The array returned
        need not be contiguous: torch makes channels first of most crops.
        """
        self._check(img.shape)
        crop = img[self.y0 : self.y0 + self.crop_h, self.x0 : self.x0 + self.crop_w]
        if not crop.flags.writeable or min(crop.strides) < 0:  # torch cannot look at such arrays
            crop = crop.copy()
        pixels = torch.from_numpy(crop)
        channels_first = pixels.permute(2, 0, 1)[None] if crop.ndim == 3 else pixels[None, None]
        resized = F.interpolate(
            channels_first,
            (self.new_h, self.new_w),
            mode="bicubic",
            align_corners=False,
            antialias=True,
        )[0]
        out: NDArray[Any] = (resized.permute(1, 2, 0) if crop.ndim == 3 else resized[0]).numpy()
        return out

    def apply_segmentation(self, segmentation: NDArray[Any]) -> NDArray[Any]:
        """Crops and resizes (H, W) or (H, W, N) labels or masks of any type, by nearest neighbour.

        Picks the pixels that ``torch.nn.functional.interpolate(mode="nearest")`` picks.
        """
        rows, columns = self.label_indices(segmentation.shape)
        return segmentation[rows].take(columns, axis=1)

    def label_indices(self, shape: Sequence[int]) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """Rows (new_h,) and columns (new_w,) that ``apply_segmentation`` takes of such labels."""
        self._check(shape)
        rows = self.y0 + nearest_indices(self.crop_h, self.new_h)
        columns = self.x0 + nearest_indices(self.crop_w, self.new_w)
        return rows, columns

    def apply_coords(self, coords: NDArray[Any]) -> NDArray[Any]:
        """Maps (n, 2) points (x, y) of the input to the output; they may fall outside."""
        offset = np.asarray([self.x0, self.y0])
        factor = np.asarray([self.new_w / self.crop_w, self.new_h / self.crop_h])
        return (coords - offset) * factor

    def apply_polygons(self, polygons: list[NDArray[Any]]) -> list[NDArray[Any]]:
        """Maps polygons, clipped to the crop (needs shapely, as Detectron2's crop does)."""
        crop = T.CropTransform(self.x0, self.y0, self.crop_w, self.crop_h)
        factor = np.asarray([self.new_w / self.crop_w, self.new_h / self.crop_h])
        return [polygon * factor for polygon in crop.apply_polygons(polygons)]

    def _check(self, shape: Sequence[int]) -> None:
        if len(shape) not in (2, 3) or tuple(shape[:2]) != (self.orig_h, self.orig_w):
            raise UserError(
                f"the crop was drawn for an image of {self.orig_h} x {self.orig_w} pixels, this "
                f"array is {tuple(shape)}: image and labels must have the same height and width"
            )


def label_indices(
    transforms: T.Transform, size: Sequence[int]
) -> tuple[NDArray[np.int64], NDArray[np.int64]] | None:
    """What a transform does to labels, as the rows and columns it takes.

    Args:
        transforms: one transform or a ``TransformList``.
        size: (H, W) of the labels.

    Returns:
        rows (h,) and columns (w,) such that ``labels[rows][:, columns]`` is
        ``transforms.apply_segmentation(labels)``; None where one of the transforms is none of
        CropResizeTransform, HFlipTransform and NoOpTransform, of which alone this is known.

    Raises:
        UserError: as ``apply_segmentation``, for labels of another size than the image's.
    """
    rows, columns = (np.arange(length, dtype=np.int64) for length in size)
    for transform in getattr(transforms, "transforms", [transforms]):
        kind = type(transform)  # a subclass may do anything
        if kind is CropResizeTransform:
            taken = transform.label_indices((len(rows), len(columns)))
            rows, columns = rows[taken[0]], columns[taken[1]]
        elif kind is T.HFlipTransform:
            columns = columns[::-1]
        elif kind is not T.NoOpTransform:
            return None
    return rows, columns
