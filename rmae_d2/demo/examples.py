"""Example images: photographs from the scikit-image wheel and rendered scenes, or the user's own."""

import io
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from PIL import Image

from ..data.scenes.render import PHOTOS, photo_path, render_scene
from ..errors import UserError
from ..files import check_file
from ..photos.inputs import list_inputs
from .requests import Limits, RefusedError, decode_image

MOST = 12
_DEFAULTS = ("chelsea.png", "astronaut.png", "coffee.png", "rocket.jpg")
_SCENES = (9, 12)
_SCENES_SEED = 1  # not that of the demo's training set
_THUMBNAIL = (144, 108)


@dataclass(frozen=True)
class Example:
    """An image offered by the page."""

    name: str  # shown below its thumbnail
    credit: str  # licence and author, if known
    data: bytes  # the file, in a format accepted for uploads
    thumbnail: bytes  # JPEG


def default_examples() -> list[Example]:
    """Examples available on every machine without a network."""
    examples = [
        _example(Path(name).stem, PHOTOS[name][1], photo_path(name).read_bytes())
        for name in _DEFAULTS
    ]
    for index in _SCENES:
        file = io.BytesIO()
        Image.fromarray(render_scene(_SCENES_SEED, index).image).save(file, "PNG")
        examples.append(_example(f"scene-{index}", "rendered", file.getvalue()))
    return examples


def examples_from(given: Sequence[str], limits: Limits) -> list[Example]:
    """Load the first ``MOST`` examples from files, folders, lists and COCO jsons."""
    inputs = list_inputs(given)
    if len(inputs) > MOST:
        print(f"--examples: the first {MOST} of {len(inputs)} images", file=sys.stderr)
    return [_read(Path(item.path), limits) for item in inputs[:MOST]]


def _read(path: Path, limits: Limits) -> Example:
    try:
        check_file(path)
        data = path.read_bytes()
        if len(data) > limits.upload_bytes:
            raise RefusedError(413, f"It has more than {limits.upload_bytes} bytes.")
        decode_image(data, limits.pixels)
    except (OSError, RefusedError) as error:
        raise UserError(f"--examples {path}: {error}") from error
    return _example(path.stem, "", data)


def _example(name: str, credit: str, data: bytes) -> Example:
    with Image.open(io.BytesIO(data)) as image:
        image.draft("RGB", _THUMBNAIL)
        small = image.convert("RGB")
    small.thumbnail(_THUMBNAIL)
    file = io.BytesIO()
    small.save(file, "JPEG", quality=85)
    return Example(name, credit, data, file.getvalue())
