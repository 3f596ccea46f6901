"""Segment Anything's automatic masks as regions, through the `segment-anything` package.

The weights are the user's to get; they are never downloaded here. One image takes SAM ViT-H some
seconds on a GPU, so make a store once (rmae-d2 regions), with one process a GPU: several
on one GPU are slower together than one.
"""

import math
import os
from collections.abc import Mapping
from hashlib import blake2b
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ...annotations.segmentation import run_counts
from ...errors import UserError
from ..record.masks import describe
from ..record.record import RegionRecord, largest_first, record_of_counts
from .sam_json import MAX_MASKS, check_max_masks

_URL = "https://dl.fbaipublicfiles.com/segment_anything/"
WEIGHTS = {
    "vit_h": _URL + "sam_vit_h_4b8939.pth",
    "vit_l": _URL + "sam_vit_l_0b3195.pth",
    "vit_b": _URL + "sam_vit_b_01ec64.pth",
}


class SamSource:
    """Region source of SAM's automatic masks: overlapping, by falling area, then by position.

    Picklable: the network is built when the first image comes, and neither it nor its weights
    travel. A batch of points needs `points_per_batch` x 3 masks x 4 bytes a pixel several times
    over, which `max_side` bounds.

    Attributes:
        params: what the regions depend on, among it a digest of the weights. Device and
            `points_per_batch` are not in it: they change rounding only, so a run that ended for want
            of memory goes on with smaller batches.
    """

    def __init__(
        self,
        checkpoint: str | os.PathLike[str],
        model_type: str = "vit_h",
        device: str | None = None,
        points_per_side: int = 32,
        points_per_batch: int = 64,
        pred_iou_thresh: float = 0.88,
        stability_score_thresh: float = 0.95,
        box_nms_thresh: float = 0.7,
        crop_n_layers: int = 0,
        min_mask_region_area: int = 0,
        max_side: int | None = 1024,
        max_masks: int | None = MAX_MASKS,
    ) -> None:
        """Check settings and packages (UserError), and read the weights once, for their digest.

        What is not explained here is as in SAM's automatic mask generator, defaults too.

        Args:
            checkpoint: file of SAM's weights, local or whatever iopath's `g_pathmgr` opens.
            model_type: a key of `segment_anything.sam_model_registry`: vit_h, vit_l, vit_b.
            device: such as "cuda:1" or "cpu"; None takes CUDA where there is one.
            min_mask_region_area: islands and holes of fewer pixels are removed; needs OpenCV.
            max_side: images with a longer side are segmented at this size, and their masks
                enlarged by nearest neighbour. SAM itself sees 1024 pixels of the whole image, so
                1024 loses sharpness of edges only. None for no limit.
            max_masks: the largest so many masks are kept; None for all.
        """
        if max_side is not None and max_side < 1:
            raise UserError(f"max_side={max_side} must be positive, or None for no limit")
        if min(points_per_side, points_per_batch) < 1:
            raise UserError(
                f"points_per_side={points_per_side} and points_per_batch={points_per_batch} must "
                "be positive"
            )
        _check_packages(model_type, min_mask_region_area)
        self.model_type = model_type
        self.device = device
        self.max_side = max_side
        self.max_masks = check_max_masks(max_masks)
        self.points_per_batch = points_per_batch
        self.settings: dict[str, Any] = {
            "points_per_side": points_per_side,
            "pred_iou_thresh": pred_iou_thresh,
            "stability_score_thresh": stability_score_thresh,
            "box_nms_thresh": box_nms_thresh,
            "crop_n_layers": crop_n_layers,
            "min_mask_region_area": min_mask_region_area,
        }
        self.checkpoint = os.fspath(checkpoint)
        self.params: dict[str, Any] = {
            "source": "sam",
            "model_type": model_type,
            "checkpoint": _digest(_local(self.checkpoint, model_type)),
            **self.settings,
            "max_side": max_side,
            "max_masks": max_masks,
        }
        self._generator: Any = None

    def __repr__(self) -> str:
        return (
            f"SAM masks, {self.model_type} with {self.checkpoint} on {self.device or 'any GPU'}, "
            f"{self.settings}, max_side {self.max_side}, at most {self.max_masks}, computed when "
            "an image is seen (very slow: make a store)"
        )

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_generator": None}

    def __call__(
        self, dataset_dict: Mapping[str, Any], image_HWC: NDArray[np.uint8]
    ) -> RegionRecord:
        """Record of the masks of an image, uint8 RGB (H, W, 3); `dataset_dict` plays no part.

        UserError: no RGB image. RuntimeError: a checkpoint that is damaged or of another model.
        MemoryError: the device has too little; says which settings to lower.
        """
        if image_HWC.dtype != np.uint8 or image_HWC.ndim != 3 or image_HWC.shape[2] != 3:
            raise UserError(f"SAM needs a uint8 RGB (H, W, 3) image, got {describe(image_HWC)}")
        if self._generator is None:
            self._generator = self._build()
        import torch

        image = self._shrunk(image_HWC)
        size = (image.shape[0], image.shape[1])
        try:
            generated = self._generator.generate(image)
        except torch.cuda.OutOfMemoryError as error:
            raise MemoryError(
                f"SAM has too little memory for an image of {size[1]}x{size[0]} pixels ({error}): lower "
                f"points_per_batch={self.points_per_batch} or max_side={self.max_side}"
            ) from error
        found = [run_counts(mask["segmentation"], size) for mask in generated]
        masks = largest_first((counts for counts in found if counts is not None), self.max_masks)
        record = record_of_counts(masks, size, self.params)
        return record.resize((image_HWC.shape[0], image_HWC.shape[1]))

    def _shrunk(self, image_HWC: NDArray[np.uint8]) -> NDArray[np.uint8]:
        """The image with no side above `max_side`, by SAM's own rule for its input."""
        from PIL import Image

        height, width = image_HWC.shape[:2]
        if self.max_side is None or max(height, width) <= self.max_side:
            return image_HWC
        scale = self.max_side / max(height, width)
        size = [max(1, math.floor(side * scale + 0.5)) for side in (width, height)]
        small = Image.fromarray(image_HWC).resize((size[0], size[1]), Image.Resampling.BILINEAR)
        return np.asarray(small)

    def _build(self) -> Any:
        import torch
        from segment_anything import SamAutomaticMaskGenerator, sam_model_registry

        class Generator(SamAutomaticMaskGenerator):
            # segment-anything 1.0: without a mask in any crop these boxes are of shape (0,), at
            # which the comparison between crops fails.
            def _process_crop(self, *arguments: Any) -> Any:
                data = super()._process_crop(*arguments)
                data["crop_boxes"] = data["crop_boxes"].reshape(-1, 4)
                return data

        path = _local(self.checkpoint, self.model_type)
        model = sam_model_registry[self.model_type]()
        try:
            model.load_state_dict(torch.load(path, map_location="cpu", weights_only=True))
        except Exception as error:  # torch's errors for files that are no weights are of all kinds
            raise RuntimeError(  # no ValueError: it is not the image that is to blame
                f"{path} does not hold the weights of SAM {self.model_type} "
                f"({str(error).splitlines()[0]}): give the model_type of this file, or the file of "
                f"this model ({WEIGHTS.get(self.model_type, 'your own')})"
            ) from error
        device = self.device or ("cuda" if torch.cuda.is_available() else "cpu")
        return Generator(
            model.to(device).eval(),
            points_per_batch=self.points_per_batch,
            output_mode="coco_rle",
            **self.settings,
        )


