"""What an exported file says of its model: all that is needed to use it."""

import json
from dataclasses import asdict, dataclass
from typing import Any

from ..annotations.classes import Classes
from ..errors import UserError

#: Of the metadata of an ONNX file, and, with ".json", of the extra file in a .pt2.
KEY = "rmae_d2"

#: By which a reader knows a later form.
_FORM = 1

ENCODER, CLASSIFIER, DETECTOR, SEGMENTOR = TASKS = (
    "encoder",
    "classifier",
    "detector",
    "segmentor",
)


@dataclass(frozen=True)
class ModelFacts:
    """Of a model whose graph takes uint8 pixels and normalises them itself."""

    task: str  #: one of `TASKS`
    size: tuple[int, int]  #: (H, W) in pixels that the network sees; a detector pads images to it
    patch_size: int
    pixel_mean: tuple[float, ...]  #: of the channels, in ``image_format``'s order, 0-255
    pixel_std: tuple[float, ...]
    image_format: str = "RGB"  #: or "BGR"
    #: How an image is resized: ``{"rule": "shortest_edge", "length": int, "max_size": int}``, bilinear with
    #: Pillow; ``{"rule": "center_crop", "share": float}``, bicubic, until ``size`` is that share of the
    #: shorter side, then cut from the middle; None: as the user likes.
    resize: dict[str, Any] | None = None
    class_names: tuple[str, ...] = ()  #: by class number
    category_ids: tuple[int, ...] = ()  #: of a detector's classes in its results
    class_source: str = ""  #: the data that they are of
    first_label: int = 0  #: of a segmentor, the value of class 0 in label images
    stride: int = 0  #: of a segmentor, pixels from a window to the next
    source: str = ""  #: the weight file that was exported, its folder before it

    @property
    def classes(self) -> Classes:
        return Classes(self.class_names, self.category_ids, self.class_source)

    def to_json(self) -> str:
        return json.dumps({"form": _FORM, **asdict(self)})

    @classmethod
    def from_json(cls, text: str | None, path: str) -> "ModelFacts":
        """What `to_json` wrote.

        Raises:
            UserError: nothing, or of a later release; names the file.
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
