"""One image's regions: partition planes and overlapping masks, their geometry and their bytes.

Letters: S label planes (one a scale), M overlapping masks (8 to a byte plane), N regions present,
K chosen regions, H W pixels, L patches in raster order. Nothing here expands every region: a crop,
flip or resize touches S + ceil(M / 8) planes, and `select` makes masks of the K regions asked for.
"""

from __future__ import annotations

import zlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from .codec import Labels, decode_runs, encode_runs, seal, unseal
from .codec import RecordError as RecordError  # its public home is here
from .masks import (
    Bools,
    Bytes,
    Ints,
    count_bits,
    describe,
    num_planes,
    pack_bits,
    patch_grid,
    unpack_bits,
)

_LABEL_DTYPES = (np.dtype(np.uint8), np.dtype(np.uint16), np.dtype(np.uint32))


def narrow_labels(labels: NDArray[np.integer[Any]]) -> Labels:
    """The same labels in the smallest of uint8, uint16, uint32 that holds their maximum."""
    if labels.dtype.kind not in "iu":
        raise ValueError(f"labels must be integers, got {describe(labels)}; masks: from_masks")
    low, high = (int(labels.min()), int(labels.max())) if labels.size else (0, 0)
    for dtype in _LABEL_DTYPES:
        if low >= 0 and high <= np.iinfo(dtype).max:
            return labels.astype(dtype, copy=False)
    raise ValueError(f"labels must lie in 0..{2**32 - 1}, got {low}..{high}; renumber them")


@dataclass(frozen=True, eq=False)
class RegionTable:
    """The N distinct regions present in a record, planes in order, labels rising.

    Attributes:
        plane: int64 (N,): 0..S-1 is a label plane, S means the overlapping masks.
        label: int64 (N,): label in its plane, or index of the overlapping mask.
        area: int64 (N,): pixels, never 0.
    """

    plane: Ints
    label: Ints
    area: Ints

    def __len__(self) -> int:
        return len(self.area)


