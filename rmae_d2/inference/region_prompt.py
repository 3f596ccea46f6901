"""Interactive segmentation: from a few visible patches of a region, and the image, to its mask.

R-MAE's region branch completes region maps (section 4 and figure 6 of the paper show it); nothing is
trained for it here. Letters: H W pixels of the image, P patch side, Gh Gw grid over the whole image,
K prompts, n points.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import ArrayLike, NDArray
from scipy.ndimage import label

from ..errors import UserError
from ..modeling import RMAE, ChannelRegionBranch
from .finished_run import load_run
from .region_views import (
    RESOLUTIONS,
    ImageEmbedding,
    complete_regions,
    embed_views,
    mask_confidence,
)


@dataclass(frozen=True)
class RegionPrompt:
    """What is known of one region, on the grid of patches of the image that was embedded.

    Args:
        visible: bool (Gh, Gw), patches shown to the region branch.
        region: bool (Gh*P, Gw*P), the region's map; only visible patches count.
        within: bool (Gh, Gw), the patches that the mask is kept to; None for all.
    """

    visible: NDArray[np.bool_]
    region: NDArray[np.bool_]
    within: NDArray[np.bool_] | None = None

    @property
    def marked(self) -> NDArray[np.bool_]:
        """Bool (Gh, Gw), the visible patches with something of the region."""
        (Gh, Gw), P = self.visible.shape, self.region.shape[0] // self.visible.shape[0]
        marked: NDArray[np.bool_] = self.visible & self.region.reshape(Gh, P, Gw, P).any(
            axis=(1, 3)
        )
        return marked

    def kept_in(self, top: int, left: int, bottom: int, right: int) -> "RegionPrompt":
        """Keeps the mask to rows and columns of patches, the last ones excluded, and ``BOX_MARGIN`` around.

        Unless the prompt itself shows some of the region outside of that.
        """
        within = np.zeros_like(self.visible)
        rows = slice(max(top - BOX_MARGIN, 0), bottom + BOX_MARGIN)
        within[rows, max(left - BOX_MARGIN, 0) : right + BOX_MARGIN] = True
        return self if (self.marked & ~within).any() else replace(self, within=within)

    def with_background(self) -> "RegionPrompt":
        """Takes the grid's four corners as outside the region, unless the prompt itself shows background.

        What a model was only shown the inside of it tends to continue over the whole image, for so do the
        regions that fill all visible patches in pre-training.
        """
        P = self.region.shape[0] // self.visible.shape[0]
        shown = self.visible.repeat(P, axis=0).repeat(P, axis=1)
        if (shown & ~self.region).any() or not shown.any():
            return self
        corners = np.zeros_like(self.visible)
        corners[np.ix_((0, -1), (0, -1))] = True
        return replace(self, visible=self.visible | corners, region=self.region & shown)


@dataclass(frozen=True)
class RegionPrediction:
    """Masks of K prompts at the image's size.

    Args:
        masks: bool (K, H, W), probability above the threshold.
        probabilities: float32 (K, H, W). Visible patches are as given, hidden ones the sigmoid of the
            region branch's logits, all resized to the image bilinearly.
        scores: float32 (K,) in [0, 1], see :func:`.mask_confidence`. Not a learned IoU: it is as good as
            the probabilities are calibrated, and high for many a mask that is wrong.
        doubts: K texts, see :func:`doubt`.
    """

    masks: NDArray[np.bool_]
    probabilities: NDArray[np.float32]
    scores: NDArray[np.float32]
    doubts: Sequence[str]


#: Patches around a box that its mask may reach into.
BOX_MARGIN = 1

#: Share of an image from which on a mask covers nearly all of it.
NEARLY_ALL = 0.9

_MOST_PIECES = 10
_LOOKED_AT = 256  # pixels of a mask's long side


def doubt(mask_HW: NDArray[np.bool_], marked_GG: NDArray[np.bool_]) -> str:
    """Why a mask is hardly the region meant, one clause; empty where nothing speaks against it.

    That it covers nearly all of the image, that most of it lies in pieces without a patch that was marked as
    part of the region (Gh, Gw), or that there are many such pieces, 3 by 3 pixels or more of at most 256 a
    side.
    """
    if mask_HW.mean() > NEARLY_ALL:
        return "it covers nearly all of the image"
    step = -(-max(mask_HW.shape) // _LOOKED_AT)
    mask = mask_HW[::step, ::step]
    pieces, count = label(mask)
    sizes = np.bincount(pieces.ravel(), minlength=count + 1)
    rows, columns = (
        np.arange(n) * g // n for n, g in zip(mask.shape, marked_GG.shape, strict=True)
    )
    sizes[pieces[marked_GG[np.ix_(rows, columns)]]] = (
        0  # those that hold a mark, and what is no mask
    )
    sizes[0] = 0
    if 2 * sizes.sum() > mask.sum():
        return "most of it lies apart from the marks"
    if (sizes >= 9).sum() >= _MOST_PIECES:
        return f"{(sizes >= 9).sum()} pieces of it lie apart from the marks"
    return ""


class RegionPromptPredictor:
    """Segments what a few patches point at, with a pre-trained R-MAE or RAE.

        predictor = RegionPromptPredictor.from_files("output/rmae/model_final.pth")
        predictor.set_image(read_image("photo.jpg"))
        prompt = predictor.prompt(points=[(320, 200), (40, 40)], labels=[1, 0])
        mask = predictor.predict([prompt]).masks[0]

    The pixel encoder runs once an image; a prediction runs only the region branch. A prompt's result does
    not depend on the others (but for the last digits). A prompt without visible patches asks for nothing and
    gets probability 0 everywhere.

    Pre-training shows both encoders the same 25 % of the patches, at random places, with exact content. A few
    clicks are far from that: a clicked patch is taken to lie wholly in the region, or wholly outside. On the
    demo's small model ``mask_ratio`` 0, 0.75 and 0.9 differ by no more than the standard error where true
    patches are shown; after ten simulated clicks 0.75 and 0.9 were 10 to 19 points of IoU better than 0,
    after three no better (``rmae-d2 evaluate-interactive``).

    Args:
        model: with a region branch that gets the pixels: the length or batch variant.
        resolution: how an image of another size than the model's is taken.
            ``resize``: stretched to the model's size, as in pre-training but for its crops.
            ``interpolate``: resized, keeping its shape, to a grid of its own number of patches, at least
            the model's and at most ``max_patches``; position embeddings are resampled to that grid.
            ``window``: resized as for ``interpolate``, sides no shorter than the model's, and cut into
            windows of the model's size that overlap by half or more. Those take part in a prompt that hold
            a visible patch with foreground; where several do, they are averaged, the middle of a window
            counting most. The mask ends where these windows end: elsewhere the probability is 0.
        mask_ratio: share of pixel patches hidden from the pixel encoder, [0, 0.95], by ``seed``.
        seed: of the hidden pixel patches.
        max_patches: of the grid over the whole image, unless ``resize``; never less than the model's.

    Attributes:
        embedding: the image that was set, or None; of it are image_size, grid and hidden.

    Raises:
        UserError: a model that cannot do this, an unknown resolution, or a ratio out of range.
    """

    def __init__(
        self,
        model: RMAE,
        *,
        resolution: str = "resize",
        mask_ratio: float = 0.0,
        seed: int = 0,
        max_patches: int = 1024,
    ) -> None:
        _check_model(model)
        if resolution not in RESOLUTIONS:
            raise UserError(f"resolution={resolution!r}: one of {', '.join(RESOLUTIONS)}")
        _check_ratio(mask_ratio)
        self.model = model.eval()
        self.resolution = resolution
        self.mask_ratio = mask_ratio
        self.seed = seed
        self.max_patches = max(max_patches, model.backbone.net.num_patches)
        self.embedding: ImageEmbedding | None = None

    @classmethod
    def from_files(
        cls,
        weights: str | Path,
        config_file: str | Path | None = None,
        *,
        overrides: Sequence[str] = (),
        device: str = "auto",
        **settings: Any,
    ) -> "RegionPromptPredictor":
        """A predictor of a finished run.

        Args:
            weights, config_file, overrides: see :func:`.load_run`, which says what it raises, too.
            device: ``auto``, ``cpu``, ``cuda`` ...
            settings: keyword arguments of the class.
        """
        named = None if config_file is None else str(config_file)
        _, model = load_run(str(weights), named, [*overrides, f"train.device={device}"])
        return cls(model, **settings)

    @property
    def patch_size(self) -> int:
        return self.model.patch_size

    @property
    def image_size(self) -> tuple[int, int]:
        return self._image().image_size

    @property
    def grid(self) -> tuple[int, int]:
        return self._image().grid

    @property
    def hidden(self) -> NDArray[np.bool_]:
        return self._image().hidden

    def set_image(self, image_HWC: NDArray[np.uint8]) -> None:
        """Embeds an image, see :meth:`embed`, and keeps it as the one that other calls are about."""
        self.embedding = self.embed(image_HWC)

    @torch.no_grad()
    def embed(
        self,
        image_HWC: NDArray[np.uint8],
        *,
        mask_ratio: float | None = None,
        seed: int | None = None,
    ) -> ImageEmbedding:
        """Runs the pixel encoder. One model can serve many embeddings at a time.

        Args:
            image_HWC: uint8 (H, W, 3) RGB, upright, any size from 1x1; anything else is a UserError.
            mask_ratio, seed: instead of the predictor's own.
        """
        channels = self.model.backbone.net.in_chans
        if image_HWC.dtype != np.uint8 or image_HWC.ndim != 3 or image_HWC.shape[2] != channels:
            given = f"{image_HWC.dtype} {image_HWC.shape}"
            raise UserError(f"an image is uint8 (H, W, {channels}), not {given}")
        if not image_HWC.size:
            raise UserError(f"an image without pixels, {image_HWC.shape}")
        ratio = self.mask_ratio if mask_ratio is None else mask_ratio
        _check_ratio(ratio)
        seed = self.seed if seed is None else seed
        return embed_views(self.model, image_HWC, self.resolution, ratio, seed, self.max_patches)

    def prompt(
        self,
        *,
        points: ArrayLike | None = None,
        labels: ArrayLike | None = None,
        box: ArrayLike | None = None,
        scribble: ArrayLike | None = None,
        patches: ArrayLike | None = None,
        negative_patches: ArrayLike | None = None,
        assume_background: bool = False,
        keep_in_box: bool = True,
        embedding: ImageEmbedding | None = None,
    ) -> RegionPrompt:
        """What a person points at, as visible patches: positive ones all region, negative ones all not.

        Where arguments disagree on a patch, the later in this list wins: box, scribble, patches,
        negative_patches, points (a later point over an earlier one).

        Args:
            points: (n, 2) of (x, y), pixels of the image; a point's patch becomes visible.
            labels: (n,), 1 for positive and 0 for negative points; None for all positive.
            box: (x0, y0, x1, y1) around the region, pixels: the patch at its centre becomes positive, and
                those that lie wholly outside and touch it (a ring one patch wide) negative.
            scribble: (n, 2), a line through these points: every patch that it meets becomes positive.
            patches: (n, 2) of (row, column) on the grid, positive.
            negative_patches: as ``patches``, negative.
            assume_background: see :meth:`RegionPrompt.with_background`.
            keep_in_box: whether a box's mask ends ``BOX_MARGIN`` patches around it; see
                :meth:`RegionPrompt.kept_in`.
            embedding: of the image; None for the one that was set.

        Raises:
            UserError: no image; points, patches or a box outside the image; lengths that differ.
        """
        image = self._image(embedding)
        grid, size, P = image.grid, image.image_size, self.patch_size
        known = np.full(grid, UNKNOWN, np.int8)
        limits = None
        if box is not None:
            limits = _mark_box(known, np.asarray(box, np.float64), size)
        if scribble is not None:
            line = _points(scribble, "scribble", size)
            known[tuple(patches_of(_sampled(line, grid, size), grid, size).T)] = INSIDE
        if patches is not None:
            known[tuple(_patches(patches, "patches", grid).T)] = INSIDE
        if negative_patches is not None:
            known[tuple(_patches(negative_patches, "negative_patches", grid).T)] = OUTSIDE
        if points is not None:
            _mark_points(known, points, labels, size)
        elif labels is not None:
            raise UserError("labels are given without points")
        prompt = RegionPrompt(known >= 0, (known == 1).repeat(P, axis=0).repeat(P, axis=1))
        if limits is not None and keep_in_box:
            prompt = prompt.kept_in(*limits)
        return prompt.with_background() if assume_background else prompt

    @torch.no_grad()
    def predict(
        self,
        prompts: Sequence[RegionPrompt],
        threshold: float = 0.5,
        embedding: ImageEmbedding | None = None,
    ) -> RegionPrediction:
        """The masks of K prompts of one image, K may be 0.

        Args:
            threshold: pixels of a higher probability are of the mask, [0, 1).
            embedding: of the image; None for the one that was set.

        Raises:
            UserError: no image, or a prompt made for another grid.
        """
        image = self._image(embedding)
        (Gh, Gw), P = image.grid, self.patch_size
        for k, prompt in enumerate(prompts):
            shapes = (prompt.visible.shape, prompt.region.shape)
            if shapes != ((Gh, Gw), (Gh * P, Gw * P)):
                raise UserError(
                    f"prompt {k} has visible {shapes[0]} and region {shapes[1]}, this image's grid is "
                    f"{(Gh, Gw)} patches of {P}: prompts of one image do not serve another"
                )
        if not prompts:
            empty = np.zeros((0, *image.image_size), np.float32)
            return RegionPrediction(empty > 0, empty, np.zeros(0, np.float32), ())
        device = self.model.device
        visible = torch.from_numpy(np.stack([p.visible for p in prompts])).to(device)
        region = torch.from_numpy(np.stack([p.region for p in prompts])).to(device)
        completed = complete_regions(image, self.patch_size, visible, region.float())
        for k, prompt in enumerate(prompts):
            if prompt.within is not None:
                kept = torch.from_numpy(prompt.within).to(device)
                completed[k] *= kept.repeat_interleave(P, 0).repeat_interleave(P, 1)
        size = image.image_size
        resized = F.interpolate(completed[:, None], size, mode="bilinear", antialias=True)
        probabilities = resized[:, 0].clamp(0, 1)
        masks = probabilities > threshold
        found = masks.cpu().numpy()
        return RegionPrediction(
            found,
            probabilities.cpu().numpy(),
            mask_confidence(probabilities, masks).cpu().numpy(),
            [doubt(mask, prompt.marked) for mask, prompt in zip(found, prompts, strict=True)],
        )

    def _image(self, embedding: ImageEmbedding | None = None) -> ImageEmbedding:
        embedding = embedding or self.embedding
        if embedding is None:
            raise UserError("no image: call set_image, or give the embedding of one")
        return embedding


def _check_ratio(ratio: float) -> None:
    if not 0 <= ratio <= 0.95:
        raise UserError(f"mask_ratio={ratio}: from 0 (all pixels are shown) to 0.95")


def _check_model(model: RMAE) -> None:
    if model.region_branch is None:
        raise UserError(
            "this model has no region branch, as MAE has none: take the checkpoint and config of an R-MAE "
            "or RAE"
        )
    if isinstance(model.region_branch, ChannelRegionBranch):
        raise UserError(
            "this model has the channel variant of the region branch, which needs a fixed number of regions "
            "at once: take the length or batch variant"
        )
    if model.region_branch.mask_ratio == 1:
        raise UserError(
            "this model never saw a region patch (region_branch.mask_ratio=1), so it knows no prompt: take a "
            "model with a ratio below 1"
        )
    if model.feeding == "region_to_pixel":
        raise UserError(
            "this model's region branch does not get the pixels (feeding=region_to_pixel): take a model "
            "with feeding=pixel_to_region or both"
        )


UNKNOWN, OUTSIDE, INSIDE = -1, 0, 1
Labels = NDArray[np.int8]


def patches_of(
    points: NDArray[np.float64], grid: tuple[int, int], image_size: tuple[int, int]
) -> NDArray[np.int64]:
    """(row, column) of the patches under points (n, 2) of (x, y): pixel (x, y) counts by its centre."""
    (Gh, Gw), (H, W) = grid, image_size
    centres = np.floor(points) + 0.5
    columns, rows = centres[:, 0] * Gw / W, centres[:, 1] * Gh / H
    return np.stack([rows, columns], axis=1).astype(np.int64)


def _mark_points(
    known: Labels, points: ArrayLike, labels: ArrayLike | None, image_size: tuple[int, int]
) -> None:
    places = _points(points, "points", image_size)
    values = np.ones(len(places)) if labels is None else np.asarray(labels)
    if values.shape != (len(places),):
        raise UserError(f"{len(places)} points with labels of shape {values.shape}: one a point")
    if not np.isin(values, (0, 1)).all():
        raise UserError("labels are 1 (in the region) or 0 (outside)")
    rows_columns = patches_of(places, known.shape, image_size)
    for (row, column), value in zip(rows_columns, values, strict=True):
        known[row, column] = INSIDE if value else OUTSIDE


def _mark_box(
    known: Labels, box: NDArray[np.float64], image_size: tuple[int, int]
) -> tuple[int, int, int, int]:
    """Top, left, bottom and right of the box in patches, the last ones excluded."""
    (Gh, Gw), (H, W) = known.shape, image_size
    if box.shape != (4,) or not np.isfinite(box).all():
        raise UserError(f"a box is (x0, y0, x1, y1) in pixels, not {box.tolist()}")
    x0, y0, x1, y1 = np.clip(box, 0, (W, H, W, H))
    if x0 >= x1 or y0 >= y1:
        raise UserError(
            f"the box {box.tolist()} holds nothing of an image of {W} x {H} pixels (width x height); "
            "it is (x0, y0, x1, y1) with x0 < x1 and y0 < y1"
        )
    top, left = int(y0 * Gh / H), int(x0 * Gw / W)
    bottom, right = int(np.ceil(y1 * Gh / H)), int(np.ceil(x1 * Gw / W))
    known[max(top - 1, 0) : bottom + 1, max(left - 1, 0) : right + 1] = OUTSIDE
    known[top:bottom, left:right] = UNKNOWN
    known[int((y0 + y1) / 2 * Gh / H), int((x0 + x1) / 2 * Gw / W)] = INSIDE
    return top, left, bottom, right


def _sampled(
    line: NDArray[np.float64], grid: tuple[int, int], image_size: tuple[int, int]
) -> NDArray[np.float64]:
    """Points along a line, denser than pixels and than a quarter of a patch."""
    (Gh, Gw), (H, W) = grid, image_size
    pieces = [line[:1]]
    for start, end in zip(line[:-1], line[1:], strict=True):
        pixels = np.abs(end - start)
        steps = int(np.ceil(min(pixels.max(), 4 * (pixels * [Gw / W, Gh / H]).max()))) + 1
        pieces.append(start + (end - start) * np.linspace(0, 1, steps + 1)[1:, None])
    return np.concatenate(pieces)


def _points(values: ArrayLike, name: str, image_size: tuple[int, int]) -> NDArray[np.float64]:
    H, W = image_size
    where = f"the image of {W} x {H} pixels (width x height)"
    return _pairs(values, f"{name} (x, y)", (W, H), where)


def _patches(values: ArrayLike, name: str, grid: tuple[int, int]) -> NDArray[np.int64]:
    where = f"the grid of {grid[0]} x {grid[1]}"
    return _pairs(values, f"{name} (row, column)", grid, where).astype(np.int64)


def _pairs(
    values: ArrayLike, name: str, bounds: tuple[int, int], where: str
) -> NDArray[np.float64]:
    array: NDArray[np.float64] = np.asarray(values, np.float64)
    if not array.size:
        return np.zeros((0, 2))
    if array.ndim != 2 or array.shape[1] != 2 or not np.isfinite(array).all():
        raise UserError(f"{name} of shape {array.shape}: finite numbers (n, 2)")
    outside = (array < 0).any(axis=1) | (array >= bounds).any(axis=1)
    if outside.any():
        first, second = array[outside][0]
        raise UserError(f"{name}: ({first:g}, {second:g}) is outside {where}")
    return array
