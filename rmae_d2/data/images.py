"""From image files of any mode, bit depth and EXIF orientation to random crops.

Letters: H W pixels of the input, h w of the output, N channels or masks.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from detectron2.data import transforms as T
from numpy.typing import NDArray
from PIL import Image

from ..errors import UserError
from ..listing import IMAGE_EXTENSIONS
from ..photos.reading import MACHINE_ERRNOS, Photo, read_image

#: Number of random crops tried before the centre is taken.
_TRIES = 10

__all__ = [
    "IMAGE_EXTENSIONS",
    "MACHINE_ERRNOS",
    "CropResizeTransform",
    "Photo",
    "PhotoInput",
    "RandomResizedCrop",
    "label_indices",
    "read_image",
]


class RandomResizedCrop(T.Augmentation):
    """Crop of random area and aspect ratio, resized to a fixed size: MAE's augmentation besides the flip.

    Drawn as in torchvision from torch's global generator: up to 10 tries, then the largest centre crop with
    an allowed aspect ratio, as in the reference code.
    """

    def __init__(
        self,
        size: int | Sequence[int],
        scale: Sequence[float] = (0.2, 1.0),
        ratio: Sequence[float] = (3 / 4, 4 / 3),
    ) -> None:
        """Takes the output size, and the ranges of area and aspect ratio (width / height).

        The output is (h, w) in pixels or the side of a square; the area is relative to the image's.
        UserError: a range is empty or a size is not positive.
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
        self._log_ratio: list[float] = torch.log(torch.tensor(self.ratio)).tolist()

    def get_transform(self, image: NDArray[Any]) -> "CropResizeTransform":
        """Draw one crop for an (H, W) or (H, W, C) image."""
        height, width = image.shape[:2]
        top, left, crop_h, crop_w = self._draw(height, width)
        return CropResizeTransform(left, top, crop_w, crop_h, *self.size, width, height)

    def _draw(self, height: int, width: int) -> tuple[int, int, int, int]:
        """Draw the same numbers as torchvision's ``RandomResizedCrop.get_params``, from the same generator.

        torchvision creates two additional tensors per crop, which takes longer than everything else.
        """
        for _ in range(_TRIES):
            area = height * width * torch.empty(1).uniform_(*self.scale).item()
            aspect = torch.exp(torch.empty(1).uniform_(*self._log_ratio)).item()
            w, h = round(math.sqrt(area * aspect)), round(math.sqrt(area / aspect))
            if 0 < w <= width and 0 < h <= height:
                top = int(torch.randint(0, height - h + 1, (1,)).item())
                return top, int(torch.randint(0, width - w + 1, (1,)).item()), h, w
        shape = width / height
        w, h = width, height
        if shape < min(self.ratio):
            h = round(w / min(self.ratio))
        elif shape > max(self.ratio):
            w = round(h * max(self.ratio))
        return (height - h) // 2, (width - w) // 2, h, w


