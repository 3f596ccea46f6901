"""Interactive segmentation: predicts a region's mask from the image and a few visible patches of the region.

R-MAE's region branch completes region maps (shown in section 4 and figure 6 of the paper); nothing is
trained for this here. Letters: H W pixels of the image, P patch side, Gh Gw grid over the whole image,
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
from ..regions.record.record import resize_mask
from ..regions.segment_walk import UNINFORMED, SegmentGraph, segment_graph, walk
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
    """What is known about one region, on the patch grid of the embedded image.

    Args:
        visible: bool (Gh, Gw), patches shown to the region branch.
        region: bool (Gh*P, Gw*P), the region's map; only visible patches count.
        within: bool (Gh, Gw), the patches to which the mask is restricted; None for all.
        seeds: int8 (h, w) on the map of the image's segments, if it has one: pixels known to be in the
            region (1), outside it (0), or unknown (-1); None for all pixels of the visible patches.
    """

    visible: NDArray[np.bool_]
    region: NDArray[np.bool_]
    within: NDArray[np.bool_] | None = None
    seeds: NDArray[np.int8] | None = None

    @property
    def marked(self) -> NDArray[np.bool_]:
        """Bool (Gh, Gw), the visible patches containing part of the region."""
        (Gh, Gw), P = self.visible.shape, self.region.shape[0] // self.visible.shape[0]
        marked: NDArray[np.bool_] = self.visible & self.region.reshape(Gh, P, Gw, P).any(
            axis=(1, 3)
        )
        return marked

    def kept_in(self, top: int, left: int, bottom: int, right: int) -> "RegionPrompt":
        """Restricts the mask to rows and columns of patches (end exclusive), plus a margin of ``BOX_MARGIN``.

        Unless the prompt itself shows part of the region outside of that.
        """
        within = np.zeros_like(self.visible)
        rows = slice(max(top - BOX_MARGIN, 0), bottom + BOX_MARGIN)
        within[rows, max(left - BOX_MARGIN, 0) : right + BOX_MARGIN] = True
        return self if (self.marked & ~within).any() else replace(self, within=within)

    def with_background(self) -> "RegionPrompt":
        """Marks the grid's four corners as outside the region unless the prompt shows them itself.

        Shown only the inside of a region, a model tends to continue it over the whole image, because so do
        the regions that fill all visible patches in pre-training. A prompt that shows nothing is unchanged.
        """
        P = self.region.shape[0] // self.visible.shape[0]
        shown = self.visible.repeat(P, axis=0).repeat(P, axis=1)
        if not shown.any():
            return self
        corners = np.zeros_like(self.visible)
        corners[np.ix_((0, -1), (0, -1))] = True
        return replace(self, visible=self.visible | corners, region=self.region & shown)


@dataclass(frozen=True)
class RegionPrediction:
    """Masks of K prompts at the image's size.

    Args:
        masks: bool (K, H, W), probability above the threshold.
        probabilities: float32 (K, H, W), resized to the image bilinearly. If the image draws the edges,
            those of its segments; otherwise visible patches as given and, for hidden ones, the sigmoid of the
            region branch's logits.
        scores: float32 (K,) in [0, 1], see `mask_confidence`. Not a learned IoU: it is only as good as
            the calibration of the probabilities, and high for many wrong masks.
        doubts: K texts, see `doubt`.
    """

    masks: NDArray[np.bool_]
    probabilities: NDArray[np.float32]
    scores: NDArray[np.float32]
    doubts: Sequence[str]


#: What draws a mask's edge.
EDGES = ("image", "model")

#: Patches that a mask may extend beyond its box.
BOX_MARGIN = 1

#: Share of an image from which a mask counts as covering nearly all of it.
NEARLY_ALL = 0.9

_LIKELY = (0.02, 0.98)  # range to which the model's probabilities are clipped as a prior
_MOST_PIECES = 10
_LOOKED_AT = 256  # pixels on a mask's long side


def doubt(mask_HW: NDArray[np.bool_], marked_GG: NDArray[np.bool_]) -> str:
    """Says why a mask is probably not the intended region, as one clause; empty if nothing suggests so.

    Reasons: it covers nearly all of the image; most of it lies in pieces without a patch marked as part of
    the region (Gh, Gw); or there are many such pieces, of 3 by 3 pixels or more at no more than 256 pixels a
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
        0  # those that contain a mark, and the background
    )
    sizes[0] = 0
    if 2 * sizes.sum() > mask.sum():
        return "most of it lies apart from the marks"
    if (sizes >= 9).sum() >= _MOST_PIECES:
        return f"{(sizes >= 9).sum()} pieces of it lie apart from the marks"
    return ""


