"""One image's regions: partition planes and overlapping masks, their geometry and their bytes.

Letters: S label planes (one a scale), M overlapping masks (8 to a byte plane), N regions present,
K chosen regions, H W pixels, L patches in raster order. Nothing here expands every region: a crop,
flip or resize touches S + ceil(M / 8) planes, and `select` makes masks of the K regions asked for.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from ...errors import UserError
from .codec import (
    LABEL_DTYPES,
    Header,
    Labels,
    decode_runs,
    encode_runs,
    gather_runs,
    inflate,
    seal,
    unseal,
)
from .masks import (
    Bools,
    Bytes,
    Ints,
    areas_of_histograms,
    count_bits,
    describe,
    num_planes,
    pack_bits,
    patch_grid,
    unpack_bits,
)
from .planes import RegionTable as RegionTable
from .planes import (
    count_labels,
    label_coverage,
    map_label_plane,
    narrow_labels,
    nearest_indices,
    pixel_indices,
    table_of_counts,
    table_of_histograms,
)


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
        UserError: planes of another type or of unequal size.
    """

    labels: Labels
    mask_bits: Bytes
    num_masks: int = 0
    ignore_label: int | None = None
    params: Mapping[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if self.labels.ndim != 3 or self.labels.dtype not in LABEL_DTYPES:
            raise UserError(
                f"labels must be uint8, uint16 or uint32 (S, H, W), got {describe(self.labels)}"
            )
        if 0 in self.size:
            raise UserError(f"a record needs at least one pixel, labels: {describe(self.labels)}")
        expected = (num_planes(self.num_masks), *self.size)
        if self.mask_bits.shape != expected or self.mask_bits.dtype != np.uint8:
            raise UserError(
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
            UserError: sizes differ, or both hold label planes with different ignore labels.
        """
        if self.size != other.size:
            raise UserError(f"cannot merge records of sizes {self.size} and {other.size}")
        ignored = {r.ignore_label for r in (self, other) if len(r.labels)} or {None}
        if len(ignored) > 1:
            raise UserError(f"cannot merge label planes with ignore labels {ignored}")
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
            raise UserError(
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
            raise UserError(f"cannot resize a record to {size}")
        pairs = zip(self.size, size, strict=True)
        return self.take(*(nearest_indices(old, new) for old, new in pairs))

    def take(self, rows: ArrayLike, columns: ArrayLike) -> RegionRecord:
        """The pixels at some rows and columns: crop, nearest resize and flip at once.

        Args:
            rows: (h,) integers within 0..H-1, in any order; h > 0.
            columns: (w,) integers within 0..W-1, likewise.

        Returns:
            record of (h, w) pixels; its pixel (i, j) is pixel (rows[i], columns[j]) of this one.

        Raises:
            IndexError: no index, or one outside.
        """
        y, x = (pixel_indices(*axis) for axis in zip((rows, columns), self.size, strict=True))
        # Two `take`s are several times faster than one fancy index with both axes.
        labels = self.labels.take(y, axis=1).take(x, axis=2)
        bits = self.mask_bits.take(y, axis=1).take(x, axis=2)
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
        labels = [map_label_plane(plane, fn) for plane in self.labels]
        bits = [map_label_plane(plane, fn) for plane in self.mask_bits]
        if not labels and not bits:
            bits = [map_label_plane(np.zeros(self.size, np.uint8), fn)]
        shapes = {plane.shape for plane in (*labels, *bits)}
        if len(shapes) != 1:
            raise UserError(f"fn returned planes of different sizes: {sorted(shapes)}")
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
        found = [count_labels(plane, self.ignore_label) for plane in self.labels]
        return table_of_counts(found, count_bits(self.mask_bits)[: self.num_masks])

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

    def select_bits(self, indices: ArrayLike) -> Bytes:
        """Equals `pack_bits(select(indices))`, uint8 (ceil(K/8), H, W), without the K masks."""
        chosen = self._chosen(indices)
        bits = np.zeros((num_planes(len(chosen)), *self.size), np.uint8)
        mask = np.empty(self.size, np.uint8)
        chosen_ids = zip(chosen.plane.tolist(), chosen.label.tolist(), strict=True)
        for k, (plane, label) in enumerate(chosen_ids):
            if plane < len(self.labels):
                np.equal(self.labels[plane], label, out=mask.view(np.bool_))
            else:
                np.right_shift(self.mask_bits[label // 8], label % 8, out=mask)
                np.bitwise_and(mask, 1, out=mask)
            np.multiply(mask, np.uint8(1 << k % 8), out=mask)  # numpy's shifts are far slower
            np.bitwise_or(bits[k // 8], mask, out=bits[k // 8])
        return bits

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
                covered[rows] = label_coverage(self.labels[plane], wanted, patch)
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
            UserError: `params` holds something JSON cannot, or the record is beyond the limits of
                `codec.py`.
        """
        label_runs, label_count = encode_runs(self.labels)
        mask_runs, mask_count = encode_runs(self.mask_bits)
        header = Header(
            (len(self.labels), *self.size),
            self.labels.dtype,
            self.num_masks,
            self.ignore_label,
            (label_count, mask_count),
            self.params,
        )
        return seal(header, label_runs + mask_runs)

    @classmethod
    def from_bytes(cls, data: bytes) -> RegionRecord:
        """Undo `to_bytes`. Safe for bytes of any origin: nothing in them is run.

        Raises:
            StoreError: cut short, damaged, of another format version, beyond the limits of
                `codec.py`, or no record at all.
        """
        return EncodedRecord(data).decode()


class EncodedRecord:
    """A record still as bytes, from which a crop is decoded without the whole planes.

    Picklable, as its bytes.

    Attributes:
        data: as `RegionRecord.to_bytes` gives them.
    """

    def __init__(self, data: bytes) -> None:
        """Check envelope, checksum and header; the runs are looked at when they are decoded.

        Raises:
            StoreError: as `RegionRecord.from_bytes`.
        """
        self.data = data
        self._header, self._payload = unseal(data)

    def __reduce__(self) -> tuple[type[EncodedRecord], tuple[bytes]]:
        return EncodedRecord, (self.data,)

    @property
    def size(self) -> tuple[int, int]:
        """(H, W) in pixels."""
        return self._header.shape[1], self._header.shape[2]

    @property
    def params(self) -> Mapping[str, Any]:
        """How the regions were made."""
        return self._header.params

    def decode(self) -> RegionRecord:
        """The whole record.

        Raises:
            StoreError: the runs do not fill the planes.
        """
        header = self._header
        label_stream, mask_stream = inflate(header, self._payload)
        labels = decode_runs(label_stream, header.shape, header.dtype)
        bits = decode_runs(mask_stream, header.mask_shape, np.dtype(np.uint8))
        return RegionRecord(labels, bits, header.num_masks, header.ignore_label, header.params)

    def take(self, rows: ArrayLike, columns: ArrayLike) -> RegionRecord:
        """Equals `decode().take(rows, columns)`, without the whole planes.

        Fast where numba is installed, labels stay below 256, rows do not fall, and columns do not
        fall or do not rise: what crop, nearest resize and flip need.

        Raises:
            StoreError: the runs do not fill the planes.
            IndexError: no index, or one outside.
        """
        header = self._header
        y, x = (pixel_indices(*axis) for axis in zip((rows, columns), self.size, strict=True))
        label_stream, mask_stream = inflate(header, self._payload)
        labels, counts = gather_runs(label_stream, header.shape, header.dtype, y, x)
        bits, bit_counts = gather_runs(mask_stream, header.mask_shape, np.dtype(np.uint8), y, x)
        record = RegionRecord(labels, bits, header.num_masks, header.ignore_label, header.params)
        if counts is not None and bit_counts is not None:
            areas = areas_of_histograms(bit_counts)[: header.num_masks]
            table = table_of_histograms(counts, header.ignore_label, areas)
            record.__dict__["_table"] = table  # where cached_property would keep it
        return record

    def map_planes(self, fn: Callable[[Bytes], Bytes]) -> RegionRecord:
        """`RegionRecord.map_planes` of the whole record."""
        return self.decode().map_planes(fn)
