"""One model for all users: the state of each opened image, predictions from it, and result files."""

import io
import json
import secrets
from collections import OrderedDict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

import numpy as np
import pycocotools.mask as mask_util
from numpy.typing import NDArray
from PIL import Image

from ..inference.region_prompt import RegionPrediction, RegionPrompt, RegionPromptPredictor
from ..inference.region_views import ImageEmbedding
from .requests import Marks, Query, RefusedError

#: Longest side of the probabilities drawn by the page; the model's own maps are coarser still.
DISPLAY_SIDE = 768


@dataclass(frozen=True)
class OpenImage:
    """An encoded image of one user. Its pixels are not kept."""

    key: str  # names it in requests; unguessable, so that no user reaches another's image
    embedding: ImageEmbedding

    @property
    def display_size(self) -> tuple[int, int]:
        """(H, W) of what is sent to the page: the image's size, or reduced to ``DISPLAY_SIDE``."""
        height, width = self.embedding.image_size
        scale = min(1.0, DISPLAY_SIDE / max(height, width))
        return max(round(height * scale), 1), max(round(width * scale), 1)


class OpenImages:
    """The most recently used images of all users; for use by the server's thread only.

    Args:
        capacity: beyond this number, the least recently used image is dropped.
    """

    def __init__(self, capacity: int) -> None:
        self._capacity = capacity
        self._images: OrderedDict[str, OpenImage] = OrderedDict()

    def add(self, embedding: ImageEmbedding) -> OpenImage:
        """Store an image under a new key."""
        image = OpenImage(secrets.token_urlsafe(24), embedding)
        self._images[image.key] = image
        while len(self._images) > self._capacity:
            self._images.popitem(last=False)
        return image

    def get(self, key: str) -> OpenImage:
        if key not in self._images:
            raise RefusedError(404, "The server no longer has this image: open it again.", "gone")
        self._images.move_to_end(key)
        return self._images[key]


def display(predictor: RegionPromptPredictor, image: OpenImage, query: Query) -> RegionPrediction:
    """Predict all regions at display size."""
    reduced = replace(image.embedding, image_size=image.display_size)
    return _predict(predictor, reduced, query.regions, query.threshold)


def full_size(
    predictor: RegionPromptPredictor, image: OpenImage, query: Query
) -> Iterator[RegionPrediction]:
    """Predict the chosen region or all, one by one: at full size, all together take much memory."""
    chosen = query.regions if query.chosen is None else [query.regions[query.chosen]]
    for region in chosen:
        yield _predict(predictor, image.embedding, [region], query.threshold)


def _predict(
    predictor: RegionPromptPredictor,
    embedding: ImageEmbedding,
    regions: Sequence[Marks],
    threshold: float,
) -> RegionPrediction:
    prompts = [_prompt(predictor, embedding, region) for region in regions]
    return predictor.predict(prompts, threshold, embedding)


def _prompt(
    predictor: RegionPromptPredictor, embedding: ImageEmbedding, region: Marks
) -> RegionPrompt:
    (height, width), (rows, columns) = embedding.image_size, embedding.grid
    whole = [
        [p for p in own if p not in region.places] for own in (region.positive, region.negative)
    ]
    points = [
        (min((c + x) * width / columns, width - 0.5), min((r + y) * height / rows, height - 0.5))
        for (r, c), (y, x) in region.places.items()
    ]
    prompt = predictor.prompt(
        patches=whole[0],
        negative_patches=whole[1],
        points=points,
        labels=[patch in region.positive for patch in region.places],
        embedding=embedding,
    )
    if region.box is None:
        return prompt
    (top, left), (bottom, right) = region.box
    return prompt.kept_in(top, left, bottom + 1, right + 1)


def describe_model(predictor: RegionPromptPredictor) -> str:
    """One line for the page: the model's size and input, with a warning if it is small."""
    net = predictor.model.backbone.net
    millions = sum(p.numel() for p in net.parameters()) / 1e6
    shown = float(f"{millions:.2g}")
    height, width = net.img_size
    text = f"R-MAE with an encoder of {shown:g} million parameters, {width} × {height} pixels"
    return f"{text}: a small demo model, so expect rough masks." if millions < 20 else f"{text}."


def mask_png(found: Iterator[RegionPrediction], size: tuple[int, int], query: Query) -> bytes:
    """Write the chosen region as a PNG: 255 in the mask, 0 elsewhere."""
    if query.chosen is None:
        raise RefusedError(422, "chosen must name the region of the mask.")
    return _png(next(found).masks[0].astype(np.uint8) * np.uint8(255))


def label_png(found: Iterator[RegionPrediction], size: tuple[int, int], query: Query) -> bytes:
    """Write all regions into one PNG: 1 for the first, 2 for the second ..., 0 for none.

    Where masks overlap, the pixel goes to the region with the higher probability.
    """
    labels = np.zeros(size, np.uint8)
    highest = np.zeros(size, np.float32)
    for number, prediction in enumerate(found, 1):
        wins = prediction.masks[0] & (prediction.probabilities[0] > highest)
        labels[wins] = number
        highest[wins] = prediction.probabilities[0][wins]
    return _png(labels)


def coco_json(found: Iterator[RegionPrediction], size: tuple[int, int], query: Query) -> bytes:
    """Write regions as a COCO-format data set that ``pycocotools.coco.COCO`` opens.

    Segmentations are compressed run lengths. Besides COCO's own keys, each annotation has its ``score`` and,
    if there is one, its ``doubt``; see `RegionPrediction`.
    """
    annotations = []
    for number, prediction in enumerate(found, 1):
        rle = mask_util.encode(np.asfortranarray(prediction.masks[0].astype(np.uint8)))
        annotation = {
            "id": number,
            "image_id": 1,
            "category_id": 1,
            "iscrowd": 0,
            "area": int(mask_util.area(rle)),
            "bbox": [float(x) for x in mask_util.toBbox(rle)],
            "score": round(float(prediction.scores[0]), 4),
            **({"doubt": prediction.doubts[0]} if prediction.doubts[0] else {}),
            "segmentation": {"size": rle["size"], "counts": rle["counts"].decode("ascii")},
        }
        annotations.append(annotation)
    content = {
        "info": {
            "description": "regions predicted by R-MAE (rmae_d2)",
            "threshold": query.threshold,
        },
        "images": [{"id": 1, "file_name": query.name, "height": size[0], "width": size[1]}],
        "categories": [{"id": 1, "name": "region"}],
        "annotations": annotations,
    }
    return json.dumps(content, indent=1).encode()


#: Functions that make a file from an image's predictions, their size (H, W) and the query.
FILES = {"mask.png": mask_png, "labels.png": label_png, "regions.json": coco_json}


def _png(values: NDArray[np.uint8]) -> bytes:
    file = io.BytesIO()
    Image.fromarray(values).save(file, "PNG")
    return file.getvalue()