class RegionPromptPredictor:
    """Segments what a few patches indicate, with a pre-trained R-MAE or RAE.

        predictor = RegionPromptPredictor.from_files("output/rmae/model_final.pth")
        predictor.set_image(read_image("photo.jpg"))
        prompt = predictor.prompt(points=[(320, 200), (40, 40)], labels=[1, 0])
        mask = predictor.predict([prompt]).masks[0]

    The pixel encoder runs once per image; a prediction runs only the region branch and, by default, lets the
    image draw the mask's edge: the region branch's probabilities are the prior of a walk over small segments
    from the indicated pixels (`rmae_d2.regions.segment_walk`). A prompt's result does
    not depend on the others (up to the last digits). A prompt without visible patches asks for nothing and
    gets probability 0 everywhere.

    Pre-training shows the region branch random patches with exact content. A few clicks differ greatly: a
    clicked patch is shown as lying entirely in the region, or entirely outside. Therefore, if the image draws
    the edge, unmarked corners are shown as outside (`RegionPrompt.with_background`), and
    if n patches are marked, the model's weight in the prior is 1/n (docs/interactive.md).

    Args:
        model: must have a region branch that receives pixel features: the length or batch variant.
        edges: what draws a mask's edge: ``image``, or ``model`` for the unchanged probabilities of the
            region branch.
        resolution: how to treat an image of a different size than the model's. ``resize``: stretch to the
            model's size, as in pre-training except for its crops. ``interpolate``: resize, keeping the aspect
            ratio, to a grid with its own number of patches, at least the model's and at most ``max_patches``;
            position embeddings are resampled to that grid. ``window``: resize as for ``interpolate``, with
            sides no shorter than the model's, and cut into windows of the model's size that overlap by half
            or more. A prompt uses the windows that hold a visible patch with foreground; if there are
            several, they are averaged, weighted towards window centres. The mask ends where these windows
            end: elsewhere the probability is 0.
        mask_ratio: fraction of pixel patches hidden from the pixel encoder, [0, 0.95], by ``seed``.
        seed: selects the hidden pixel patches.
        max_patches: maximum for the grid over the whole image, unless ``resize``; at least the model's.

    Attributes:
        embedding: the image that was set, or None; it provides image_size, grid and hidden.

    Raises:
        UserError: if the model is unsuitable, the resolution unknown, or the ratio out of range.
    """

    def __init__(
        self,
        model: RMAE,
        *,
        edges: str = "image",
        resolution: str = "resize",
        mask_ratio: float = 0.0,
        seed: int = 0,
        max_patches: int = 1024,
    ) -> None:
        _check_model(model)
        if edges not in EDGES:
            raise UserError(f"edges={edges!r}: one of {', '.join(EDGES)}")
        if resolution not in RESOLUTIONS:
            raise UserError(f"resolution={resolution!r}: one of {', '.join(RESOLUTIONS)}")
        _check_ratio(mask_ratio)
        self.model = model.eval()
        self.edges = edges
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
        """Creates a predictor from a finished run.

        Args:
            weights, config_file, overrides: see `load_run`, also for its errors.
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
        """Embeds an image, see `embed`, and keeps it for subsequent calls."""
        self.embedding = self.embed(image_HWC)

    @torch.no_grad()
    def embed(
        self,
        image_HWC: NDArray[np.uint8],
        *,
        mask_ratio: float | None = None,
        seed: int | None = None,
    ) -> ImageEmbedding:
        """Runs the pixel encoder, and finds the image's segments if they draw the edges.

        One model can serve many embeddings at the same time.

        Args:
            image_HWC: uint8 (H, W, 3) RGB, upright, any size from 1x1; anything else is a UserError.
            mask_ratio, seed: override the predictor's own.
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
        embedding = embed_views(
            self.model, image_HWC, self.resolution, ratio, seed, self.max_patches
        )
        if self.edges == "model":
            return embedding
        return replace(embedding, segments=segment_graph(image_HWC))

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
        """Converts user input to visible patches: positive ones all region, negative ones all outside.

        For the image's segments, points, scribbles and a box's centre mark exactly their pixels, and
        patches all of their pixels.

        If arguments disagree on a patch, the later in this list wins: box, scribble, patches,
        negative_patches, points (a later point over an earlier one).

        Args:
            points: (n, 2) of (x, y), pixels of the image; a point's patch becomes visible.
            labels: (n,), 1 for positive and 0 for negative points; None for all positive.
            box: (x0, y0, x1, y1) around the region, pixels: the patch at its centre becomes positive, and
                those that lie entirely outside and touch it (a ring one patch wide) negative.
            scribble: (n, 2), a line through these points: every patch that it meets becomes positive.
            patches: (n, 2) of (row, column) on the grid, positive.
            negative_patches: as ``patches``, negative.
            assume_background: see `RegionPrompt.with_background`. Has no effect if the image draws the
                edges, because the model is then always shown the background.
            keep_in_box: whether a box's mask ends ``BOX_MARGIN`` patches around it; see
                `RegionPrompt.kept_in`.
            embedding: of the image; None for the one that was set.

        Raises:
            UserError: if there is no image, something lies outside the image, or lengths differ.
        """
        image = self._image(embedding)
        size, P = image.image_size, self.patch_size
        known = _Known(image)
        limits = None
        if box is not None:
            limits = known.mark_box(np.asarray(box, np.float64))
        if scribble is not None:
            line = _sampled(_points(scribble, "scribble", size), image.grid, size)
            known.mark_points(line, np.full(len(line), INSIDE))
        if patches is not None:
            known.mark_patches(_patches(patches, "patches", image.grid), INSIDE)
        if negative_patches is not None:
            known.mark_patches(_patches(negative_patches, "negative_patches", image.grid), OUTSIDE)
        if points is not None:
            places = _points(points, "points", size)
            known.mark_points(places, _labels(labels, len(places)))
        elif labels is not None:
            raise UserError("labels are given without points")
        grid = known.patches
        prompt = RegionPrompt(
            grid >= 0, (grid == INSIDE).repeat(P, axis=0).repeat(P, axis=1), seeds=known.seeds
        )
        if limits is not None and keep_in_box:
            prompt = prompt.kept_in(*limits)
        assumed = assume_background and image.segments is None
        return prompt.with_background() if assumed else prompt

    @torch.no_grad()
    def predict(
        self,
        prompts: Sequence[RegionPrompt],
        threshold: float = 0.5,
        embedding: ImageEmbedding | None = None,
    ) -> RegionPrediction:
        """Predicts the masks of K prompts for one image; K may be 0.

        Args:
            threshold: pixels with a higher probability belong to the mask, [0, 1).
            embedding: of the image; None for the one that was set.

        Raises:
            UserError: if there is no image, or a prompt was made for another grid.
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
        if image.segments is None:
            maps = self._complete(image, prompts)
        else:
            maps = self._walk(image, image.segments, prompts)
        for k, prompt in enumerate(prompts):
            if prompt.within is not None:
                kept = resize_mask(prompt.within, tuple(maps.shape[1:]))
                maps[k] *= torch.from_numpy(kept).to(maps.device)
        probabilities = _resized(maps, image.image_size)
        masks = probabilities > threshold
        found = masks.cpu().numpy()
        return RegionPrediction(
            found,
            probabilities.cpu().numpy(),
            mask_confidence(probabilities, masks).cpu().numpy(),
            [doubt(mask, prompt.marked) for mask, prompt in zip(found, prompts, strict=True)],
        )

    def _complete(self, image: ImageEmbedding, prompts: Sequence[RegionPrompt]) -> torch.Tensor:
        """Returns the region branch's probabilities, (K, Gh*P, Gw*P)."""
        device = self.model.device
        visible = torch.from_numpy(np.stack([p.visible for p in prompts])).to(device)
        region = torch.from_numpy(np.stack([p.region for p in prompts])).to(device)
        return complete_regions(image, self.patch_size, visible, region.float())

    def _walk(
        self, image: ImageEmbedding, segments: SegmentGraph, prompts: Sequence[RegionPrompt]
    ) -> torch.Tensor:
        """Returns the segments' probabilities, (K, h, w)."""
        completed = self._complete(image, [prompt.with_background() for prompt in prompts])
        size = segments.labels.shape
        expected = _resized(completed, size).cpu().numpy().clip(*_LIKELY)
        maps = np.zeros((len(prompts), *size), np.float32)
        for k, prompt in enumerate(prompts):
            if prompt.visible.any():
                trust = 1 / prompt.visible.sum()
                prior = trust * segments.means(expected[k]) + (1 - trust) * UNINFORMED
                maps[k] = walk(segments, prior, _seeds(prompt, size))
        return torch.from_numpy(maps)

    def _image(self, embedding: ImageEmbedding | None = None) -> ImageEmbedding:
        embedding = embedding or self.embedding
        if embedding is None:
            raise UserError("no image: call set_image, or give the embedding of one")
        return embedding