@dataclass(repr=False, eq=False)
class CropResizeTransform(T.Transform):
    """Crop, then resize: antialiased bicubic for images, nearest neighbour for labels and masks.

    The fields, in pixels, are the crop's top left corner and size, the output's size and the input's.
    """

    x0: int
    y0: int
    crop_w: int
    crop_h: int
    new_h: int
    new_w: int
    orig_w: int
    orig_h: int

    def apply_image(self, img: NDArray[Any]) -> NDArray[Any]:
        """Crop and resize an (H, W) or (H, W, N) image, uint8 or float, by antialiased bicubic interpolation.

        torch's native uint8 kernel is 5 times faster than Pillow's and gives the same picture to within 2
        levels: width first, rounded to 8 bits, then height, like Pillow up to 12 and therefore all published
        models of these methods. Pillow 13 begins with the height if that is less work, as in many crops that
        are narrower than tall, and so rounds other numbers: differences of up to 13 levels were seen in
        photos, 31 in noise.

        Floats may overshoot the input's range. The returned array need not be contiguous.
        """
        self._check(img.shape)
        crop = img[self.y0 : self.y0 + self.crop_h, self.x0 : self.x0 + self.crop_w]
        if not crop.flags.writeable or min(crop.strides) < 0:  # torch cannot wrap such arrays
            crop = crop.copy()
        pixels = torch.from_numpy(crop)
        planes = pixels.permute(2, 0, 1)[None] if crop.ndim == 3 else pixels[None, None]
        size = (self.new_h, self.new_w)
        resized = F.interpolate(planes, size, mode="bicubic", antialias=True)[0]
        out: NDArray[Any] = (resized.permute(1, 2, 0) if crop.ndim == 3 else resized[0]).numpy()
        return out

    def apply_photo(self, photo: Photo) -> NDArray[np.uint8]:
        """Crop and resize a photo, (new_h, new_w, 3), decoding no more of it than needed.

        A JPEG is decoded at the smallest of 1, 1/2, 1/4 and 1/8 of its size at which the crop has at least
        the output's pixels: libjpeg then skips high frequencies, and Pillow resizes the rest. The result
        differs from that of the full image: by 2 levels on average if the crop has just the output's pixels,
        by 0.8 if it has twice as many along each side, and by 10 to 30 at edges.
        """
        fits = (
            d for d in (8, 4, 2) if d * self.new_w <= self.crop_w and d * self.new_h <= self.crop_h
        )
        divisor = next(fits, 1)
        if divisor == 1 or not photo.is_scalable:
            return self.apply_image(np.asarray(photo))
        self._check(photo.shape)
        small = Image.fromarray(photo.at_scale(divisor))
        left, right = self.x0 / divisor, (self.x0 + self.crop_w) / divisor
        top, bottom = self.y0 / divisor, (self.y0 + self.crop_h) / divisor
        size, box = (self.new_w, self.new_h), (left, top, right, bottom)
        return np.asarray(small.resize(size, Image.Resampling.BICUBIC, box=box))

    def apply_segmentation(self, segmentation: NDArray[Any]) -> NDArray[Any]:
        """Crop and resize (H, W) or (H, W, N) labels or masks of any type by nearest neighbour.

        Picks the same pixels as ``torch.nn.functional.interpolate(mode="nearest")``.
        """
        rows, columns = self.label_indices(segmentation.shape)
        return segmentation[rows].take(columns, axis=1)

    def label_indices(self, shape: Sequence[int]) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """The rows (new_h,) and columns (new_w,) of the labels that ``apply_segmentation`` picks."""
        self._check(shape)
        rows, columns = _nearest(self.crop_h, self.new_h), _nearest(self.crop_w, self.new_w)
        return self.y0 + rows, self.x0 + columns

    def apply_coords(self, coords: NDArray[Any]) -> NDArray[Any]:
        """Map (n, 2) points (x, y) of the input to the output; they may fall outside."""
        factor = np.asarray([self.new_w / self.crop_w, self.new_h / self.crop_h])
        return (coords - np.asarray([self.x0, self.y0])) * factor

    def _check(self, shape: Sequence[int]) -> None:
        if len(shape) not in (2, 3) or tuple(shape[:2]) != (self.orig_h, self.orig_w):
            raise UserError(
                f"the crop was drawn for an image of {self.orig_h} x {self.orig_w} pixels, this "
                f"array is {tuple(shape)}: image and labels must have the same height and width"
            )


def _nearest(old: int, new: int) -> NDArray[np.int64]:
    """Source indices among ``old`` pixels for ``new`` ones, (new,), by torch's nearest interpolation."""
    scale = np.float32(old) / np.float32(new)
    return np.minimum((np.arange(new, dtype=np.float32) * scale).astype(np.int64), old - 1)


class PhotoInput(T.AugInput):
    """A photo that augmentations are applied to, decoded only as far as needed.

    Attributes:
        image: a Photo before the first transform, then an array (h, w, 3).
    """

    #: Augmentations that look only at the image's shape.
    BLIND = (RandomResizedCrop, T.RandomFlip)

    def __init__(
        self, photo: Photo, augmentations: T.AugmentationList, exact: bool = False
    ) -> None:
        """Takes the photo and its augmentations; decodes it in full if one of them may look at its pixels.

        Args:
            exact: always decode in full.
        """
        blind = all(type(augmentation) in self.BLIND for augmentation in augmentations.augs)
        self.image: Any = photo if blind and not exact else np.asarray(photo)
        self.boxes = self.sem_seg = None

    def transform(self, tfm: T.Transform) -> None:
        """Apply a transform to the image."""
        if isinstance(self.image, Photo) and type(tfm) is CropResizeTransform:
            self.image = tfm.apply_photo(self.image)
        else:
            self.image = tfm.apply_image(np.asarray(self.image))


def label_indices(
    transforms: T.Transform, size: Sequence[int]
) -> tuple[NDArray[np.int64], NDArray[np.int64]] | None:
    """Express the effect of a transform, or of a list, on (H, W) labels as the rows and columns it picks.

    Returns:
        rows (h,) and columns (w,) such that ``labels[rows][:, columns]`` is
        ``transforms.apply_segmentation(labels)``, with the same errors; None if there is any transform other
        than CropResizeTransform, HFlipTransform and NoOpTransform, the only ones for which this is known.
    """
    rows, columns = np.arange(size[0], dtype=np.int64), np.arange(size[1], dtype=np.int64)
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
