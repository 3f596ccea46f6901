"""Features of images of any size, from a trained model's encoder: ``rmae_d2.features``."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor, nn

from ..errors import UserError
from ..modeling.block_features import BlockFeatures, block_features, encoder_of
from ..pixels import upright_rgb

#: Mean and standard deviation of RGB pixels, 0-255, by which networks normalise: ImageNet's (ours, MAE, MoCo
#: v3, DINO, most of timm), and one half (timm's augreg and other Inception-style weights).
NORMALIZATIONS = {
    "imagenet": ((123.675, 116.28, 103.53), (58.395, 57.12, 57.375)),
    "half": ((127.5, 127.5, 127.5), (127.5, 127.5, 127.5)),
}

#: One image: a tensor (C, H, W), a Pillow image, or an array uint8 (H, W, 3) RGB, as from ``read_image``.
Picture = Tensor | Image.Image | NDArray[np.uint8]


@torch.no_grad()
def features(
    model: nn.Module,
    images: Tensor | Picture | Sequence[Picture],
    layers: int | Sequence[int] = 1,
    *,
    reshape: bool = True,
    norm: bool = True,
    size: int | tuple[int, int] | None = None,
    normalization: str | None = None,
) -> list[BlockFeatures]:
    """Computes patch features and cls token after chosen blocks, without gradients or drop path.

        model = rmae_d2.load("output/rmae")
        (last,) = rmae_d2.features(model, read_image("photo.jpg"), size=224)
        last.patches, last.cls_token  # (1, D, 14, 14), (1, D)

    Position embeddings are resampled to the images' grid. The other arguments follow timm's
    ``get_intermediate_layers`` and DINOv2's.

    Args:
        model: an ``RMAE``, a classifier, a detector or segmentor on a plain ViT, or the bare ViT.
        images: uint8 or float from 0 to 255: a batch (B, C, H, W), one image, or several of one size.
        layers: number of last blocks, or a list of block indices, counted from 0 or from the end with -1.
        reshape: return patches as maps (B, D, Gh, Gw), else as sequences (B, L, D).
        norm: apply the encoder's final norm to each, if it has one (ViTDet's has none).
        size: side or (H, W) in pixels, multiples of the patch size, to which all images are stretched. None
            keeps their own, rounded to the nearest multiples. Resizing is bicubic, antialiased.
        normalization: a key of `NORMALIZATIONS`; None for the model's own (ImageNet's for a bare ViT).

    Returns:
        One per block: ``patches``, and ``cls_token`` (B, D) or None; floats on the model's device.

    Raises:
        UserError: if images differ in size, are not from 0 to 255, or do not have the model's channels; if a
            block does not exist; if the model has no such encoder.
    """
    net = encoder_of(model)
    batch = _batch(images, int(net.patch_size), size)
    device = next(net.parameters()).device
    training = net.training
    net.eval()
    try:
        pixels = _normalized(batch.to(device), model, net, normalization)
        return block_features(net, pixels, layers, norm=norm, reshape=reshape)
    finally:
        net.train(training)


def _batch(images: Any, patch: int, size: int | tuple[int, int] | None) -> Tensor:
    """Converts images to (B, C, H, W), resized; uint8 or float32."""
    if isinstance(images, Tensor) and images.dim() == 4:
        return _resized(images, patch, size)
    given = images if isinstance(images, Sequence) else [images]
    if not given:
        raise UserError("no images: features are of one or more")
    batch = [_resized(_tensor(image)[None], patch, size) for image in given]
    shapes = {tuple(image.shape[1:]): None for image in batch}
    if len(shapes) > 1:
        few = " and ".join(str(shape) for shape in list(shapes)[:2])
        raise UserError(f"images of several sizes, (C, H, W) = {few}: give size=, or one at a time")
    return torch.cat(batch)


def as_batch(image: Picture, size: tuple[int, int]) -> Tensor:
    """Converts one image, stretched to (H, W), to a batch (1, C, H, W) for `features`."""
    return _resized(_tensor(image)[None], 1, size)


def _tensor(image: Any) -> Tensor:
    """Converts one image to (C, H, W)."""
    if isinstance(image, Image.Image):
        image = upright_rgb(image)
    if isinstance(image, np.ndarray) and image.ndim == 3 and image.dtype == np.uint8:
        return torch.from_numpy(np.ascontiguousarray(image.transpose(2, 0, 1)))
    if isinstance(image, Tensor) and image.dim() == 3:
        return image
    given = f"{type(image).__name__} {getattr(image, 'dtype', '')} {getattr(image, 'shape', '')}"
    raise UserError(
        f"an image is a tensor (C, H, W), an array uint8 (H, W, 3) RGB or Pillow's, not {given}; a batch is "
        "a tensor (B, C, H, W)"
    )


def _resized(images_BCHW: Tensor, patch: int, size: int | tuple[int, int] | None) -> Tensor:
    if images_BCHW.dtype != torch.uint8:
        images_BCHW = images_BCHW.float()
        _check_range(images_BCHW)
    sides = (images_BCHW.shape[2], images_BCHW.shape[3])
    if size is None:
        high, wide = (max(1, round(side / patch)) * patch for side in sides)
    else:
        high, wide = (size, size) if isinstance(size, int) else size
    if (high, wide) == sides:
        return images_BCHW
    if images_BCHW.is_cuda:  # torch resizes only floats there
        images_BCHW = images_BCHW.float()
    return F.interpolate(images_BCHW, (high, wide), mode="bicubic", antialias=True)


def _check_range(images: Tensor) -> None:
    """Rejects floats that are already scaled or normalised: they would be nearly black."""
    low, high = (float(x) for x in images.aminmax()) if images.numel() else (0.0, 0.0)
    if high <= 3 and (low, high) != (0, 0):
        raise UserError(
            f"floats from {low:g} to {high:g}: pixels are of 0 to 255, for the model normalises them itself; "
            "multiply images of 0 to 1 by 255"
        )


def _normalized(images: Tensor, model: Any, net: Any, normalization: str | None) -> Tensor:
    if normalization is not None and normalization not in NORMALIZATIONS:
        known = ", ".join(NORMALIZATIONS)
        raise UserError(f"normalization={normalization!r}: one of {known}")
    if normalization is None and hasattr(model, "pixel_mean"):
        mean, std = model.pixel_mean, model.pixel_std
    else:
        mean, std = map(torch.tensor, NORMALIZATIONS[normalization or "imagenet"])
    channels, wanted = images.shape[1], net.patch_embed.proj.in_channels
    if not channels == wanted == mean.numel():
        raise UserError(
            f"images of {channels} channels, an encoder of {wanted}, means of {mean.numel()}: all three must "
            "be the same"
        )
    if getattr(model, "input_format", "RGB") == "BGR":  # Detectron2's detectors
        images = images.flip(1)
    mean, std = (x.to(images.device).view(-1, 1, 1) for x in (mean, std))
    return (images.float() - mean) / std