def _check_packages(model_type: str, min_mask_region_area: int) -> None:
    try:
        from segment_anything import sam_model_registry
    except ImportError as error:
        raise UserError(
            f"SAM regions need the package segment-anything ({error}): pip install 'rmae_d2[sam]'"
        ) from error
    if model_type not in sam_model_registry:
        raise UserError(f"there is no SAM {model_type!r}: one of {sorted(sam_model_registry)}")
    if min_mask_region_area > 0:
        try:
            import cv2  # noqa: F401  (segment-anything imports it on the first image)
        except ImportError as error:
            raise UserError(
                f"min_mask_region_area={min_mask_region_area} needs OpenCV ({error}): pip install "
                "opencv-python-headless, or set it to 0"
            ) from error


def _local(checkpoint: str, model_type: str) -> str:
    from iopath.common.file_io import g_pathmgr

    if not g_pathmgr.isfile(checkpoint):
        where = WEIGHTS.get(model_type, ", ".join(WEIGHTS.values()))
        raise UserError(
            f"there are no SAM weights {checkpoint}: download those of {model_type} from {where} "
            "and give their path as checkpoint"
        )
    path: str = g_pathmgr.get_local_path(checkpoint)
    return path


def _digest(path: str) -> str:
    digest = blake2b(digest_size=16)
    with open(path, "rb") as file:
        while block := file.read(1 << 22):
            digest.update(block)
    return digest.hexdigest()
