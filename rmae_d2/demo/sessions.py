"""One model for all users: what is known of each opened image, and predictions from it."""

import math
import secrets
import threading
from collections import OrderedDict
from collections.abc import Iterator
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from ..inference.region_prompt import RegionPrediction, RegionPromptPredictor
from ..inference.region_views import ImageEmbedding
from .queries import Query
from .uploads import RefusedError

#: Longest side of the probabilities that the page draws; the model's own maps are coarser still.
DISPLAY_SIDE = 768


@dataclass(frozen=True)
class OpenImage:
    """An encoded image of one user. Its pixels are not kept.

    Attributes:
        key: names it in requests and can't be guessed, so that nobody reaches another one's image.
        embedding: what predictions need.
    """

    key: str
    embedding: ImageEmbedding

    @property
    def display_size(self) -> tuple[int, int]:
        """(H, W) of what the page is sent: the image's, or reduced to ``DISPLAY_SIDE``."""
        height, width = self.embedding.image_size
        scale = min(1.0, DISPLAY_SIDE / max(height, width))
        return max(round(height * scale), 1), max(round(width * scale), 1)


class ImageStore:
    """The images used last, of all users together. Safe to use from several threads."""

    def __init__(self, capacity: int) -> None:
        self.capacity = capacity
        self._images: OrderedDict[str, OpenImage] = OrderedDict()
        self._lock = threading.Lock()

    def add(self, embedding: ImageEmbedding) -> OpenImage:
        """Keeps an image under a new key; the one unused for longest goes where there are too many."""
        image = OpenImage(secrets.token_urlsafe(24), embedding)
        with self._lock:
            self._images[image.key] = image
            while len(self._images) > self.capacity:
                self._images.popitem(last=False)
        return image

    def get(self, key: str) -> OpenImage:
        """The image of a key.

        Raises:
            RefusedError: never there, or gone for others (404, code ``gone``).
        """
        with self._lock:
            image = self._images.get(key)
            if image is None:
                raise RefusedError(
                    404, "The server no longer has this image: open it again.", "gone"
                )
            self._images.move_to_end(key)
            return image


class Segmenter:
    """The model, one caller at a time.

    Args:
        predictor: with its model and resolution.
        capacity: images kept.
    """

    def __init__(self, predictor: RegionPromptPredictor, capacity: int) -> None:
        self.predictor = predictor
        self.images = ImageStore(capacity)
        self._lock = threading.Lock()

    def open(self, image_HWC: NDArray[np.uint8], mask_ratio: float) -> OpenImage:
        """Encodes an image.

        Args:
            image_HWC: uint8 RGB.
            mask_ratio: share of patches hidden from the encoder.
        """
        with self._lock:
            embedding = self.predictor.embed(image_HWC, mask_ratio=mask_ratio)
        return self.images.add(embedding)

    def display(self, image: OpenImage, query: Query) -> RegionPrediction:
        """All regions at the display's size."""
        return self._predict(replace(image.embedding, image_size=image.display_size), query, None)

    def full_size(self, image: OpenImage, query: Query) -> Iterator[RegionPrediction]:
        """The chosen region or all, one after the other: at the image's size all take much memory."""
        chosen = range(len(query.regions)) if query.chosen is None else [query.chosen]
        for index in chosen:
            yield self._predict(image.embedding, query, index)

    def _predict(
        self, embedding: ImageEmbedding, query: Query, index: int | None
    ) -> RegionPrediction:
        marks = query.regions if index is None else query.regions[index : index + 1]
        prompts = [
            self.predictor.prompt(
                patches=region.positive,
                negative_patches=region.negative or None,
                embedding=embedding,
            )
            for region in marks
        ]
        with self._lock:
            return self.predictor.predict(prompts, query.threshold, embedding)


def describe_model(predictor: RegionPromptPredictor) -> str:
    """One line for the page: how large the model is and what it looks at; honest where it is small."""
    net = predictor.model.backbone.net
    millions = sum(p.numel() for p in net.parameters()) / 1e6
    height, width = net.img_size
    text = f"R-MAE with an encoder of {_rounded(millions)} million parameters, {width} × {height} pixels"
    return f"{text}: a small demo model, so expect rough masks." if millions < 20 else f"{text}."


def _rounded(value: float, digits: int = 2) -> str:
    if value <= 0:
        return "0"
    return f"{round(value, digits - 1 - math.floor(math.log10(value))):g}"
