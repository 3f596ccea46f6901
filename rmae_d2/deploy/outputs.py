"""Prediction files: COCO results, or label images; and pictures."""

import json
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..annotations.classes import Classes
from ..errors import UserError
from ..files import atomic_file
from ..photos.inputs import InputImage
from ..visualization.semantic import draw_semantic
from ..visualization.sheets import save_picture
from .arrays import Detections


class DetectionFile:
    """Writes ``predictions.json``: all images' detections in COCO's results format, whatever their score."""

    def __init__(self, classes: Classes, folder: Path, score_threshold: float) -> None:
        self._classes = classes
        self._score_threshold = score_threshold
        self._total = self._above = 0
        self._whole = ExitStack()  # closed once the file is whole; else nothing of it stays
        self._path = folder / "predictions.json"
        self._file = self._whole.enter_context(atomic_file(self._path))
        self._file.write(b"[")

    def add(self, image: InputImage, value: Any) -> dict[str, Any]:
        """Adds the detections of an image; returns its entry for ``images.json``."""
        for detection in self.entries(image.image_id, value):
            detection["category_id"] = self._classes.category_ids[detection["category_id"]]
            self._write((",\n" if self._total else "\n") + json.dumps(detection))
            self._total += 1
            self._above += detection["score"] >= self._score_threshold
        return {}

    def entries(self, image_id: Any, value: Detections) -> list[dict[str, Any]]:
        """Converts detections to COCO format, with class indices instead of category ids."""
        import pycocotools.mask as mask_util

        boxes = value.boxes.copy()
        boxes[:, 2:] -= boxes[:, :2]
        found = [
            {"image_id": image_id, "category_id": number, "bbox": box, "score": score}
            for number, box, score in zip(
                *(value.classes.tolist(), boxes.tolist(), value.scores.tolist()), strict=True
            )
        ]
        if value.masks is not None:
            for entry, mask in zip(found, value.masks, strict=True):
                rle = mask_util.encode(np.asfortranarray(mask.astype(np.uint8)))
                entry["segmentation"] = {"size": rle["size"], "counts": rle["counts"].decode()}
        return found

    def draw(self, image_HWC: NDArray[np.uint8], value: Any) -> NDArray[np.uint8]:
        """Draws the image with its objects by Detectron2; UserError without it."""
        try:
            import torch
            from detectron2.structures import Boxes, Instances

            from ..visualization.predictions import draw_instances
        except ImportError as error:
            raise UserError(f"pictures of objects are drawn by Detectron2 ({error})") from error
        if isinstance(value, Detections):
            shown = Instances(image_HWC.shape[:2])
            shown.pred_boxes = Boxes(torch.from_numpy(value.boxes))
            shown.scores = torch.from_numpy(value.scores)
            shown.pred_classes = torch.from_numpy(value.classes)
            if value.masks is not None:
                shown.pred_masks = torch.from_numpy(value.masks)
            value = shown
        return draw_instances(image_HWC, value, self._classes.names, self._score_threshold)

    def close(self) -> None:
        """Gives the file its name; if it cannot be written, nothing of it remains, and the old file does."""
        with self._whole:
            self._write("\n]\n")

    def _write(self, text: str) -> None:
        try:
            self._file.write(text.encode())
        except OSError as error:
            raise UserError(f"{self._path}: could not be written ({error})") from error

    @property
    def categories(self) -> list[dict[str, Any]]:
        return self._classes.categories

    @property
    def summary(self) -> str:
        text = f"{self._total} objects, {self._above} of them of score {self._score_threshold:g} or more"
        if self._total and not self._above:
            text += ": pictures show none of them, unless --score-threshold is lower"
        return text


class LabelFiles:
    """Writes ``labels/NAME.png``: the most probable class at every pixel, at the image's size.

    uint8, one channel; ``first`` is the value of class 0, and the others follow. The category ids in
    ``images.json`` are these values.
    """

    def __init__(self, names: tuple[str, ...], first: int, folder: Path) -> None:
        self._names, self._first = names, first
        self._folder = folder
        self._images = 0
        self._pixels_C = np.zeros(len(names))

    def add(self, image: InputImage, value: Any) -> dict[str, Any]:
        """Writes the labels of an image; returns the file name for ``images.json``."""
        labels = self.numbers(value)
        save_picture(labels + np.uint8(self._first), self._folder / image.label_image)
        self._images += 1
        counts = np.bincount(labels.reshape(-1), minlength=len(self._names))
        self._pixels_C += counts / labels.size
        return {"labels": image.label_image}

    def numbers(self, value: Any) -> NDArray[np.uint8]:
        """Converts a model's output to class indices (H, W): here they already are."""
        return np.asarray(value, np.uint8)

    def draw(self, image_HWC: NDArray[np.uint8], value: Any) -> NDArray[np.uint8]:
        return draw_semantic(image_HWC, self.numbers(value), self._names)

    def close(self) -> None:
        """Does nothing: every file is already complete."""

    @property
    def categories(self) -> list[dict[str, Any]]:
        return [{"id": k, "name": name} for k, name in enumerate(self._names, self._first)]

    @property
    def summary(self) -> str:
        largest = [k for k in np.argsort(-self._pixels_C, kind="stable")[:5] if self._pixels_C[k]]
        parts = self._pixels_C / max(self._images, 1)
        shares = ", ".join(f"{self._names[k]} {parts[k]:.1%}" for k in largest)
        values = f"{self._first} to {self._first + len(self._names) - 1}"
        return f"labels/*.png: values {values} for the classes; most pixels: {shares}"


Output = DetectionFile | LabelFiles
