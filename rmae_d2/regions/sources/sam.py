"""SAM, SAM 2 and SAM 3 automatic masks as regions, using their networks in the `transformers` package.

A grid of points prompts for masks; masks with low predicted quality or stability are left out, and
non-maximum suppression removes duplicates: the mask generation of SAM's paper (appendix B).
transformers' own pipeline is not used: for SAM 2 and 3, which see a photo stretched to a square, release 5.23
scales the points of both sides by the longer one, so that the lower quarter of a 4:3 photo gets none.

A large network takes several seconds per image on a GPU, so make a store once (rmae-d2 regions), with one
process per GPU: several on one GPU are slower together than one.
"""

import json
import math
import os
from collections.abc import Iterator, Mapping
from hashlib import blake2b
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ...annotations.segmentation import run_counts
from ...errors import CheckpointError, UserError
from ...extras import needed
from ...hub_files import HUB, INDEX, hub_file, shard_names
from ..record.masks import describe
from ..record.record import RegionRecord, largest_first, record_of_counts
from .sam_json import MAX_MASKS, check_max_masks

#: Kinds of network that accept points, by `model_type` in their config.json: the hub's models for video
#: contain the network for images.
KINDS = ("sam", "sam2", "sam2_video", "sam3_tracker", "sam3_video")
_SUCH_AS = "such as facebook/sam2.1-hiera-small, facebook/sam3 or facebook/sam-vit-huge"

# The first of these that exists, and all of the others.
_WEIGHTS = tuple(f"{n}{i}" for n in ("model.safetensors", "pytorch_model.bin") for i in ("", INDEX))
_CONFIGS = ("config.json", "preprocessor_config.json", "processor_config.json")

#: Overlap of crops in the first layer, as a fraction of the shorter side, as in SAM.
_OVERLAP = 512 / 1500

_BY_THEIR_AUTHORS = (".pth", ".pt")
_SAME_WEIGHTS = {"vit_h": "sam-vit-huge", "vit_l": "sam-vit-large", "vit_b": "sam-vit-base"}
_SAME_WEIGHTS |= {
    f"{version}_hiera_{size}": f"{version}-hiera-{size.replace('_', '-')}"
    for version in ("sam2.1", "sam2")
    for size in ("tiny", "small", "base_plus", "large")
}


