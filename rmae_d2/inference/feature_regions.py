"""Regions that a model finds: clusters of its own patch features, with edges taken from the image.

An encoder that has learned something gives the patches of one object similar features. Normalised cuts
(Shi and Malik 2000; of a self-supervised ViT's features: TokenCut, Wang et al. 2022) divide the patches into
few clusters, a guided filter (He et al. 2010, 2015) refines these to pixels, and their connected parts are
the regions. R-MAE can be trained on regions found by an earlier R-MAE.

Letters: K clusters, L patches, D width of the features, Gh Gw grid of patches, H W pixels.
"""

import math
import warnings
from collections.abc import Mapping, Sequence
from os import PathLike
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from scipy.cluster.vq import kmeans2
from scipy.linalg import eigh
from scipy.ndimage import distance_transform_edt
from skimage.measure import label
from torch import Tensor

from ..checkpoint.weight_file import checksum
from ..errors import UserError
from ..modeling.block_features import block_numbers, encoder_of
from ..regions import EncodedRecord, RegionRecord
from ..regions.record.masks import describe
from ..regions.sources.felzenszwalb import CachedSource
from .features import as_batch, features
from .pretrained import load

#: Pixels per patch at which the guided filter works; its result is enlarged.
_FINE = 4
#: Of the guided filter, for colours from 0 to 1; edges below its root are smoothed.
_REGULARIZATION = 1e-3
#: The cosine distance at which the affinity of two patches has fallen to 1/e, and the distance in the grid at
#: which it has fallen to exp(-1/2), as a share of the grid's mean side.
_AFFINITY, _REACH = 0.15, 0.45
_STARTS = 4  # of k-means, of which the best is kept


class FeatureRegions(CachedSource):
    """Region source that clusters an encoder's patch features. Picklable.

    One label plane per number of clusters; the parts of a cluster that do not touch are several regions.

    Attributes:
        params: what the regions depend on, among it a checksum of the encoder's weights, wherever they lie.
    """

    def __init__(
        self,
        weights: str | PathLike[str],
        device: str | None = None,
        clusters: Sequence[int] = (6, 12, 24),
        patches: int = 768,
        layer: int = -1,
        min_area: float = 0.006,
        seed: int = 0,
        cache_dir: str | PathLike[str] | None = None,
    ) -> None:
        """Loads the weights.

        Args:
            weights: anything that `rmae_d2.load` takes: a run, a file, a name. Of a checkpoint with a moving
                average, ``FILE?key=ema`` takes the average.
            device: such as "cuda:1" or "cpu"; None takes a GPU where there is one.
            clusters: numbers of clusters, one for each label plane.
            patches: that the image is resized to, about, in its own proportions. The encoder's work grows
                with it, and the cuts' with its cube.
            layer: the block that features are taken from, from 0, or from the end with -1.
            min_area: of a region, as a share of the image; the pixels of smaller ones join the nearest.
            seed: of k-means.
            cache_dir: keeps records between epochs and runs; None computes each time.

        Raises:
            UserError: an argument out of its range, or a model without a plain ViT.
            CheckpointError: weights that are not there or do not fit.
        """
        if not clusters or min(clusters) < 2 or max(clusters) > patches:
            raise UserError(
                f"clusters={list(clusters)}: one or more numbers from 2 to patches={patches}"
            )
        if not 0 <= min_area < 1:
            raise UserError(f"min_area={min_area} must be a share of the image, from 0 to below 1")
        self.weights, self.device = str(weights), device
        self.clusters, self.patches = tuple(int(k) for k in clusters), int(patches)
        self.layer, self.min_area, self.seed = layer, min_area, seed
        self._model: Any = self._load()
        self.params: dict[str, Any] = {
            "source": "features",
            "weights": checksum(encoder_of(self._model).state_dict()),
            "clusters": list(self.clusters),
            "patches": self.patches,
            "layer": layer,
            "min_area": min_area,
            "seed": seed,
            "version": 1,
        }
        self._keep_in(cache_dir)

    def __repr__(self) -> str:
        return (
            f"{self.clusters} clusters of the features of {self.weights}, computed when an image is first "
            f"seen (slow: make a store), {self._kept}"
        )

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_model": None}

    def __call__(
        self, dataset_dict: Mapping[str, Any], image_HWC: NDArray[np.uint8]
    ) -> RegionRecord | EncodedRecord:
        """Record of the whole image, uint8 RGB (H, W, 3); `dataset_dict` plays no part.

        Raises:
            UserError: no RGB image.
        """
        if image_HWC.dtype != np.uint8 or image_HWC.ndim != 3 or image_HWC.shape[2] != 3:
            raise UserError(f"features need a uint8 RGB (H, W, 3) image, got {describe(image_HWC)}")
        return super().__call__(dataset_dict, image_HWC)

    def _load(self) -> Any:
        model = load(self.weights, device=self.device or "auto")
        block_numbers([self.layer], len(encoder_of(model).blocks))  # or refuses
        return model

    def _compute(self, image_HWC: NDArray[np.uint8]) -> RegionRecord:
        if self._model is None:
            self._model = self._load()
        size = image_HWC.shape[:2]
        Gh, Gw = grid = grid_for(size, self.patches)
        side = int(encoder_of(self._model).patch_size)
        (found,) = features(
            self._model, as_batch(image_HWC, (Gh * side, Gw * side)), [self.layer], norm=True
        )
        vectors = spectral_vectors(found.patches[0], max(self.clusters))
        planes = []
        for k in self.clusters:
            ids = cluster(vectors, k, self.seed).reshape(grid)
            fine = refine(ids, image_HWC, found.patches.device)
            planes.append(connected_parts(fine, self.min_area * size[0] * size[1]))
        return RegionRecord.from_labels(np.stack(planes), params=self.params)


