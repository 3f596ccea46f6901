"""Compares an exported model with its original, on photos.

Letters: N objects, C classes, h w pixels.
"""

import io
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor

from ..deploy.arrays import Detections
from ..deploy.facts import DETECTOR, SEGMENTOR, ModelFacts
from ..deploy.model import ExportedModel, open_session, prepare
from ..evaluation.semantic import class_numbers
from .graphs import Graph
from .source import Source

Image = NDArray[np.uint8]
Run = Callable[[Tensor], Sequence[Any]]

#: For features and logits, as a fraction of the largest of them.
TOLERANCE = 1e-3
#: For detections: boxes in pixels, scores, and IoU of masks.
BOXES, SCORES, MASKS = 0.1, 1e-3, 0.99
#: Fraction of pixels to which a segmentor may assign another class.
PIXELS = 1e-3


@dataclass
class Difference:
    """A compared quantity, its largest difference, and the limit."""

    what: str
    value: float
    limit: float
    unit: str = ""

    @property
    def is_small(self) -> bool:
        return self.value <= self.limit  # False for NaN

    def __str__(self) -> str:
        return f"{self.what} {self.value:.2g}{self.unit} (at most {self.limit:g})"


def compare(
    source: Source, graph: Graph, content: bytes, images: Sequence[Image], is_onnx: bool
) -> tuple[list[Difference], str]:
    """Finds the largest differences between a file's model and the original; also describes the test data.

    Args:
        source: the original.
        graph: its graph.
        content: of the file.
        images: photos, uint8 (H, W, 3) RGB.
        is_onnx: otherwise it is a .pt2.
    """
    if source.facts.task == DETECTOR:
        return _detections(source, ExportedModel(content, "the exported model"), images)
    run = _onnx(content, graph) if is_onnx else _program(content)
    found = _tensors(graph, run, [to_input(source.facts, image) for image in images])
    seen = f"{len(images)} photos"
    if source.facts.task == SEGMENTOR and is_onnx:
        labels, seen = _labels(source, ExportedModel(content, "the exported model"), images)
        found.append(labels)
    return found, seen


def to_input(facts: ModelFacts, image: Image) -> Tensor:
    """Converts a photo to graph input, uint8 (C, h, w): for a fixed size, its central square, resized."""
    if facts.task == DETECTOR:
        return torch.from_numpy(prepare(facts, image))
    side = min(image.shape[:2])
    top, left = (image.shape[0] - side) // 2, (image.shape[1] - side) // 2
    square = torch.from_numpy(image[top : top + side, left : left + side].copy()).permute(2, 0, 1)
    size = facts.size
    resized = F.interpolate(square[None], size, mode="bicubic", antialias=True)[0]
    channels = len(facts.pixel_mean)
    return resized if channels == 3 else resized[:1].expand(channels, -1, -1).contiguous()


def _onnx(content: bytes, graph: Graph) -> Run:
    session = open_session(content, "the exported model")
    return lambda images: session.run(None, {graph.inputs[0]: images.numpy()})


def _program(content: bytes) -> Run:
    module = torch.export.load(io.BytesIO(content)).module()
    return lambda images: [x.detach().numpy() for x in module(images)]


def _tensors(graph: Graph, run: Run, images: Sequence[Tensor]) -> list[Difference]:
    """Compares each output, in batches of one and of all images."""
    largest = dict.fromkeys(graph.outputs, 0.0)
    for batch in (torch.stack(list(images)), images[0][None]):
        with torch.no_grad():
            expected = [x.numpy() for x in graph(batch)]
        for name, a, b in zip(graph.outputs, expected, run(batch), strict=True):
            value = float(np.abs(a - b).max() / np.abs(a).max()) if a.shape == b.shape else np.inf
            largest[name] = float(np.maximum(largest[name], value))  # propagates NaN
    return [
        Difference(name, value, TOLERANCE, " of the largest") for name, value in largest.items()
    ]


def _labels(
    source: Source, exported: ExportedModel, images: Sequence[Image]
) -> tuple[Difference, str]:
    assert source.predictor is not None
    different = total = 0
    classes: set[int] = set()
    for image in images:
        given = source.predictor(image)
        value: Any = given.get("sem_seg_labels", given.get("sem_seg"))
        expected = class_numbers(value, len(source.facts.class_names))
        found = exported(image)["sem_seg_labels"]
        different += int((found != expected).sum())
        total += expected.size
        classes.update(np.unique(expected).tolist())
    share = Difference("pixels of another class", different / total, PIXELS)
    return share, f"{len(images)} photos, {len(classes)} classes"


def _detections(
    source: Source, exported: ExportedModel, images: Sequence[Image]
) -> tuple[list[Difference], str]:
    """Compares objects with the nearest ones of their class.

    One whose score is close to the model's minimum may appear in only one of the two.
    """
    assert source.predictor is not None
    boxes = scores = masks = 0.0
    alone = objects = 0
    for image in images:
        expected = detections_of(source.predictor(image)["instances"])
        found: Detections = exported(image)["instances"]
        pairs, left = _pairs(expected, found)
        objects += len(pairs)
        alone += left
        for a, b in pairs:
            boxes = max(boxes, float(np.abs(expected.boxes[a] - found.boxes[b]).max()))
            scores = max(scores, abs(float(expected.scores[a] - found.scores[b])))
            if expected.masks is not None and found.masks is not None:
                masks = max(masks, 1 - _iou(expected.masks[a], found.masks[b]))
    differences = [
        Difference("boxes", boxes, BOXES, " pixels"),
        Difference("scores", scores, SCORES),
        Difference("objects of one alone", alone, 0),
    ]
    if "masks" in [output.name for output in exported.session.get_outputs()]:
        differences.insert(2, Difference("masks, 1 - IoU", masks, 1 - MASKS))
    return differences, f"{len(images)} photos, {objects} objects"


def detections_of(instances: Any) -> Detections:
    """Converts Detectron2's instances to arrays."""
    masks = instances.pred_masks.numpy() if instances.has("pred_masks") else None
    boxes = instances.pred_boxes.tensor.numpy()
    return Detections(boxes, instances.scores.numpy(), instances.pred_classes.numpy(), masks)


def _pairs(a: Detections, b: Detections) -> tuple[list[tuple[int, int]], int]:
    """Returns indices of matching objects, and the number of unmatched ones whose score counts."""
    pairs: list[tuple[int, int]] = []
    free = set(range(len(b)))
    lonely = []
    for i in range(len(a)):
        near = [
            (float(np.abs(a.boxes[i] - b.boxes[j]).max()), j)
            for j in free
            if a.classes[i] == b.classes[j] and abs(a.scores[i] - b.scores[j]) < 10 * SCORES
        ]
        distance, j = min(near, default=(np.inf, -1))
        if distance <= 10 * BOXES:
            pairs.append((i, j))
            free.discard(j)
        else:
            lonely.append(float(a.scores[i]))
    lonely += [float(b.scores[j]) for j in free]
    least = min([*a.scores.tolist(), *b.scores.tolist()], default=0.0)
    return pairs, sum(score > least + SCORES for score in lonely)


def _iou(a: NDArray[np.bool_], b: NDArray[np.bool_]) -> float:
    union = int((a | b).sum())
    return int((a & b).sum()) / union if union else 1.0