class SamSource:
    """Region source for SAM's automatic masks: overlapping, by decreasing area, then by position.

    Picklable: the network is built for the first image, and neither it nor its weights are pickled. A batch
    of points needs several times `points_per_batch` x 3 masks x 4 bytes per pixel, which `max_side` limits.

    Attributes:
        params: what the regions depend on, including a digest of weights and config, wherever they are.
            Device and `points_per_batch` are not included: they change only rounding, so a run that
            ran out of memory can continue with smaller batches.
    """

    def __init__(
        self,
        model: str | os.PathLike[str],
        device: str | None = None,
        points_per_side: int = 32,
        points_per_batch: int = 64,
        pred_iou_thresh: float = 0.88,
        stability_score_thresh: float = 0.95,
        box_nms_thresh: float = 0.7,
        crop_n_layers: int = 0,
        max_side: int | None = 1024,
        max_masks: int | None = MAX_MASKS,
    ) -> None:
        """Check settings and package (UserError), fetch the weights, and read them once, for their digest.

        Arguments not explained here are those of SAM's automatic mask generator, with its defaults; SAM 2's
        has pred_iou_thresh=0.8.

        Args:
            model: a folder written by transformers' `save_pretrained`, or a Hugging Face hub name,
                `ORG/NAME[@REVISION]`, with or without `hf://`.
            device: such as "cuda:1" or "cpu"; None uses CUDA if available.
            max_side: images with a longer side are segmented at this size, and their masks are
                enlarged by nearest neighbour. SAM itself sees the whole image at 1024 pixels, so
                1024 only reduces the sharpness of edges. None for no limit.
            max_masks: largest number of masks, keeping the largest ones; None for all.
        """
        if max_side is not None and max_side < 1:
            raise UserError(f"max_side={max_side} must be positive, or None for no limit")
        if min(points_per_side, points_per_batch) < 1:
            raise UserError(
                f"points_per_side={points_per_side} and points_per_batch={points_per_batch} must "
                "be positive"
            )
        needed("transformers", "sam", "the region source sam")
        self.model = os.fspath(model)
        self.device = device
        self.max_side = max_side
        self.max_masks = check_max_masks(max_masks)
        self.points_per_batch = points_per_batch
        self.settings: dict[str, Any] = {
            "points_per_side": points_per_side,
            "pred_iou_thresh": pred_iou_thresh,
            "stability_score_thresh": stability_score_thresh,
            "box_nms_thresh": box_nms_thresh,
            "crop_n_layers": crop_n_layers,
        }
        self._folder = _find(self.model)
        self.params: dict[str, Any] = {
            "source": "sam",
            "kind": _kind(self._folder),
            "weights": _digest(self._folder),
            **self.settings,
            "max_side": max_side,
            "max_masks": max_masks,
        }
        self._network: Any = None

    def __repr__(self) -> str:
        return (
            f"masks of {self.model} ({self.params['kind']}) on {self.device or 'any GPU'}, "
            f"{self.settings}, max_side {self.max_side}, at most {self.max_masks}, computed when "
            "an image is seen (very slow: make a store)"
        )

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_network": None}

    def __call__(
        self, dataset_dict: Mapping[str, Any], image_HWC: NDArray[np.uint8]
    ) -> RegionRecord:
        """Make the record of an image's masks; `dataset_dict` is not used. The image is uint8 RGB (H, W, 3).

        Raises:
            UserError: it is not an RGB image.
            RuntimeError: the weights are damaged or do not match the config.
            MemoryError: the device has too little memory; says which settings to lower.
        """
        if image_HWC.dtype != np.uint8 or image_HWC.ndim != 3 or image_HWC.shape[2] != 3:
            raise UserError(f"SAM needs a uint8 RGB (H, W, 3) image, got {describe(image_HWC)}")
        if self._network is None:
            self._network = self._build()
        import torch

        image = self._shrunk(image_HWC)
        size = (image.shape[0], image.shape[1])
        try:
            with torch.inference_mode():
                generated = self._generate(image)
        except torch.cuda.OutOfMemoryError as error:
            raise MemoryError(
                f"SAM has too little memory for an image of {size[1]}x{size[0]} pixels ({error}): lower "
                f"points_per_batch={self.points_per_batch} or max_side={self.max_side}"
            ) from error
        found = [run_counts(mask, size) for mask in generated]
        masks = largest_first((counts for counts in found if counts is not None), self.max_masks)
        record = record_of_counts(masks, size, self.params)
        return record.resize((image_HWC.shape[0], image_HWC.shape[1]))

    def _shrunk(self, image_HWC: NDArray[np.uint8]) -> NDArray[np.uint8]:
        """The image with no side above `max_side`, by SAM's own rule for its input."""
        from PIL import Image

        height, width = image_HWC.shape[:2]
        if self.max_side is None or max(height, width) <= self.max_side:
            return image_HWC
        scale = self.max_side / max(height, width)
        size = [max(1, math.floor(side * scale + 0.5)) for side in (width, height)]
        small = Image.fromarray(image_HWC).resize((size[0], size[1]), Image.Resampling.BILINEAR)
        return np.asarray(small)

    def _build(self) -> tuple[Any, Any]:
        """The network on its device, in evaluation mode and float32, and its image processor."""
        import torch
        from transformers import AutoImageProcessor, AutoModelForMaskGeneration

        try:
            processor = AutoImageProcessor.from_pretrained(self._folder)
            network, report = AutoModelForMaskGeneration.from_pretrained(
                self._folder, dtype=torch.float32, output_loading_info=True
            )
            if missing := sorted(report["missing_keys"]):
                raise ValueError(f"{len(missing)} tensors are missing, such as {missing[0]}")
        except Exception as error:  # any kind may be raised for files that are not weights
            raise RuntimeError(  # not ValueError: the image is not to blame
                f"{self._folder} does not hold a whole network ({str(error).splitlines()[0]}): copy or "
                "download it again"
            ) from error
        device = self.device or ("cuda" if torch.cuda.is_available() else "cpu")
        return network.to(device).eval(), processor

    def _generate(self, image_HWC: NDArray[np.uint8]) -> list[dict[str, Any]]:
        """Run lengths of the image's masks, `{"size", "counts"}`, by decreasing predicted quality."""
        import torch
        from torchvision.ops import nms

        masks, scores, places = [], [], []
        for box in _crops(image_HWC.shape[:2], self.settings["crop_n_layers"]):
            for some, their_scores, their_places in self._of_crop(image_HWC, box):
                masks += some
                scores.append(their_scores)
                places.append(their_places)
        if not masks:
            return []
        kept = nms(
            torch.cat(places).float(), torch.cat(scores), self.settings["box_nms_thresh"]
        ).tolist()
        return [masks[k] for k in kept]

    def _of_crop(self, image_HWC: NDArray[np.uint8], box: tuple[int, int, int, int]) -> Any:
        """Yield masks as run lengths of the whole image, their scores and boxes, one batch of points each.

        Only `box`, x0, y0, x1, y1, is processed; masks that end at its border are left out.
        """
        import torch

        network, processor = self._network
        x0, y0, x1, y1 = box
        crop = np.array(image_HWC[y0:y1, x0:x1])  # a copy, which torch may write to
        given = processor(images=crop, input_data_format="channels_last", return_tensors="pt")
        given = given.to(network.device)
        pixels, padded = given["pixel_values"], given.get("reshaped_input_sizes")
        embeddings = network.get_image_embeddings(pixels)
        # SAM pads the photo to a square at the bottom or right; the others stretch the photo to it.
        high, wide = pixels.shape[-2:] if padded is None else padded[0].tolist()
        points = _grid(self.settings["points_per_side"]) * torch.tensor([wide, high])
        least = self.settings["pred_iou_thresh"], self.settings["stability_score_thresh"]
        for some in points.to(pixels).split(self.points_per_batch):
            labels = torch.ones(1, len(some), 1, dtype=torch.int64, device=some.device)
            answer = network(
                image_embeddings=embeddings, input_points=some[None, :, None], input_labels=labels
            )
            sure = answer.iou_scores[0] > least[0]  # before masks are enlarged, the slowest step
            if not sure.any():
                continue
            (logits,) = processor.post_process_masks(
                [answer.pred_masks[0][sure][:, None]],
                given["original_sizes"],
                reshaped_input_sizes=padded,
                binarize=False,
            )
            scores = answer.iou_scores[0][sure][:, None]
            yield processor.filter_masks(logits, scores, image_HWC.shape[:2], box, *least)


