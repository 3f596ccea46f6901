"""Semantic segmentation of whole images or by sliding window, at one or several scales.

Letters: B images or windows, C classes, h w pixels of the network's input, H W of the original image.
"""

import itertools
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from detectron2.config import configurable
from detectron2.modeling import META_ARCH_REGISTRY, Backbone, SemanticSegmentor
from detectron2.structures import ImageList
from torch import Tensor, nn

from ...errors import UserError
from ..hub import HubModel
from .upernet import resized

#: Number of values in a strip of resized logits held besides the result (128 MB in float32).
STRIP_VALUES = 2**25
#: Results with more values (1 GiB in float32) are assembled in CPU memory.
DEVICE_VALUES = 2**28

INFERENCE = ("whole", "slide")
OUTPUTS = ("logits", "labels")


class MultiScale:
    """Test-time augmentation: averages probabilities over several scales, optionally with mirrored images.

    The default, one scale without mirroring, leaves the model's logits unchanged.

    Args:
        scales: scale factors of the test image; the ADE20K recipes use 0.5, 0.75, 1, 1.25, 1.5, 1.75.
        flip: add the mirrored image.
    """

    def __init__(self, scales: Sequence[float] = (1.0,), flip: bool = False) -> None:
        if not scales or min(scales) <= 0:
            raise UserError(f"scales={list(scales)} must be one or more positive numbers")
        self.scales = tuple(float(scale) for scale in scales)
        self.flip = flip
        self.is_plain = self.scales == (1.0,) and not flip

    def __str__(self) -> str:
        scales = ", ".join(f"{scale:g}" for scale in self.scales)
        mirrored = ", mirrored too" if self.flip else ""
        return f"scale{'s' if len(self.scales) > 1 else ''} {scales}{mirrored}"

    def __call__(
        self, predict: Callable[[Tensor], Tensor], image: Tensor, original: Tensor | None = None
    ) -> Tensor:
        """Computes scores (C, h, w) float32: logits of the plain image, or mean probabilities of all views.

        Args:
            predict: maps an image (3, y, x) to logits (C, y, x).
            image: (3, h, w) at scale 1.
            original: the image before it was resized; other scales are made from it, so that detail is
                not lost twice.
        """
        if self.is_plain:
            return predict(image)
        total: Any = 0  # a tensor after the first addition, updated in place
        for scale in self.scales:
            view = image if scale == 1.0 else _scaled(image, original, scale)
            for mirrored in (False, True) if self.flip else (False,):
                logits = predict(view.flip(-1) if mirrored else view)
                logits = logits.flip(-1) if mirrored else logits
                total += resized(logits[None], image.shape[-2:])[0].softmax(dim=0)
        return total.div_(len(self.scales) * (1 + self.flip))


