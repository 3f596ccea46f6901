"""Pre- and postprocessing in numpy, with the same rules and numbers as Detectron2 and torch.

Letters: N objects, M side of a predicted mask, C classes, h w pixels of the input, H W of the original image.
"""

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from ..errors import ImageSizeError

Floats = NDArray[np.float32]

#: Number of values in a strip of resized scores (128 MB).
_STRIP_VALUES = 2**25


@dataclass(frozen=True)
class Detections:
    """Objects of one image, by descending score."""

    boxes: Floats  #: (N, 4), XYXY, pixels
    scores: Floats  #: (N,)
    classes: NDArray[np.int64]  #: (N,)
    masks: NDArray[np.bool_] | None = None  #: (N, H, W)

    def __len__(self) -> int:
        """Number of objects, N."""
        return len(self.scores)


def shortest_edge(image_HWC: NDArray[np.uint8], length: int, max_size: int) -> NDArray[np.uint8]:
    """Detectron2's ``ResizeShortestEdge``: short side to ``length``, long side to at most ``max_size``.

    Raises:
        ImageSizeError: if the image is so elongated that nothing is left of its short side.
    """
    height, width = image_HWC.shape[:2]
    scale = length / min(height, width)
    new_h, new_w = (length, scale * width) if height < width else (scale * height, length)
    if max(new_h, new_w) > max_size:
        scale = max_size / max(new_h, new_w)
        new_h, new_w = new_h * scale, new_w * scale
    size = int(new_w + 0.5), int(new_h + 0.5)
    if not min(size):
        given = f"{height}x{width} pixels (height x width)"
        raise ImageSizeError(
            f"{given} cannot be resized for the model: nothing is left of one side"
        )
    if size == (width, height):
        return image_HWC
    return np.asarray(Image.fromarray(image_HWC).resize(size, Image.Resampling.BILINEAR))


def to_image(
    found: Detections, small_NMM: Floats | None, seen: tuple[int, int], size: tuple[int, int]
) -> Detections:
    """Rescales detections to another size of their image: Detectron2's ``detector_postprocess``.

    Args:
        found: without masks.
        small_NMM: the mask of each box, 0 to 1; None for none.
        seen: (h, w) to which the boxes refer.
        size: (H, W).
    """
    scale = np.array([size[1] / seen[1], size[0] / seen[0]] * 2, np.float32)
    limit = np.array([size[1], size[0]] * 2, np.float32)
    boxes = np.clip(found.boxes * scale, 0, limit)
    kept = (boxes[:, 2:] > boxes[:, :2]).all(axis=1)
    masks = None if small_NMM is None else paste(small_NMM[kept], boxes[kept], size)
    return Detections(boxes[kept], found.scores[kept], found.classes[kept], masks)


def paste(small_NMM: Floats, boxes_N4: Floats, size: tuple[int, int]) -> NDArray[np.bool_]:
    """Pastes masks of boxes into masks (N, H, W) of their image, thresholded at 0.5, bilinear."""
    masks = np.zeros((len(small_NMM), *size), bool)
    side = small_NMM.shape[-1]
    for mask, small, (x0, y0, x1, y1) in zip(masks, small_NMM, boxes_N4, strict=True):
        rows, columns = (
            _taps(
                (np.arange(length, dtype=np.float32) + 0.5 - low) / (high - low) * side - 0.5, side
            )
            for length, low, high in ((size[0], y0, y1), (size[1], x0, x1))
        )
        mask[:] = rows @ small @ columns.T >= 0.5
    return masks


def labels_at(scores_Chw: Floats, size: tuple[int, int]) -> NDArray[np.int64]:
    """Highest-scoring class at every pixel of another size, (H, W); scores are resized bilinearly."""
    num_classes, height, width = scores_Chw.shape
    if (height, width) == size:
        return scores_Chw.argmax(axis=0)
    above, share = _places(height, size[0])
    left, part = _places(width, size[1])
    labels = np.empty(size, np.int64)
    step = max(1, _STRIP_VALUES // (num_classes * max(width, size[1])))
    for start in range(0, size[0], step):
        rows = slice(start, start + step)
        y, f = above[rows], share[rows, None]
        band = scores_Chw[:, y] * (1 - f) + scores_Chw[:, np.minimum(y + 1, height - 1)] * f
        strip = band[..., left] * (1 - part) + band[..., np.minimum(left + 1, width - 1)] * part
        labels[rows] = strip.argmax(axis=0)
    return labels


def _places(old: int, new: int) -> tuple[NDArray[np.int64], Floats]:
    """For each new position, the old one before it and the weight of the one after it."""
    places = np.clip((np.arange(new) + 0.5) * (old / new) - 0.5, 0, old - 1)
    before = places.astype(np.int64)
    return before, (places - before).astype(np.float32)


def _taps(places: Any, side: int) -> Floats:
    """Weights of linear interpolation at positions between 0 and side - 1, with zeros beyond."""
    weights: Floats = np.maximum(0, 1 - np.abs(places[:, None] - np.arange(side))).astype(
        np.float32
    )
    return weights
