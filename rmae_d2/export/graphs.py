"""Models as functions of pixel tensors, from which graphs are recorded.

Letters: B images, D width, L patches, C classes, N objects, M side of a mask, h w pixels, S side of a square.
"""

from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from detectron2.export.torchscript_patch import patch_builtin_len
from detectron2.layers import shapes_to_tensor
from detectron2.structures import ImageList
from torch import Tensor, nn

from ..deploy.facts import CLASSIFIER, DETECTOR, ENCODER, SEGMENTOR
from ..modeling import MaskedViT, patchify
from .source import Source


class Graph(nn.Module):
    """A model without gradients, starting from uint8 pixels.

    Attributes:
        inputs, outputs: names of the tensors.
        batched: whether their first axis is the batch.
    """

    inputs: tuple[str, ...] = ("images",)
    outputs: tuple[str, ...]
    batched = True

    pixel_mean: Tensor
    pixel_std: Tensor

    def __init__(self, source: Source) -> None:
        super().__init__()
        self.model: Any = source.model
        for name in ("pixel_mean", "pixel_std"):
            values = torch.tensor(getattr(source.facts, name)).view(-1, 1, 1)
            self.register_buffer(name, values)
        self.size = source.facts.size
        self.requires_grad_(False).eval()

    def normalised(self, images: Tensor) -> Tensor:
        return (images.float() - self.pixel_mean) / self.pixel_std


class EncoderGraph(Graph):
    """Images (B, 3, h, w) -> ``cls_token`` (B, D), if the ViT has one, and ``patches`` (B, L, D)."""

    def __init__(self, source: Source) -> None:
        super().__init__(source)
        cls_token = isinstance(source.model, MaskedViT)
        self.outputs = ("cls_token", "patches") if cls_token else ("patches",)

    def forward(self, images: Tensor) -> tuple[Tensor, ...]:
        x = self.normalised(images)
        if isinstance(self.model, MaskedViT):
            tokens = self.model(patchify(x, self.model.patch_size))
            return tokens[:, 0], tokens[:, 1:]
        *_, features = self.model(x).values()
        return (features.flatten(2).transpose(1, 2),)


class ClassifierGraph(Graph):
    """Images (B, 3, h, w) -> ``logits`` (B, C)."""

    outputs = ("logits",)

    def forward(self, images: Tensor) -> tuple[Tensor, ...]:
        return (self.model.logits(self.normalised(images)).float(),)


class SegmentorGraph(Graph):
    """Windows (B, 3, h, w) -> ``logits`` (B, C, h, w)."""

    outputs = ("logits",)

    def __init__(self, source: Source) -> None:
        super().__init__(source)
        backbone = self.model.backbone
        window = torch.zeros(1, *self.size)
        padded = ImageList.from_tensors(
            [window], backbone.size_divisibility, padding_constraints=backbone.padding_constraints
        ).tensor.shape
        self.padding = (0, padded[-1] - self.size[1], 0, padded[-2] - self.size[0])

    def forward(self, images: Tensor) -> tuple[Tensor, ...]:
        x = self.normalised(images)
        if any(self.padding):
            x = F.pad(x, self.padding)
        logits = self.model.sem_seg_head(self.model.backbone(x))[0]
        return (logits[:, :, : self.size[0], : self.size[1]].float(),)


class DetectorGraph(Graph):
    """An image (3, h, w), no side longer than S -> its objects, in its pixels.

    ``boxes`` (N, 4) XYXY, ``scores`` (N,), ``classes`` (N,) int64 and, with a mask head, ``masks`` (N, M, M),
    each relative to its box, 0 to 1.
    """

    inputs = ("image",)
    batched = False

    def __init__(self, source: Source) -> None:
        super().__init__(source)
        masks = ("masks",) if self.model.roi_heads.mask_on else ()
        self.outputs = ("boxes", "scores", "classes", *masks)

    def forward(self, image: Tensor) -> tuple[Tensor, ...]:
        # What Detectron2 does with one image, except that the graph knows the padded size.
        h, w = image.shape[-2:]
        x = F.pad(self.normalised(image), (0, self.size[1] - w, 0, self.size[0] - h))
        x = x.reshape(1, image.shape[0], *self.size)
        images: Any = ImageList(x, [shapes_to_tensor([h, w])])  # type: ignore[list-item]
        with patch_builtin_len():
            features = self.model.backbone(x)
            proposals, _ = self.model.proposal_generator(images, features, None)
            (found,), _ = self.model.roi_heads(images, features, proposals, None)
        masks = (found.pred_masks[:, 0],) if "masks" in self.outputs else ()
        return found.pred_boxes.tensor, found.scores, found.pred_classes, *masks


GRAPHS: dict[str, type[Graph]] = {
    ENCODER: EncoderGraph,
    CLASSIFIER: ClassifierGraph,
    SEGMENTOR: SegmentorGraph,
    DETECTOR: DetectorGraph,
}


def example(graph: Graph, images: Sequence[Tensor]) -> Tensor:
    """Returns the input with which a graph is recorded: a batch of two, or one image."""
    return torch.stack([images[0], images[-1]]) if graph.batched else images[0]