def _crops(size: tuple[int, ...], layers: int) -> Iterator[tuple[int, int, int, int]]:
    """Yield x0, y0, x1, y1 of an image of (H, W) pixels, then of its overlapping 2 x 2, 4 x 4, ... parts."""
    high, wide = size
    yield 0, 0, wide, high
    for parts in (2**layer for layer in range(1, layers + 1)):
        overlap = int(_OVERLAP * min(size) * 2 / parts)
        width, height = (-(-(overlap * (parts - 1) + side) // parts) for side in (wide, high))
        for column, row in product(range(parts), repeat=2):
            x, y = column * (width - overlap), row * (height - overlap)
            yield x, y, min(x + width, wide), min(y + height, high)


def _grid(side: int) -> Any:
    """Centres of side x side cells of [0, 1] x [0, 1], float (side * side, 2): x, y."""
    import torch

    middles = (torch.arange(side) + 0.5) / side
    return torch.cartesian_prod(middles, middles).flip(1)  # row by row


def _find(model: str) -> Path:
    """The folder with a model's files, downloaded if it is on the hub."""
    folder = Path(model).expanduser()
    if folder.is_dir():
        return folder
    if folder.suffix in _BY_THEIR_AUTHORS:
        same = [name for part, name in _SAME_WEIGHTS.items() if part in folder.stem]
        remedy = f"model=facebook/{same[0]} has the same weights" if same else f"model=, {_SUCH_AS}"
        raise UserError(
            f"{model} is of SAM's own code, regions come by transformers': give its folder or its name on "
            f"the Hugging Face hub; {remedy}"
        )
    try:
        return hub_file(model, _WEIGHTS, _CONFIGS).parent
    except CheckpointError as error:
        if model.startswith(HUB):
            raise
        raise UserError(f"{model}: no such folder; taken for a name of the hub, {error}") from error


def _kind(folder: Path) -> str:
    """The kind of a model, from its config.json; UserError if it does not accept points."""
    path = folder / "config.json"
    try:
        kind = json.loads(path.read_text(encoding="utf-8"))["model_type"]
    except (OSError, ValueError, LookupError, TypeError) as error:
        raise UserError(
            f"{path} is not a transformers config ({error!s:.100}): give a model's whole folder, or a name "
            f"of the hub, {_SUCH_AS}"
        ) from error
    if kind not in KINDS:
        raise UserError(
            f"{folder} is a {kind!r}, which gives no masks for points: take one of SAM, SAM 2 or SAM 3, "
            f"{_SUCH_AS}"
        )
    return str(kind)


def _digest(folder: Path) -> str:
    """Digest of all files of a model; UserError if its weights are missing or incomplete."""
    weights = next((folder / name for name in _WEIGHTS if (folder / name).is_file()), None)
    if weights is None:
        raise UserError(f"{folder} has none of {', '.join(_WEIGHTS)}: give a whole model's folder")
    names = [name for name in _CONFIGS if (folder / name).is_file()] + [weights.name]
    names += shard_names(weights) if weights.name.endswith(INDEX) else []
    digest = blake2b(digest_size=16)
    for name in names:
        try:
            with open(folder / name, "rb") as file:
                while block := file.read(1 << 22):
                    digest.update(block)
        except OSError as error:
            raise UserError(f"{folder / name}: {error.strerror}: copy or download it") from error
    return digest.hexdigest()
