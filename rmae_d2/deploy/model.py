"""Wraps an exported model as a function of one image, through onnxruntime.

Letters: B windows, C classes, N objects, h w pixels of the input, H W of the original image.
"""

import itertools
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..errors import UserError
from ..extras import needed
from .arrays import Detections, Floats, labels_at, shortest_edge, to_image
from .facts import DETECTOR, KEY, SEGMENTOR, ModelFacts

#: Windows of a segmentor per forward pass.
_WINDOWS = 4


def open_session(model: str | bytes, name: str) -> Any:
    """Opens an onnxruntime session for a file or its bytes, on a GPU if the installed version supports it.

    Raises:
        UserError: if onnxruntime is missing, or it is no ONNX file; names it.
    """
    onnxruntime = needed("onnxruntime", "onnx", "an exported model")
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3  # what is folded or not is irrelevant to users
    wanted = ("CUDAExecutionProvider", "CPUExecutionProvider")
    there = [p for p in wanted if p in onnxruntime.get_available_providers()]
    try:
        return onnxruntime.InferenceSession(model, options, providers=there)
    except Exception as error:  # onnxruntime has many classes of its own
        reason = str(error).splitlines()[0]
        raise UserError(f"{name}: not an ONNX file that runs here ({reason})") from error


class ExportedModel:
    """A detector or segmentor written by ``rmae-d2 export --format onnx``; like `Predictor`, in numpy.

    Args:
        model: a file, or its bytes.
        name: name of the bytes, for messages.

    Attributes:
        facts: the file's metadata.
        session: onnxruntime's session.

    Raises:
        UserError: if it is missing, no ONNX, or not ours.
    """

    def __init__(self, model: str | bytes, name: str = "") -> None:
        name = name or (model if isinstance(model, str) else "the model")
        if isinstance(model, str) and not Path(model).is_file():
            raise UserError(f"{name}: no such file; rmae-d2 export writes one")
        self.session = open_session(model, name)
        metadata = self.session.get_modelmeta().custom_metadata_map
        self.facts = ModelFacts.from_json(metadata.get(KEY), name)

    def __call__(self, image_HWC: NDArray[np.uint8]) -> dict[str, Any]:
        """Predicts one image.

        Args:
            image_HWC: uint8 (H, W, 3) RGB, upright.

        Returns:
            For a detector ``instances``, `Detections`; for a segmentor ``sem_seg_labels``, classes (H, W).

        Raises:
            UserError: if the model has another task.
            ImageSizeError: if the image is so elongated that resizing reduces its short side to nothing.
        """
        if self.facts.task not in (DETECTOR, SEGMENTOR):
            raise UserError(
                f"an exported {self.facts.task} draws nothing: prediction knows a {DETECTOR} and a "
                f"{SEGMENTOR}; docs/deploy.md shows its use with onnxruntime"
            )
        size = image_HWC.shape[0], image_HWC.shape[1]
        prepared = prepare(self.facts, image_HWC)
        if self.facts.task == DETECTOR:
            return {"instances": self._detect(prepared, size)}
        return {"sem_seg_labels": labels_at(self.scores(prepared), size)}

    def _detect(self, image_3hw: NDArray[np.uint8], size: tuple[int, int]) -> Detections:
        boxes, scores, classes, *masks = self.session.run(None, {"image": image_3hw})
        seen = image_3hw.shape[1], image_3hw.shape[2]
        found = Detections(boxes, scores, classes)
        return to_image(found, masks[0] if masks else None, seen, size)

    def scores(self, image_3hw: NDArray[np.uint8]) -> Floats:
        """Computes a segmentor's logits (C, h, w), averaged where windows overlap."""
        height, width = image_3hw.shape[1:]
        window = self.facts.size
        image = self._filled(image_3hw, (max(height, window[0]), max(width, window[1])))
        places = list(
            itertools.product(
                *(
                    _starts(side, length, self.facts.stride)
                    for side, length in zip(image.shape[1:], window, strict=True)
                )
            )
        )
        total: Any = None
        count = np.zeros(image.shape[1:], np.float32)
        for first in range(0, len(places), _WINDOWS):
            some = [
                (slice(y, y + window[0]), slice(x, x + window[1]))
                for y, x in places[first : first + _WINDOWS]
            ]
            images = np.stack([image[:, y, x] for y, x in some])
            (logits_BCyx,) = self.session.run(None, {"images": images})
            for (y, x), logits in zip(some, logits_BCyx, strict=True):
                if total is None:
                    total = np.zeros((len(logits), *image.shape[1:]), np.float32)
                total[:, y, x] += logits
                count[y, x] += 1
        scores: Floats = (total / count)[:, :height, :width]
        return scores

    def _filled(self, image_3hw: NDArray[np.uint8], size: tuple[int, int]) -> NDArray[np.uint8]:
        """Fills an image smaller than a window with the mean colour below and on the right."""
        height, width = image_3hw.shape[1:]
        if size == (height, width):
            return image_3hw
        mean = np.rint(self.facts.pixel_mean).astype(np.uint8)
        filled = np.broadcast_to(mean[:, None, None], (len(mean), *size)).copy()
        filled[:, :height, :width] = image_3hw
        return filled


def prepare(facts: ModelFacts, image_HWC: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """Prepares an image (3, h, w) for a detector or segmentor: resized, channels in the model's order."""
    image = image_HWC if facts.image_format == "RGB" else image_HWC[:, :, ::-1]
    if facts.resize is not None:
        image = shortest_edge(image, facts.resize["length"], facts.resize["max_size"])
    return np.ascontiguousarray(image.transpose(2, 0, 1))


def _starts(side: int, window: int, stride: int) -> list[int]:
    """Start positions of windows along one side: every ``stride`` pixels, the last flush with the end."""
    count = -(-(side - window) // stride) + 1
    return [min(i * stride, side - window) for i in range(count)]
