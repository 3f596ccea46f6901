"""Wraps a trained model as a function of one image, for any LazyConfig."""

from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from detectron2.config import instantiate
from detectron2.data import transforms as T
from numpy.typing import NDArray
from omegaconf import DictConfig, OmegaConf
from torch import nn

from ..checkpoint import load_pretrained
from ..errors import ImageSizeError, UserError
from ..modeling import RMAE
from .finished_run import pick_device


class Predictor:
    """Predicts one image at a time, as evaluation would.

    Detectron2's DefaultPredictor does the same for its older configs, but does not accept a LazyConfig.

        predictor = Predictor(load_config("configs/coco/FILE.py"), "output/x/model_final.pth")
        instances = predictor(read_image("photo.jpg"))["instances"]

    Args:
        cfg: a LazyConfig with ``model`` and ``dataloader.test.mapper``; ``train.device`` (default auto) is
            where the model runs.
        weights: anything accepted by `rmae_d2.checkpoint.load_weights`, with every tensor of the
            model. Or the model itself, with its weights, on its current device.

    Attributes:
        model: in evaluation mode, on ``device``.
        augmentations: of the test mapper; they receive its ``image_format``, "RGB" or "BGR".
        all_bands: whether images are all bands of their files instead of RGB.

    Raises:
        UserError: for a pre-training config or one without such a mapper, or a device that does not exist.
        CheckpointError: if weights are missing or do not fit.
    """

    def __init__(self, cfg: DictConfig, weights: str | Mapping[str, Any] | nn.Module) -> None:
        self.augmentations, self.image_format = _preparation(cfg)
        self.all_bands = bool(OmegaConf.select(cfg, "dataloader.test.mapper.all_bands"))
        self.device = pick_device(OmegaConf.select(cfg, "train.device", default="auto"))
        self.model = weights if isinstance(weights, nn.Module) else instantiate(cfg.model)
        if isinstance(self.model, RMAE):
            text = "a config of pre-training, which detects nothing: give the fine-tuned model's"
            raise UserError(text)
        if not isinstance(weights, nn.Module):
            load_pretrained(self.model, weights, require_all=True)
        self.model.to(self.device).eval()
        multi_scale = getattr(self.model, "multi_scale", None)
        self._wants_original = multi_scale is not None and not multi_scale.is_plain

    def __call__(self, image_HWC: NDArray[Any]) -> dict[str, Any]:
        """Predicts one image.

        Args:
            image_HWC: uint8 (H, W, 3) RGB, upright, as read by `rmae_d2.data.read_image`, or all bands
                (H, W, C), as read by `read_bands`; anything else is a UserError.

        Returns:
            The model's own keys with everything on the CPU, at the image's size. A detector returns
            ``instances``: Instances with ``pred_boxes`` (XYXY, pixels), ``scores``, ``pred_classes`` and,
            if it has a mask head, ``pred_masks`` bool (N, H, W); sorted by descending score. Semantic
            segmentation returns ``sem_seg``, scores (C, H, W), or ``sem_seg_labels``, classes (H, W).

        Raises:
            ImageSizeError: if the image is so elongated that resizing reduces its short side to nothing.
        """
        if self.all_bands:
            image_HWC = image_HWC.astype(np.float32)
        elif image_HWC.dtype != np.uint8 or image_HWC.ndim != 3 or image_HWC.shape[2] != 3:
            given = f"{image_HWC.dtype} {image_HWC.shape}"
            raise UserError(f"an image is uint8 (H, W, 3) RGB, not {given}")
        height, width = image_HWC.shape[:2]
        image = image_HWC if self.image_format == "RGB" else image_HWC[:, :, ::-1]
        prepared = T.AugInput(image)
        try:
            self.augmentations(prepared)
        except ValueError as error:
            size = f"{height}x{width} pixels (height x width)"
            raise ImageSizeError(f"{size} cannot be resized for the model ({error})") from error
        image_CHW = torch.from_numpy(np.ascontiguousarray(prepared.image.transpose(2, 0, 1)))
        sample = {"image": image_CHW, "height": height, "width": width}
        if self._wants_original and prepared.image.shape != image.shape:
            sample["original"] = torch.from_numpy(image.transpose(2, 0, 1).copy())
        with torch.no_grad():
            (output,) = self.model([sample])
        return {k: v.to("cpu") if hasattr(v, "to") else v for k, v in output.items()}


def _preparation(cfg: DictConfig) -> tuple[T.Augmentation, str]:
    """Returns the test mapper's augmentations and image format."""
    node = OmegaConf.select(cfg, "dataloader.test.mapper")
    mapper = None if node is None else instantiate(node)
    augmentations = getattr(mapper, "augmentations", None)
    if augmentations is None:
        raise UserError(
            "the config has no dataloader.test.mapper with augmentations, as Detectron2's DatasetMapper "
            "has them: prediction needs the config of a detector or of semantic segmentation"
        )
    image_format = getattr(mapper, "image_format", "RGB")
    if image_format not in ("RGB", "BGR"):
        key = "dataloader.test.mapper.image_format"
        raise UserError(f"{key}={image_format}: prediction knows RGB and BGR")
    if not isinstance(augmentations, T.Augmentation):  # a plain list, as in custom mappers
        augmentations = T.AugmentationList(augmentations)
    return augmentations, image_format
