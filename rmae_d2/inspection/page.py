"""An HTML page with the findings about a data set and pictures from it."""

import os
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from detectron2.structures import Boxes, Instances
from markupsafe import Markup
from numpy.typing import NDArray
from PIL import Image

from ..annotations.entries import Instance
from ..annotations.segmentation import compressed
from ..errors import ImageReadError
from ..photos.reading import read_image
from ..report.html import jpeg_uri, write_page
from ..visualization.predictions import draw_instances
from .dataset import Finding, Inspection

#: The longest side of a picture in pixels, and the largest number of objects drawn.
_SIDE, _OBJECTS = 480, 50


def write_inspection(found: Inspection, path: Path, shown: int) -> None:
    """Write a self-contained page with evenly spaced images of the data set and their labels.

    Args:
        found: the result of `inspect_dataset`.
        path: file to write.
        shown: number of images.

    Raises:
        UserError: the page cannot be written.
    """
    files = found.files
    chosen = [files[k * len(files) // shown] for k in range(shown)] if len(files) > shown else files
    content = {
        "title": found.title,
        "lines": found.lines,
        "tables": [_as_html(text) for text in found.tables],
        "wrong": list(_with_pictures(found, found.wrong)),
        "odd": list(_with_pictures(found, found.odd)),
        "pictures": [picture for name in chosen if (picture := _picture(found, name))],
    }
    write_page(path, Path(__file__).with_name("page.html"), content)


def _with_pictures(found: Inspection, findings: Sequence[Finding]) -> Iterator[dict[str, Any]]:
    for finding in findings:
        name = finding.file_name
        yield {**finding._asdict(), "picture": _picture(found, name) if name else None}


def _picture(found: Inspection, name: str) -> dict[str, str] | None:
    """An image with its labels drawn; None if it cannot be read."""
    try:
        image = read_image(name)
    except ImageReadError:
        return None
    height, width = image.shape[:2]
    caption = f"{os.path.basename(name)}, {width}x{height}"
    row = found.rows.get(name)
    if row is None or found.annotations is None:
        return {"uri": _uri(image), "caption": caption}
    listed, instances = found.annotations[row]
    if (listed.height, listed.width) != (height, width):
        return {
            "uri": _uri(image),
            "caption": f"{caption}; its labels do not fit and are not drawn",
        }
    names = {category.id: category.name for category in found.annotations.categories}
    some = sorted(instances, key=lambda i: -i.box[2] * i.box[3])[:_OBJECTS]
    return {
        "uri": _uri(_drawn(image, some, names)),
        "caption": f"{caption}, objects: {len(instances)}",
    }


def _drawn(
    image: NDArray[np.uint8], instances: Sequence[Instance], names: dict[int, str]
) -> NDArray[np.uint8]:
    """Draw boxes, and masks if all objects have one, on a reduced image so that lines and letters fit."""
    if not instances:
        return image
    from pycocotools import mask as mask_util

    height, width = image.shape[:2]
    scale = min(1.0, 2 * _SIDE / max(height, width))
    size = (max(round(height * scale), 1), max(round(width * scale), 1))
    small = Image.fromarray(image).resize(size[::-1], Image.Resampling.BOX)
    boxes = torch.tensor([i.box for i in instances])
    boxes[:, 2:] += boxes[:, :2]
    numbers = {identifier: k for k, identifier in enumerate(names)}
    objects = Instances(size, pred_boxes=Boxes(boxes * scale))
    objects.pred_classes = torch.tensor([numbers.get(i.category_id, len(names)) for i in instances])
    if all(i.mask is not None for i in instances):
        masks = [mask_util.decode(compressed(i.mask, (height, width))) for i in instances if i.mask]
        objects.pred_masks = torch.from_numpy(
            np.stack([_resized(mask, size) for mask in masks]).astype(bool)
        )
    return draw_instances(np.asarray(small), objects, [*names.values(), "no class"])


def _resized(mask: NDArray[np.uint8], size: tuple[int, int]) -> NDArray[np.uint8]:
    return np.asarray(Image.fromarray(mask).resize(size[::-1], Image.Resampling.NEAREST))


def _uri(image: NDArray[np.uint8]) -> str:
    picture = Image.fromarray(image)
    picture.thumbnail((_SIDE, _SIDE))
    return jpeg_uri(picture)


def _as_html(text: str) -> Markup:
    """Convert a Markdown table and the text below it to HTML."""
    lines = [line for line in text.splitlines() if line]
    rows = [[cell.strip() for cell in line[1:-1].split("|")] for line in lines if line[0] == "|"]
    cells = Markup("").join(
        Markup("<tr>{}</tr>").format(
            Markup("").join(Markup(f"<{tag}>{{}}</{tag}>").format(cell) for cell in row)
        )
        for tag, some in (("th", rows[:1]), ("td", rows[2:]))
        for row in some
    )
    below = Markup("").join(Markup("<p>{}</p>").format(line) for line in lines if line[0] != "|")
    return Markup("<table>{}</table>{}").format(cells, below)