@META_ARCH_REGISTRY.register()
class SlidingSemanticSegmentor(HubModel, SemanticSegmentor):
    """Detectron2's ``SemanticSegmentor`` with optional sliding-window inference on large images.

    "whole", as in Detectron2, makes one pass over the image. "slide" cuts it into overlapping windows of
    the training size, the last ones flush with the right and bottom edges, and averages the logits where
    they overlap: the mode of the published ADE20K numbers.

    Memory per image besides the network's own: its logits (C, h, w) once, those of ``windows_per_batch``
    windows, a strip of bounded size while they are resized, and the result, which for "logits" is in
    CPU memory if it is large.

    Args:
        backbone: any Detectron2 backbone.
        sem_seg_head: ``UPerNetHead``, Detectron2's ``SemSegFPNHead`` or another with its interface.
        pixel_mean, pixel_std: per-channel image statistics, 0-255.
        inference: "whole" or "slide".
        window: side of the windows, pixels. Images with a smaller side get windows of that size.
        stride: pixels from one window to the next; None for half a window.
        windows_per_batch: windows per forward pass.
        multi_scale: test-time augmentation; None for none.
        output: "logits", for Detectron2's evaluators; "labels", the most probable class only.
    """

    @configurable
    def __init__(
        self,
        *,
        backbone: Backbone,
        sem_seg_head: nn.Module,
        pixel_mean: Sequence[float],
        pixel_std: Sequence[float],
        inference: str = "whole",
        window: int = 512,
        stride: int | None = None,
        windows_per_batch: int = 4,
        multi_scale: MultiScale | None = None,
        output: str = "logits",
    ) -> None:
        super().__init__(
            backbone=backbone,
            sem_seg_head=sem_seg_head,
            pixel_mean=pixel_mean,
            pixel_std=pixel_std,
        )
        if inference not in INFERENCE:
            raise UserError(f"inference={inference!r}: one of {', '.join(INFERENCE)}")
        if output not in OUTPUTS:
            raise UserError(f"output={output!r}: one of {', '.join(OUTPUTS)}")
        stride = max(1, window // 2) if stride is None else stride
        if not 0 < stride <= window or windows_per_batch < 1:
            raise UserError(
                f"stride={stride} must be 1 to window={window} (null for half of it), and "
                f"windows_per_batch={windows_per_batch} at least 1"
            )
        self.inference_mode = inference
        self.window = window
        self.stride = stride
        self.windows_per_batch = windows_per_batch
        self.multi_scale = multi_scale or MultiScale()
        self.output = output

    def describe_inference(self) -> str:
        """Describes the inference mode in words, for logs and results."""
        how = "whole image"
        if self.inference_mode == "slide":
            how = f"sliding window of {self.window} pixels, stride {self.stride}"
        return f"{how}; {self.multi_scale}"

    def forward(self, batched_inputs: list[dict[str, Any]]) -> Any:
        """Computes losses in training, else one result per image.

        Args:
            batched_inputs: ``image`` (3, h, w), 0-255; in training ``sem_seg`` (h, w), class indices and the
                head's ignore value; else ``height`` and ``width`` of the result (default h and w) and, for
                ``multi_scale``, optionally ``original``, the image before it was resized.

        Returns:
            A dict of losses; or dicts with ``sem_seg``, logits (C, height, width) float32 (mean
            probabilities with several scales or mirroring), or ``sem_seg_labels`` (height, width) int32;
            and ``inference``, see `describe_inference`.
        """
        if self.training:
            return self._losses(batched_inputs)
        return [self._segment(sample) for sample in batched_inputs]

    def _losses(self, batched_inputs: list[dict[str, Any]]) -> dict[str, Tensor]:
        images = self._padded([self._normalised(sample["image"]) for sample in batched_inputs])
        targets = self._padded(
            [sample["sem_seg"].to(self.device).long() for sample in batched_inputs],
            self.sem_seg_head.ignore_value,
        )
        losses: dict[str, Tensor] = self.sem_seg_head(self.backbone(images), targets)[1]
        return losses

    @torch.no_grad()
    def _segment(self, sample: dict[str, Any]) -> dict[str, Any]:
        image = self._normalised(sample["image"])
        original = None if self.multi_scale.is_plain else sample.get("original")
        original = None if original is None else self._normalised(original)
        predict = self._slide if self.inference_mode == "slide" else self._whole
        scores = self.multi_scale(predict, image, original)
        height, width = image.shape[-2:]
        size = (int(sample.get("height", height)), int(sample.get("width", width)))
        how = {"inference": self.describe_inference()}
        if self.output == "logits":
            return {"sem_seg": scores_at(scores, size), **how}
        return {"sem_seg_labels": labels_at(scores, size), **how}

    def _normalised(self, image: Tensor) -> Tensor:
        normalised = (image.to(self.device) - self.pixel_mean) / self.pixel_std
        # NaN marks missing data.
        return normalised.nan_to_num(0.0) if image.is_floating_point() else normalised

    def _padded(self, tensors: list[Tensor], value: float = 0.0) -> Tensor:
        return ImageList.from_tensors(
            tensors,
            self.backbone.size_divisibility,
            value,
            padding_constraints=self.backbone.padding_constraints,
        ).tensor

    def _logits(self, images: list[Tensor]) -> Tensor:
        """Computes logits of (3, y, x) images of one size: (B, C, y, x) float32."""
        height, width = images[0].shape[-2:]
        logits = self.sem_seg_head(self.backbone(self._padded(images)))[0]
        return logits[:, :, :height, :width].float()

    def _whole(self, image: Tensor) -> Tensor:
        return self._logits([image])[0]

    def _slide(self, image: Tensor) -> Tensor:
        height, width = image.shape[-2:]
        rows, columns = (window_slices(side, self.window, self.stride) for side in (height, width))
        if len(rows) == len(columns) == 1:
            return self._whole(image)
        total: Tensor | None = None
        count = torch.zeros(height, width, device=self.device)
        places = list(itertools.product(rows, columns))
        for first in range(0, len(places), self.windows_per_batch):
            some = places[first : first + self.windows_per_batch]
            windows = self._logits([image[:, y, x] for y, x in some])
            for (y, x), logits in zip(some, windows, strict=True):
                if total is None:
                    total = logits.new_zeros(len(logits), height, width)
                total[:, y, x] += logits
                count[y, x] += 1
        assert total is not None
        return total.div_(count)


def window_slices(side: int, window: int, stride: int) -> list[slice]:
    """Positions of windows along one side: every ``stride`` pixels, the last flush with the end."""
    window = min(window, side)
    count = -(-(side - window) // stride) + 1
    starts = [min(i * stride, side - window) for i in range(count)]
    return [slice(start, start + window) for start in starts]


def resized_strips(scores_Chw: Tensor, size: Sequence[int]) -> Iterator[tuple[slice, Tensor]]:
    """Resizes bilinearly, a few rows at a time.

    Yields:
        Rows and their values (C, rows, W); together equal to ``F.interpolate`` with ``align_corners=False``.
    """
    num_classes, height, width = scores_Chw.shape
    rows_at_once = max(1, STRIP_VALUES // (num_classes * max(width, size[1])))
    places = (torch.arange(size[0], dtype=torch.float64) + 0.5) * (height / size[0]) - 0.5
    places = places.clamp(0, height - 1).to(scores_Chw.device, torch.float32)
    above = places.long()
    below = (above + 1).clamp(max=height - 1)
    share = (places - above)[:, None].to(scores_Chw.dtype)
    for start in range(0, size[0], rows_at_once):
        rows = slice(start, min(start + rows_at_once, size[0]))
        band = torch.lerp(scores_Chw[:, above[rows]], scores_Chw[:, below[rows]], share[rows])
        yield rows, resized(band[None], (band.shape[-2], size[1]))[0]


def scores_at(scores_Chw: Tensor, size: Sequence[int]) -> Tensor:
    """Resizes the scores of all classes, (C, H, W); see `resized_strips`."""
    if tuple(scores_Chw.shape[-2:]) == tuple(size):
        return scores_Chw
    shape = (len(scores_Chw), *size)
    large = shape[0] * shape[1] * shape[2] > DEVICE_VALUES
    out = scores_Chw.new_empty(shape, device="cpu" if large else scores_Chw.device)
    for rows, strip in resized_strips(scores_Chw, size):
        out[:, rows] = strip
    return out


def labels_at(scores_Chw: Tensor, size: Sequence[int]) -> Tensor:
    """Highest-scoring class per pixel at another size, (H, W) int32; -1 where scores are NaN."""
    out = torch.empty(tuple(size), dtype=torch.int32, device=scores_Chw.device)
    for rows, strip in resized_strips(scores_Chw, size):
        largest, labels = strip.max(dim=0)
        out[rows] = labels.int().masked_fill_(largest.isnan(), -1)
    return out


def _scaled(image: Tensor, original: Tensor | None, scale: float) -> Tensor:
    source = image if original is None else original
    size = tuple(max(1, round(scale * side)) for side in image.shape[-2:])
    smooth = F.interpolate(source[None], size, mode="bilinear", align_corners=False, antialias=True)
    return smooth[0]
