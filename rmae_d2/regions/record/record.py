"""One image's regions: partition planes and overlapping masks, their geometry and their bytes.

Letters: S label planes (one per scale), M overlapping masks (8 per byte plane), N regions present,
K chosen regions, H W pixels, L patches in raster order. Nothing here expands every region: a crop,
flip or resize touches S + ceil(M / 8) planes, and `select` only makes masks of the K requested regions.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
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


@dataclass(frozen=True, eq=False)
class RegionTable:
    """The N distinct regions present in a record, ordered by plane, then label."""

    plane: Ints  # (N,): 0..S-1 is a label plane, S means the overlapping masks
    label: Ints  # (N,): label in its plane, or index of the overlapping mask
    area: Ints  # (N,): pixels, never 0

    def __len__(self) -> int:
        return len(self.area)


@dataclass(eq=False)
class RegionRecord:
    """The regions of one image; UserError if planes have another type or size."""

    labels: Labels  # uint8, uint16 or uint32 (S, H, W); each label of a plane is one region
    mask_bits: Bytes  # uint8 (ceil(M/8), H, W), overlapping masks as `pack_bits` lays them out
    num_masks: int = 0
    ignore_label: int | None = None  # pixels with it belong to no region of their label plane
    #: How the regions were made; JSON types only, stored with the bytes.
    params: Mapping[str, Any] = field(default_factory=dict)
    _table: RegionTable | None = field(default=None, init=False, repr=False)

    def __post_init__(self) -> None:
        if self.labels.ndim != 3 or self.labels.dtype not in LABEL_DTYPES:
            raise UserError(
                f"labels must be uint8, uint16 or uint32 (S, H, W), got {describe(self.labels)}"
            )
        if 0 in self.size:
            raise UserError(f"a record needs at least one pixel, labels: {describe(self.labels)}")
        expected = (-(-self.num_masks // 8), *self.size)
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
    ) -> "RegionRecord":
        """A record of non-negative integer label planes (S, H, W), or of one plane (H, W)."""
        labels = labels[None] if labels.ndim == 2 else labels
        bits = np.zeros((0, *labels.shape[1:]), np.uint8)
        return cls(narrow_labels(labels), bits, 0, ignore_label, params or {})

    @classmethod
    def from_masks(
        cls, masks_MHW: Bools, *, params: Mapping[str, Any] | None = None
    ) -> "RegionRecord":
        """A record of overlapping bool masks (M, H, W)."""
        bits = pack_bits(masks_MHW)
        labels = np.zeros((0, *masks_MHW.shape[1:]), np.uint8)
        return cls(labels, bits, len(masks_MHW), None, params or {})

    @property
    def size(self) -> tuple[int, int]:
        """(H, W) in pixels."""
        return self.labels.shape[1], self.labels.shape[2]

    # ------------------------------------------------------------------ geometry

    def crop(self, y: int, x: int, h: int, w: int) -> "RegionRecord":
        """The h x w window whose top left pixel is (y, x); a view, without copying pixels."""
        height, width = self.size
        if min(y, x) < 0 or min(h, w) < 1 or y + h > height or x + w > width:
            raise UserError(
                f"crop y={y} x={x} h={h} w={w} does not fit in a {height}x{width} record"
            )
        window = (slice(None), slice(y, y + h), slice(x, x + w))
        return replace(self, labels=self.labels[window], mask_bits=self.mask_bits[window])

    def flip(self) -> "RegionRecord":
        """The record mirrored left to right; a view."""
        return replace(self, labels=self.labels[..., ::-1], mask_bits=self.mask_bits[..., ::-1])

    def resize(self, size: tuple[int, int]) -> "RegionRecord":
        """Resize to (H, W) by nearest neighbour, picking pixels like `F.interpolate(mode="nearest")`."""
        if min(size) < 1:
            raise UserError(f"cannot resize a record to {size}")
        pairs = zip(self.size, size, strict=True)
        return self.take(*(nearest_indices(old, new) for old, new in pairs))

    def take(self, rows: ArrayLike, columns: ArrayLike) -> "RegionRecord":
        """The pixels at some rows and columns, in any order: crop, nearest resize and flip at once.

        Pixel (i, j) of the result is pixel (rows[i], columns[j]) of this record.

        Raises:
            IndexError: there are no indices, or one is out of range.
        """
        y, x = pixel_indices(rows, self.size[0]), pixel_indices(columns, self.size[1])
        # Two `take`s are several times faster than one fancy index over both axes.
        labels = self.labels.take(y, axis=1).take(x, axis=2)
        bits = self.mask_bits.take(y, axis=1).take(x, axis=2)
        return replace(self, labels=labels, mask_bits=bits)

    def map_planes(self, fn: Callable[[Bytes], Bytes]) -> "RegionRecord":
        """Apply a geometric operation that supports only uint8 (H, W) planes.

        A plane of wider labels is processed one byte at a time, so `fn`, such as Detectron2's
        `Transform.apply_segmentation`, must copy pixels (nearest neighbour). A fill value, e.g. from
        padding, is set in every byte: 0 becomes label 0 and no mask, 255 the largest label and every mask.
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
        """The regions present, computed once per record; `select` takes indices into this table.

        A crop or resize is another record with its own table, without the regions that left the picture.
        """
        if self._table is None:
            counts = [count_labels(plane, self.ignore_label) for plane in self.labels]
            self._table = table_of([*counts, present(count_bits(self.mask_bits)[: self.num_masks])])
        return self._table

    def select(self, indices: ArrayLike) -> Bools:
        """Masks, bool (K, H, W), of K regions given by indices into `regions()`, which may repeat.

        Raises:
            IndexError: an index is outside the table.
        """
        return unpack_bits(self.select_bits(indices), np.size(indices))

    def select_bits(self, indices: ArrayLike) -> Bytes:
        """`pack_bits(select(indices))`, uint8 (ceil(K/8), H, W)."""
        chosen = self._chosen(indices)
        bits = np.zeros((-(-len(chosen) // 8), *self.size), np.uint8)
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
        """Bool (K, L): whether region k has a pixel in patch l; `patch` must divide height and width."""
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
            UserError: `params` holds values that JSON cannot represent, or the limits of `codec.py` are
                exceeded.
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
    def from_bytes(cls, data: bytes) -> "RegionRecord":
        """Undo `to_bytes`. Safe for bytes of any origin: nothing in them is executed.

        Raises:
            StoreError: the bytes are cut short, damaged, in another format version, or beyond `codec.py`'s
                limits.
        """
        return EncodedRecord(data).decode()


class EncodedRecord:
    """A record still in encoded form, from which a crop is decoded without the full planes. Picklable.

    Attributes:
        data: bytes from `RegionRecord.to_bytes`.
        size: (H, W) in pixels.
        params: how the regions were made.
    """

    def __init__(self, data: bytes) -> None:
        """Check envelope, checksum and header (StoreError); runs are checked on decoding."""
        self.data = data
        self._header, self._payload = unseal(data)
        self.size = self._header.shape[1:]
        self.params = self._header.params

    def __reduce__(self) -> tuple[type["EncodedRecord"], tuple[bytes]]:
        return EncodedRecord, (self.data,)

    def decode(self) -> RegionRecord:
        """The whole record; StoreError if the runs do not fill the planes."""
        header = self._header
        label_stream, mask_stream = inflate(header, self._payload)
        labels = decode_runs(label_stream, header.shape, header.dtype)
        bits = decode_runs(mask_stream, header.mask_shape, np.dtype(np.uint8))
        return RegionRecord(labels, bits, header.num_masks, header.ignore_label, header.params)

    def take(self, rows: ArrayLike, columns: ArrayLike) -> RegionRecord:
        """Equal to `decode().take(rows, columns)`, including errors, without decoding the full planes.

        It is fast if numba is installed, labels are below 256, rows are non-decreasing, and columns are
        non-decreasing or non-increasing, as for crop, nearest resize and flip.
        """
        header = self._header
        y, x = pixel_indices(rows, self.size[0]), pixel_indices(columns, self.size[1])
        streams = inflate(header, self._payload)
        bits, bit_counts = gather_runs(streams[1], header.mask_shape, np.dtype(np.uint8), y, x)
        labels, counts = gather_runs(streams[0], header.shape, header.dtype, y, x)
        record = RegionRecord(labels, bits, header.num_masks, header.ignore_label, header.params)
        if counts is not None and bit_counts is not None:
            areas = np.zeros(0, np.int64)
            if header.num_masks:
                areas = areas_of_histograms(bit_counts)[: header.num_masks]
            by_plane = [present(histogram, header.ignore_label) for histogram in counts]
            record._table = table_of([*by_plane, present(areas)])
        return record

    def map_planes(self, fn: Callable[[Bytes], Bytes]) -> RegionRecord:
        """`RegionRecord.map_planes` of the whole record."""
        return self.decode().map_planes(fn)


def narrow_labels(labels: NDArray[np.integer[Any]]) -> Labels:
    """The same labels in the smallest of uint8, uint16, uint32 that holds their maximum."""
    if labels.dtype.kind not in "iu":
        raise UserError(f"labels must be integers, got {describe(labels)}; masks: from_masks")
    low, high = (int(labels.min()), int(labels.max())) if labels.size else (0, 0)
    for dtype in LABEL_DTYPES:
        if low >= 0 and high <= np.iinfo(dtype).max:
            return labels.astype(dtype, copy=False)
    raise UserError(f"labels must lie in 0..{2**32 - 1}, got {low}..{high}; renumber them")


def nearest_indices(length: int, new_length: int) -> Ints:
    """For each of new_length pixels, the one of length that nearest-neighbour resizing picks.

    torch's rule: floor(i * length / new_length), with scale and product in float32; float64 occasionally
    picks other pixels.
    """
    step = np.float32(length) / np.float32(new_length)
    indices = np.floor(np.arange(new_length, dtype=np.float32) * step).astype(np.int64)
    return np.minimum(indices, length - 1)


def resize_mask(mask: NDArray[np.bool_], size: tuple[int, ...]) -> NDArray[np.bool_]:
    """Resize a mask by nearest neighbour, as pre-training resizes region maps."""
    rows, columns = (nearest_indices(old, new) for old, new in zip(mask.shape, size, strict=True))
    resized: NDArray[np.bool_] = mask[rows].take(columns, axis=1)
    return resized


def pixel_indices(indices: ArrayLike, length: int) -> Ints:
    """Row or column indices as a new int64 (n,) array; IndexError if they are invalid."""
    given = np.asarray(indices)
    if given.ndim != 1 or not given.size or given.dtype.kind not in "iu":
        raise IndexError(f"rows and columns must be non-empty 1-d integers, got {describe(given)}")
    low, high = given.min(), given.max()
    if low < 0 or high >= length:
        raise IndexError(f"row or column index {low}..{high}: there are {length}")
    return given.astype(np.int64, order="C")


def map_label_plane(plane: Labels, fn: Callable[[Bytes], Bytes]) -> Labels:
    """Apply `fn` to a label plane, one byte of the labels at a time; see `RegionRecord.map_planes`."""
    parts = []
    for shift in range(0, 8 * plane.dtype.itemsize, 8):
        byte = fn(np.ascontiguousarray((plane >> shift).astype(np.uint8)))
        if byte.ndim != 2 or byte.dtype != np.uint8:
            raise UserError(f"fn must return a uint8 (H, W) plane, got {describe(byte)}")
        parts.append(byte.astype(plane.dtype) << shift)
    joined: Labels = np.bitwise_or.reduce(parts)
    return joined


def count_labels(plane: Labels, ignore_label: int | None) -> tuple[Ints, Ints]:
    """Labels present, without the ignored one, ascending, and the pixels of each; both int64 (n,)."""
    if plane.dtype.itemsize <= 2:
        return present(np.bincount(plane.ravel()), ignore_label)
    # A histogram over 32-bit labels could need gigabytes.
    label, area = np.unique(plane, return_counts=True)
    kept = label != ignore_label
    return label[kept].astype(np.int64), area[kept]


def present(histogram: Ints, ignore_label: int | None = None) -> tuple[Ints, Ints]:
    """Like `count_labels`, from the pixels of each label."""
    label = np.flatnonzero(histogram)
    label = label[label != ignore_label]
    return label, histogram[label]


def table_of(counts: Sequence[tuple[Ints, Ints]]) -> RegionTable:
    """Build a table from labels and areas of each label plane, and of the masks."""
    plane = np.repeat(np.arange(len(counts)), [len(area) for _, area in counts])
    label, area = (np.concatenate(column) for column in zip(*counts, strict=True))
    return RegionTable(plane, label, area)


def label_coverage(plane: Labels, wanted: Ints, patch: int) -> Bools:
    """Bool (K, L) for K labels of one plane; checks only pixels where a run or a patch begins."""
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


# Masks as run counts: see `rmae_d2.annotations.segmentation.run_counts`.


def largest_first(counts: Iterable[Ints], at_most: int | None = None) -> list[Ints]:
    """The masks by decreasing area, then by position: the same for any order of the input."""

    def key(mask: Ints) -> tuple[int, bytes]:
        return -int(mask[1::2].sum()), mask.astype(">i8").tobytes()

    return sorted(counts, key=key)[:at_most]


def record_of_counts(
    counts: Sequence[Ints], size: tuple[int, int], params: Mapping[str, Any]
) -> RegionRecord:
    """A record of overlapping masks given by run counts; never holds them unpacked."""
    height, width = size
    bits = np.empty((num_planes(len(counts)), height, width), np.uint8)
    for number, plane in enumerate(bits):
        # A mask's bit flips at the ends of its runs; accumulating the flips gives eight masks at once.
        changes = np.zeros(height * width + 1, np.uint8)
        for k, mask in enumerate(counts[8 * number : 8 * number + 8]):
            np.bitwise_xor.at(changes, np.cumsum(mask), np.uint8(1 << k))
        columns = np.bitwise_xor.accumulate(changes[:-1])
        plane[:] = columns.reshape(width, height).T
    return RegionRecord(np.zeros((0, *size), np.uint8), bits, len(counts), None, params)