def _resized(maps: torch.Tensor, size: tuple[int, ...]) -> torch.Tensor:
    """Resizes probabilities (K, h, w)."""
    resized = F.interpolate(maps[:, None], size, mode="bilinear", antialias=True)
    return resized[:, 0].clamp(0, 1)


def _seeds(prompt: RegionPrompt, size: tuple[int, ...]) -> NDArray[np.int8]:
    """Returns the pixels known to be in or outside a prompt's region, on a map of the image (h, w)."""
    if prompt.seeds is not None:
        return prompt.seeds
    shown = resize_mask(prompt.visible, size)
    return np.where(shown, resize_mask(prompt.region, size), UNKNOWN).astype(np.int8)


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
    """Returns (row, column) of the patches under points (n, 2) of (x, y), using pixel centres."""
    (Gh, Gw), (H, W) = grid, image_size
    centres = np.floor(points) + 0.5
    columns, rows = centres[:, 0] * Gw / W, centres[:, 1] * Gh / H
    return np.stack([rows, columns], axis=1).astype(np.int64)


class _Known:
    """State of all marks, later over earlier: for patches and, if there are segments, their pixels.

    Attributes:
        patches: int8 (Gh, Gw), INSIDE, OUTSIDE or UNKNOWN.
        seeds: see `RegionPrompt`; None for an image without segments.
    """

    def __init__(self, image: ImageEmbedding) -> None:
        self._size = image.image_size
        self.patches = np.full(image.grid, UNKNOWN, np.int8)
        self.seeds: Labels | None = None
        if image.segments is not None:
            self.seeds = np.full(image.segments.labels.shape, UNKNOWN, np.int8)
        self._whole = np.zeros(image.grid, bool)  # patches marked as a whole

    def mark_patches(self, rows_columns: NDArray[np.int64], value: int) -> None:
        """Marks all pixels of patches (n, 2)."""
        chosen = np.zeros(self.patches.shape, bool)
        chosen[tuple(rows_columns.T)] = True
        self._mark_whole(chosen, value)

    def mark_points(self, places: NDArray[np.float64], values: NDArray) -> None:
        """Marks the pixels under points (n, 2) of (x, y), and their patches."""
        patches = patches_of(places, self.patches.shape, self._size)
        replaced = np.zeros(self.patches.shape, bool)
        replaced[tuple(patches.T)] = True
        self._mark_whole(replaced & self._whole, UNKNOWN)
        self._whole &= ~replaced
        self.patches[tuple(patches.T)] = values
        if self.seeds is not None:
            self.seeds[tuple(patches_of(places, self.seeds.shape, self._size).T)] = values

    def mark_box(self, box: NDArray[np.float64]) -> tuple[int, int, int, int]:
        """Marks a box; returns its top, left, bottom and right in patches, end exclusive."""
        (Gh, Gw), (H, W) = self.patches.shape, self._size
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
        ring = np.zeros((Gh, Gw), bool)
        ring[max(top - 1, 0) : bottom + 1, max(left - 1, 0) : right + 1] = True
        ring[top:bottom, left:right] = False
        self._mark_whole(ring, OUTSIDE)
        self.mark_points(np.array([[(x0 + x1) / 2, (y0 + y1) / 2]]), np.array([INSIDE]))
        return top, left, bottom, right

    def _mark_whole(self, chosen: NDArray[np.bool_], value: int) -> None:
        self.patches[chosen] = value
        self._whole |= chosen
        if self.seeds is not None:
            self.seeds[resize_mask(chosen, self.seeds.shape)] = value


def _labels(labels: ArrayLike | None, count: int) -> NDArray:
    values = np.ones(count) if labels is None else np.asarray(labels)
    if values.shape != (count,):
        raise UserError(f"{count} points with labels of shape {values.shape}: one per point")
    if not np.isin(values, (0, 1)).all():
        raise UserError("labels are 1 (in the region) or 0 (outside)")
    return np.where(values, INSIDE, OUTSIDE)


def _sampled(
    line: NDArray[np.float64], grid: tuple[int, int], image_size: tuple[int, int]
) -> NDArray[np.float64]:
    """Samples points along a line, denser than pixels and than a quarter of a patch."""
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