def grid_for(size: Sequence[int], patches: int) -> tuple[int, int]:
    """The grid of at most about so many patches in the proportions of (H, W); at least 1 x 1."""
    height, width = size
    rows = max(1, round(math.sqrt(patches * height / width)))
    rows = min(rows, patches)
    return rows, max(1, min(round(rows * width / height), patches // rows))


def spectral_vectors(features_DHW: Tensor, number: int) -> NDArray[np.float64]:
    """The leading eigenvectors of the normalised affinity of an image's patches, float64 (L, number).

    Affinities fall with the cosine distance of the features, less the image's mean, and with the distance in
    the grid: one weight per pair of patches, as Shi and Malik's. Fewer vectors where there are fewer patches.
    """
    D, Gh, Gw = features_DHW.shape
    x = features_DHW.flatten(1).T.double().cpu()
    x = F.normalize(x - x.mean(dim=0), dim=1)
    affinity = ((x @ x.T - 1) / _AFFINITY).exp()
    y, x = torch.meshgrid(torch.arange(Gh), torch.arange(Gw), indexing="ij")
    places = torch.stack([y.flatten(), x.flatten()], dim=1).double()
    reach = _REACH * math.sqrt(Gh * Gw)
    affinity *= (-(torch.cdist(places, places) ** 2) / (2 * reach**2)).exp()
    root = affinity.sum(dim=1).rsqrt()
    matrix = (root[:, None] * affinity * root).numpy()
    last = len(matrix) - 1
    _, vectors = eigh(matrix, subset_by_index=[max(0, last + 1 - number), last])
    found: NDArray[np.float64] = vectors[:, ::-1]
    return found


def cluster(vectors: NDArray[np.float64], k: int, seed: int) -> NDArray[np.int64]:
    """The cluster, from 0, of each patch by its first `k` spectral vectors: k-means on the unit sphere."""
    points = vectors[:, :k]
    points = points / np.linalg.norm(points, axis=1, keepdims=True).clip(1e-12)
    rng = np.random.default_rng(seed)
    best = (math.inf, np.zeros(len(points), np.int64))
    for _ in range(_STARTS):
        with warnings.catch_warnings():  # another start has none that is empty
            warnings.filterwarnings("ignore", "One of the clusters is empty")
            centres, ids = kmeans2(points, min(k, len(points)), iter=30, minit="++", rng=rng)
        error = float(((points - centres[ids]) ** 2).sum())
        best = min(best, (error, ids.astype(np.int64)), key=lambda found: found[0])
    return best[1]


def refine(
    ids: NDArray[np.int64], image_HWC: NDArray[np.uint8], device: torch.device | str = "cpu"
) -> NDArray[np.int64]:
    """Clusters of patches (Gh, Gw) as clusters of pixels (H, W), whose borders follow the image's.

    Each cluster's map is smoothed by a fast guided filter over one patch, with the colours as its guide; a
    pixel belongs to the cluster whose map is highest there.
    """
    H, W = image_HWC.shape[:2]
    image = torch.tensor(image_HWC, device=device)
    image = image.permute(2, 0, 1)[None].float() / 255
    small = (min(H, ids.shape[0] * _FINE), min(W, ids.shape[1] * _FINE))
    guide = _GuidedFilter(F.interpolate(image, small, mode="area"))
    best = torch.full((H, W), -math.inf, device=device)
    chosen = torch.zeros((H, W), dtype=torch.int64, device=device)
    for k in np.unique(ids):  # one at a time: all maps of a large photo would take gigabytes
        patches = torch.from_numpy((ids == k)[None, None]).to(device).float()
        value = guide(F.interpolate(patches, small, mode="bilinear"), image)
        higher = value > best
        best = torch.where(higher, value, best)
        chosen[higher] = int(k)
    return chosen.cpu().numpy()


class _GuidedFilter:
    """He and Sun's fast guided filter: linear in the colours of a window, fitted at a small size."""

    def __init__(self, guide_1CHW: Tensor) -> None:
        self.guide = guide_1CHW
        self.mean = _box(guide_1CHW)
        C = guide_1CHW.shape[1]
        products = _box((guide_1CHW[:, :, None] * guide_1CHW[:, None]).flatten(1, 2))
        covariance = products.unflatten(1, (C, C)) - self.mean[:, :, None] * self.mean[:, None]
        ridge = _REGULARIZATION * torch.eye(C, device=guide_1CHW.device)
        self.inverse = torch.linalg.inv(covariance[0].permute(2, 3, 0, 1) + ridge)

    def __call__(self, values_11HW: Tensor, large_1CHW: Tensor) -> Tensor:
        """Filters values at the guide's size; what they are at the large image's pixels, (H, W)."""
        mean = _box(values_11HW)
        covariance = _box(self.guide * values_11HW) - self.mean * mean
        slope = torch.einsum("hwij,jhw->ihw", self.inverse, covariance[0])[None]
        offset = mean - (slope * self.mean).sum(dim=1, keepdim=True)
        size = (large_1CHW.shape[2], large_1CHW.shape[3])
        line = F.interpolate(_box(torch.cat([slope, offset], dim=1)), size, mode="bilinear")
        return (line[0, :-1] * large_1CHW[0]).sum(dim=0) + line[0, -1]


def _box(values_BCHW: Tensor) -> Tensor:
    """Means over square windows of 2 x _FINE + 1 pixels, of what is in the image."""
    rows, columns = (_means(n, values_BCHW) for n in values_BCHW.shape[2:])
    return rows @ values_BCHW @ columns.T


def _means(n: int, like: Tensor) -> Tensor:
    """The matrix (n, n) that takes n values to their means over windows; here faster than pooling."""
    i = torch.arange(n, device=like.device)
    window = ((i[:, None] - i).abs() <= _FINE).to(like.dtype)
    return window / window.sum(dim=1, keepdim=True)


def connected_parts(ids: NDArray[np.int64], min_area: float) -> NDArray[np.int64]:
    """Numbers the connected parts of clusters (H, W) from 0, leaving none below an area.

    Pixels of smaller parts join the nearest of the others; where all are smaller, the largest stays.

    Args:
        min_area: in pixels.
    """
    parts = label(ids, background=-1, connectivity=1) - 1
    areas = np.bincount(parts.ravel())
    large = (areas >= min(min_area, areas.max()))[parts]
    if not large.all():
        nearest = distance_transform_edt(~large, return_distances=False, return_indices=True)
        parts = parts[tuple(nearest)]
    _, numbers = np.unique(parts, return_inverse=True)
    found: NDArray[np.int64] = numbers.reshape(ids.shape)
    return found
