"""Linear probe of patches: semantic segmentation with one linear layer on a frozen encoder's patch features.

Letters: B images, D width, C classes, H W pixels.
"""

from collections.abc import Mapping

import torch
from detectron2.layers import ShapeSpec, get_norm
from detectron2.modeling import Backbone
from torch import Tensor, nn

from ...errors import UserError
from ..patches import patchify
from ..pixel_encoder import MaskedViT
from .upernet import Norm, classifier, pixel_cross_entropy, resized


class PatchEncoder(Backbone):
    """The encoder of pre-training, cls token and final norm included, as a trainable backbone.

    Its one feature is ``patches``, at the stride of the patch size. Keys are those of pre-training,
    ``backbone.net.*``. Images must have the encoder's ``img_size``, so segment by ``inference=slide``.
    """

    def __init__(self, net: MaskedViT) -> None:
        super().__init__()
        self.net = net
        self._out_features = ["patches"]
        self._out_feature_channels = {"patches": net.embed_dim}
        self._out_feature_strides = {"patches": net.patch_size}

    def forward(self, images_BCHW: Tensor) -> dict[str, Tensor]:
        """Encodes normalised images to ``patches`` (B, D, H / patch, W / patch), after the final norm.

        Raises:
            UserError: for images of another size.
        """
        size = tuple(images_BCHW.shape[2:])
        if size != self.net.img_size:
            raise UserError(
                f"images of {size} pixels given to an encoder of {self.net.img_size}: set "
                "model.inference=slide, and window and the mapper's pad_to to the encoder's img_size"
            )
        tokens = self.net(patchify(images_BCHW, self.net.patch_size))[:, 1:]
        return {"patches": tokens.transpose(1, 2).unflatten(2, self.net.grid)}


class FrozenEncoder(PatchEncoder):
    """A pre-trained `PatchEncoder` that is never trained."""

    def __init__(self, net: MaskedViT) -> None:
        super().__init__(net.requires_grad_(False))

    def train(self, mode: bool = True) -> "FrozenEncoder":
        """Sets the mode; the encoder stays in evaluation mode."""
        super().train(mode)
        self.net.eval()
        return self

    @torch.no_grad()
    def forward(self, images_BCHW: Tensor) -> dict[str, Tensor]:
        return super().forward(images_BCHW)


class LinearHead(nn.Module):
    """Batch norm and one linear layer per patch; logits are upsampled to pixels.

    Follows DINOv2's linear evaluation (section 7.4, "linear"). The interface is that of Detectron2's
    ``SemSegFPNHead``.

    Args:
        input_shape: maps the name of the one feature to its channels and stride.
        num_classes: C.
        norm: see Detectron2's ``get_norm``. "SyncBN" is batch norm in one process.
        ignore_value: label of pixels to ignore.
    """

    def __init__(
        self,
        input_shape: Mapping[str, ShapeSpec],
        *,
        num_classes: int,
        norm: Norm = "SyncBN",
        ignore_value: int = 255,
    ) -> None:
        super().__init__()
        if len(input_shape) != 1:
            raise UserError(f"a linear probe reads one feature, not {', '.join(input_shape)}")
        ((self.in_feature, shape),) = input_shape.items()
        self.stride = shape.stride
        self.num_classes = num_classes
        self.ignore_value = ignore_value
        self.norm = get_norm(norm, shape.channels)
        self.predictor = classifier(shape.channels, num_classes)

    def forward(
        self, features: Mapping[str, Tensor], targets: Tensor | None = None
    ) -> tuple[Tensor | None, dict[str, Tensor]]:
        """Returns (None, ``loss_sem_seg``) in training, else (logits (B, C, H, W), {}).

        Args:
            features: name to (B, D, H / stride, W / stride).
            targets: int64 (B, H, W); required in training only.
        """
        logits = self.predictor(self.norm(features[self.in_feature]))
        logits = resized(logits.float(), [side * self.stride for side in logits.shape[-2:]])
        if not self.training:
            return logits, {}
        assert targets is not None
        return None, {"loss_sem_seg": pixel_cross_entropy(logits, targets, self.ignore_value)}