@dataclass(frozen=True, eq=False)
class RegionRecord:
    """Regions of one image (design contract 4).

    Attributes:
        labels: uint8, uint16 or uint32 (S, H, W); each label of a plane is one region.
        mask_bits: uint8 (ceil(M/8), H, W), overlapping masks as `pack_bits` lays them out.
        num_masks: M.
        ignore_label: pixels with this label belong to no region of that label plane.
        params: how the regions were made; JSON types only, travels with the bytes.

    Raises:
        ValueError: planes of another type or of unequal size.
    """

    labels: Labels
    mask_bits: Bytes
    num_masks: int = 0
    ignore_label: int | None = None
    params: Mapping[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if self.labels.ndim != 3 or self.labels.dtype not in _LABEL_DTYPES:
            raise ValueError(
                f"labels must be uint8, uint16 or uint32 (S, H, W), got {describe(self.labels)}"
            )
        if 0 in self.size:
            raise ValueError(f"a record needs at least one pixel, labels: {describe(self.labels)}")
        expected = (num_planes(self.num_masks), *self.size)
        if self.mask_bits.shape != expected or self.mask_bits.dtype != np.uint8:
            raise ValueError(
                f"{self.num_masks} masks beside labels {self.labels.shape} need mask_bits uint8 "
                f"{expected}, got {describe(self.mask_bits)}"
            )

    @classmethod
    def from_labels(
        cls,
        labels: NDArray[np.integer[Any]],
        *,
        ignore_label: int | None = None,
        params: Mapping[str, Any] | None = None,
    ) -> RegionRecord:
        """Record of non-negative integer label planes (S, H, W), or of one plane (H, W)."""
        labels = labels[None] if labels.ndim == 2 else labels
        bits = np.zeros((0, *labels.shape[1:]), np.uint8)
        return cls(narrow_labels(labels), bits, 0, ignore_label, params or {})

    @classmethod
    def from_masks(
        cls, masks_MHW: Bools, *, params: Mapping[str, Any] | None = None
    ) -> RegionRecord:
        """Record of overlapping bool masks (M, H, W)."""
        bits = pack_bits(masks_MHW)
        labels = np.zeros((0, *masks_MHW.shape[1:]), np.uint8)
        return cls(labels, bits, len(masks_MHW), None, params or {})

    def merge(self, other: RegionRecord) -> RegionRecord:
        """Both records' regions: label planes of self then other, likewise the masks.

        Parameters of `other` are laid over those of `self`.

        Raises:
            ValueError: sizes differ, or both hold label planes with different ignore labels.
        """
        if self.size != other.size:
            raise ValueError(f"cannot merge records of sizes {self.size} and {other.size}")
        ignored = {r.ignore_label for r in (self, other) if len(r.labels)} or {None}
        if len(ignored) > 1:
            raise ValueError(f"cannot merge label planes with ignore labels {ignored}")
        masks = [unpack_bits(r.mask_bits, r.num_masks) for r in (self, other)]
        return RegionRecord(
            np.concatenate([self.labels, other.labels]),
            pack_bits(np.concatenate(masks)),
            self.num_masks + other.num_masks,
            ignored.pop(),
            {**self.params, **other.params},
        )

    @property
    def size(self) -> tuple[int, int]:
        """(H, W) in pixels."""
        return self.labels.shape[1], self.labels.shape[2]

    # ------------------------------------------------------------------ geometry

    def crop(self, y: int, x: int, h: int, w: int) -> RegionRecord:
        """The h x w window whose top left pixel is (y, x); a view, no pixel is copied."""
        height, width = self.size
        if min(y, x) < 0 or min(h, w) < 1 or y + h > height or x + w > width:
            raise ValueError(
                f"crop y={y} x={x} h={h} w={w} does not fit in a {height}x{width} record"
            )
        window = (slice(None), slice(y, y + h), slice(x, x + w))
        return replace(self, labels=self.labels[window], mask_bits=self.mask_bits[window])

    def flip(self) -> RegionRecord:
        """Mirrored left to right; a view."""
        return replace(self, labels=self.labels[..., ::-1], mask_bits=self.mask_bits[..., ::-1])

    def resize(self, size: tuple[int, int]) -> RegionRecord:
        """Nearest neighbour to (H, W), the pixels `F.interpolate(mode="nearest")` takes."""
        if min(size) < 1:
            raise ValueError(f"cannot resize a record to {size}")
        rows, columns = (_nearest(old, new) for old, new in zip(self.size, size, strict=True))
        # Two `take`s are several times faster than one fancy index with both axes.
        labels = self.labels.take(rows, axis=1).take(columns, axis=2)
        bits = self.mask_bits.take(rows, axis=1).take(columns, axis=2)
        return replace(self, labels=labels, mask_bits=bits)

    def map_planes(self, fn: Callable[[Bytes], Bytes]) -> RegionRecord:
        """Apply a geometric operation that knows uint8 (H, W) planes only.

        A plane of wider labels goes through one byte at a time, so labels above 255 survive
        operations such as Detectron2's `Transform.apply_segmentation`, provided that `fn` copies
        pixels (nearest neighbour) and is the same at each call. A value that `fn` fills in, as a
        padding does, stands in every byte: fill 0 joins label 0 and no mask, fill 255 joins the
        largest label of the dtype and every mask.

        Args:
            fn: uint8 (H, W) to uint8 (H', W'), the same size for every plane.
        """
        labels = [_map_label_plane(plane, fn) for plane in self.labels]
        bits = [_map_label_plane(plane, fn) for plane in self.mask_bits]
        if not labels and not bits:
            bits = [_map_label_plane(np.zeros(self.size, np.uint8), fn)]
        shapes = {plane.shape for plane in (*labels, *bits)}
        if len(shapes) != 1:
            raise ValueError(f"fn returned planes of different sizes: {sorted(shapes)}")
        empty = np.zeros((0, *shapes.pop()), np.uint8)
        return replace(
            self,
            labels=np.stack(labels) if len(self.labels) else empty.astype(self.labels.dtype),
            mask_bits=np.stack(bits) if len(self.mask_bits) else empty,
        )

    # ------------------------------------------------------------------- regions

    def regions(self) -> RegionTable:
        """The regions present, counted once per record; `select` takes indices into this table.

        A crop or resize is another record with another table: what left the picture is not in it.
        """
        return self._table

    @cached_property
    def _table(self) -> RegionTable:
        found = [_count_labels(plane, self.ignore_label) for plane in self.labels]
        areas = count_bits(self.mask_bits)[: self.num_masks]
        found.append((np.flatnonzero(areas), areas[areas > 0]))
        planes = np.repeat(np.arange(len(found)), [len(area) for _, area in found])
        label, area = (
            np.concatenate(column).astype(np.int64) for column in zip(*found, strict=True)
        )
        return RegionTable(planes.astype(np.int64), label, area)

    def select(self, indices: ArrayLike) -> Bools:
        """Masks, bool (K, H, W), of K regions given by their indices into `regions()`.

        Indices may repeat. No index gives (0, H, W).

        Raises:
            IndexError: an index outside the table.
        """
        chosen = self._chosen(indices)
        masks = np.empty((len(chosen), *self.size), np.bool_)
        # Python integers: a numpy int64 would widen every pixel before comparing.
        chosen_ids = zip(chosen.plane.tolist(), chosen.label.tolist(), strict=True)
        for mask, (plane, label) in zip(masks, chosen_ids, strict=True):
            if plane < len(self.labels):
                np.equal(self.labels[plane], label, out=mask)
            else:
                np.not_equal(self.mask_bits[label // 8] & (1 << label % 8), 0, out=mask)
        return masks

    def coverage(self, indices: ArrayLike, patch: int) -> Bools:
        """Bool (K, L): whether region k has a pixel in patch l.

        Equals `patch_coverage(select(indices), patch)` without making the masks.

        Args:
            indices: (K,) indices into `regions()`.
            patch: side of a patch in pixels; must divide height and width.
        """
        grid_h, grid_w = patch_grid(self.size, patch)
        chosen = self._chosen(indices)
        covered = np.zeros((len(chosen), grid_h * grid_w), np.bool_)
        for plane in np.unique(chosen.plane):
            rows = np.flatnonzero(chosen.plane == plane)
            wanted = chosen.label[rows]
            if plane < len(self.labels):
                covered[rows] = _label_coverage(self.labels[plane], wanted, patch)
            else:
                tiles = self.mask_bits.reshape(-1, grid_h, patch, grid_w, patch)
                rows_joined = np.bitwise_or.reduce(tiles, axis=2)
                bits = np.bitwise_or.reduce(rows_joined, axis=3).reshape(-1, grid_h * grid_w)
                covered[rows] = bits[wanted // 8] >> (wanted % 8)[:, None] & 1
        return covered

    def touched_patches(self, indices: ArrayLike, patch: int) -> Ints:
        """Number of patches that each region touches, int64 (K,), as `filter_small_patches`."""
        return np.count_nonzero(self.coverage(indices, patch), axis=1)

    def _chosen(self, indices: ArrayLike) -> RegionTable:
        index = np.asarray(indices, dtype=np.int64).reshape(-1)
        table = self.regions()
        if index.size and (index.min() < 0 or index.max() >= len(table)):
            raise IndexError(
                f"region index {index.min()}..{index.max()}: the record has {len(table)} regions"
            )
        return RegionTable(table.plane[index], table.label[index], table.area[index])

    # --------------------------------------------------------------------- bytes

    def to_bytes(self) -> bytes:
        """The record as bytes (layout: `codec.py`), a pure function of the record.

        Raises:
            ValueError: `params` holds something JSON cannot.
        """
        label_runs, label_count = encode_runs(self.labels)
        mask_runs, mask_count = encode_runs(self.mask_bits)
        header = {
            "shape": self.labels.shape,
            "dtype": self.labels.dtype.name,
            "num_masks": self.num_masks,
            "ignore_label": self.ignore_label,
            "runs": [label_count, mask_count],
            "params": self.params,
        }
        try:
            return seal(header, label_runs + mask_runs)
        except TypeError as error:
            raise ValueError(f"record params must be JSON types, got {self.params}") from error

    @classmethod
    def from_bytes(cls, data: bytes) -> RegionRecord:
        """Undo `to_bytes`.

        Raises:
            RecordError: cut short, damaged, of another format version, or no record at all.
        """
        try:
            header, stream = unseal(data)
            shape, num_masks = tuple(header["shape"]), header["num_masks"]
            mask_shape = (num_planes(num_masks), *shape[1:])
            dtype = np.dtype(header["dtype"])
            split = header["runs"][0] * (2 + dtype.itemsize)
            labels = decode_runs(stream[:split], shape, dtype)
            bits = decode_runs(stream[split:], mask_shape, np.dtype(np.uint8))
            return cls(labels, bits, num_masks, header["ignore_label"], header["params"])
        except RecordError:
            raise
        except (ValueError, KeyError, IndexError, TypeError, zlib.error) as error:
            raise RecordError(f"region record with contents that disagree: {error}") from error


def _nearest(old: int, new: int) -> NDArray[np.intp]:
    # torch computes the scale and the product in float32; float64 picks other pixels now and then.
    scale = np.float32(old) / np.float32(new)
    index = np.floor(np.arange(new, dtype=np.float32) * scale).astype(np.intp)
    return np.minimum(index, old - 1)


def _map_label_plane(plane: Labels, fn: Callable[[Bytes], Bytes]) -> Labels:
    parts = []
    for shift in range(0, 8 * plane.dtype.itemsize, 8):
        byte = fn(np.ascontiguousarray((plane >> shift).astype(np.uint8)))
        if byte.ndim != 2 or byte.dtype != np.uint8:
            raise ValueError(f"fn must return a uint8 (H, W) plane, got {describe(byte)}")
        parts.append(byte.astype(plane.dtype) << shift)
    joined: Labels = np.bitwise_or.reduce(parts)
    return joined


def _count_labels(plane: Labels, ignore_label: int | None) -> tuple[NDArray[Any], NDArray[Any]]:
    if plane.dtype.itemsize > 2:  # a histogram over 32-bit labels could need gigabytes
        values, area = np.unique(plane, return_counts=True)
        label = values.astype(np.int64)
    else:
        histogram = np.bincount(plane.ravel())
        label = np.flatnonzero(histogram)
        area = histogram[label]
    kept = label != ignore_label if ignore_label is not None else slice(None)
    return label[kept], area[kept]


def _label_coverage(plane: Labels, wanted: Ints, patch: int) -> Bools:
    """Bool (K, L) for one label plane; looks only where a run or a patch begins."""
    grid_w = plane.shape[1] // patch
    starts = np.ones(plane.shape, np.bool_)
    np.not_equal(plane[:, 1:], plane[:, :-1], out=starts[:, 1:])
    starts[:, ::patch] = True
    y, x = np.nonzero(starts)
    labels, row_of_wanted = np.unique(wanted, return_inverse=True)
    values = plane[y, x].astype(np.int64)
    row = np.searchsorted(labels, values).clip(max=len(labels) - 1)
    hit = labels[row] == values
    covered = np.zeros((len(labels), plane.size // patch**2), np.bool_)
    covered[row[hit], (y[hit] // patch) * grid_w + x[hit] // patch] = True
    return covered[row_of_wanted]
