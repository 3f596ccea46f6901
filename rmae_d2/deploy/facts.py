"""Metadata of an exported file: everything needed to use its model."""

import json
from dataclasses import asdict, dataclass
from typing import Any

from ..annotations.classes import Classes
from ..errors import UserError

#: Key in the metadata of an ONNX file and, with ".json", name of the extra file in a .pt2.
KEY = "rmae_d2"

#: Lets readers recognise later formats.
_FORM = 1

ENCODER, CLASSIFIER, DETECTOR, SEGMENTOR = TASKS = (
    "encoder",
    "classifier",
    "detector",
    "segmentor",
)


@dataclass(frozen=True)
class ModelFacts:
    """Facts about a model whose graph takes uint8 pixels and normalises them itself."""

    task: str  #: one of `TASKS`
    size: tuple[int, int]  #: (H, W) in pixels of the network's input; a detector pads images to it
    patch_size: int
    pixel_mean: tuple[float, ...]  #: per channel, in ``image_format``'s order, 0-255
    pixel_std: tuple[float, ...]
    image_format: str = "RGB"  #: or "BGR"
    #: How to resize an image: ``{"rule": "shortest_edge", "length": int, "max_size": int}``, bilinear with
    #: Pillow; ``{"rule": "center_crop", "share": float}``, bicubic, until ``size`` is that share of the
    #: shorter side, then centre-cropped; None: any way.
    resize: dict[str, Any] | None = None
    class_names: tuple[str, ...] = ()  #: by class index
    category_ids: tuple[int, ...] = ()  #: of a detector's classes in its results
    class_source: str = ""  #: the dataset that defines them
    first_label: int = 0  #: for a segmentor, the value of class 0 in label images
    stride: int = 0  #: for a segmentor, pixels from one window to the next
    source: str = ""  #: the exported weight file, preceded by its folder

    @property
    def classes(self) -> Classes:
        return Classes(self.class_names, self.category_ids, self.class_source)

    def to_json(self) -> str:
        return json.dumps({"form": _FORM, **asdict(self)})

    @classmethod
    def from_json(cls, text: str | None, path: str) -> "ModelFacts":
        """Parses what `to_json` wrote.

        Raises:
            UserError: if empty, or from a later release; names the file.
        """
        if not text:
            raise UserError(
                f"{path}: not exported by rmae_d2 (its metadata has no {KEY!r}): make it with rmae-d2 export"
            )
        values = json.loads(text)
        if values.pop("form", None) != _FORM:
            raise UserError(f"{path}: exported by a later rmae_d2: update this one")
        arguments: dict[str, Any] = {
            name: tuple(value) if isinstance(value, list) else value
            for name, value in values.items()
        }
        return cls(**arguments)
