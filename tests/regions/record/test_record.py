"""Region records: bytes, geometry and selection against plain expanded masks."""

import copy
import pickle
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from rmae_d2.errors import StoreError
from rmae_d2.regions import EncodedRecord, RegionRecord, pack_bits, patch_coverage, unpack_bits
from rmae_d2.regions.record.record import narrow_labels

ROOT = Path(__file__).resolve().parents[3]
QUICK = settings(max_examples=60, deadline=None)
TOPS = (0, 3, 255, 256, 65535, 65536, 2**32 - 1)


@st.composite
def records(draw, multiple_of=1, max_side=12):
    height, width = (multiple_of * draw(st.integers(1, max_side)) for _ in "hw")
    planes, masks = draw(st.integers(0, 3)), draw(st.integers(0, 18))
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    values = rng.integers(0, draw(st.sampled_from(TOPS)) + 1, 5)
    labels = narrow_labels(values[rng.integers(0, 5, (planes, height, width))])
    bits = pack_bits(rng.random((masks, height, width)) < draw(st.sampled_from((0.02, 0.5))))
    ignore = draw(st.sampled_from((None, int(values[0]))))
    return RegionRecord(labels, bits, masks, ignore, {"seed": 1, "scales": [1, 2.5]})


def expand(record):
    """Every region of a record the plain way, {(plane, label): bool (H, W)}."""
    regions = {}
    for plane, labels in enumerate(record.labels):
        for label in np.unique(labels):
            if record.ignore_label is None or label != record.ignore_label:
                regions[plane, int(label)] = labels == label
    masks = unpack_bits(record.mask_bits, record.num_masks)
    regions |= {(len(record.labels), m): mask for m, mask in enumerate(masks) if mask.any()}
    return regions


def selected(record):
    table = record.regions()
    keys = zip(table.plane.tolist(), table.label.tolist(), strict=True)
    return dict(zip(keys, record.select(np.arange(len(table))), strict=True))


def assert_regions(actual, expected):
    assert list(actual) == list(expected)
    for key, mask in expected.items():
        np.testing.assert_array_equal(actual[key], mask)


def present(regions):
    return {key: mask for key, mask in regions.items() if mask.any()}


def assert_same(a, b):
    assert a.labels.dtype == b.labels.dtype
    np.testing.assert_array_equal(a.labels, b.labels)
    np.testing.assert_array_equal(a.mask_bits, b.mask_bits)
    assert (a.num_masks, a.ignore_label, a.params) == (b.num_masks, b.ignore_label, b.params)


@QUICK
@given(records())
def test_bytes_round_trip(record):
    data = record.to_bytes()
    assert_same(RegionRecord.from_bytes(data), record)
    assert RegionRecord.from_bytes(data).to_bytes() == data


def test_bytes_keep_runs_longer_than_sixteen_bits():
    labels = np.zeros((2, 300, 700), np.int64)
    labels[1, 100:] = 70_000
    record = RegionRecord.from_labels(labels)
    assert_same(RegionRecord.from_bytes(record.to_bytes()), record)
    exact = RegionRecord.from_labels(np.repeat([0, 1], 0xFFFF)[None])
    assert_same(RegionRecord.from_bytes(exact.to_bytes()), exact)


@QUICK
@given(records())
def test_select_and_areas_equal_naive(record):
    expected = expand(record)
    assert_regions(selected(record), expected)
    areas = record.regions().area
    assert areas.tolist() == [mask.sum() for mask in expected.values()]


def test_select_repeats_and_rejects_indices():
    record = RegionRecord.from_labels(np.array([[4, 4], [9, 4]]))
    masks = record.select([1, 0, 1])
    assert masks.tolist() == [
        [[False, False], [True, False]],
        [[True, True], [False, True]],
        [[False, False], [True, False]],
    ]
    assert record.select([]).shape == (0, 2, 2)
    for wrong in (2, -1):
        with pytest.raises(IndexError, match="2 regions"):
            record.select([wrong])


@QUICK
@given(records(), st.data())
def test_crop_flip_resize_commute_with_expanding(record, data):
    height, width = record.size
    y, x = data.draw(st.integers(0, height - 1)), data.draw(st.integers(0, width - 1))
    h, w = data.draw(st.integers(1, height - y)), data.draw(st.integers(1, width - x))
    out = (data.draw(st.integers(1, 30)), data.draw(st.integers(1, 30)))

    def by_torch(mask):
        part = mask[y : y + h, x : x + w][:, ::-1].copy()
        tensor = torch.from_numpy(part)[None, None].float()
        return torch.nn.functional.interpolate(tensor, size=out, mode="nearest")[0, 0].bool()

    expected = {key: by_torch(mask).numpy() for key, mask in expand(record).items()}
    actual = record.crop(y, x, h, w).flip().resize(out)
    assert actual.size == out
    assert_regions(selected(actual), present(expected))


def test_resize_takes_the_pixels_torch_takes():
    for old in (1, 2, 3, 7, 100, 223, 224, 375, 481, 640, 1333):
        ramp = torch.arange(old, dtype=torch.float32).reshape(1, 1, 1, old)
        record = RegionRecord.from_labels(np.arange(old)[None])
        for new in (*range(1, 40), 112, 128, 196, 223, 224, 225, 448, 1024):
            expected = torch.nn.functional.interpolate(ramp, size=(1, new), mode="nearest")
            np.testing.assert_array_equal(
                record.resize((1, new)).labels[0, 0], expected[0, 0, 0].numpy(), f"{old}->{new}"
            )


@st.composite
def axes(draw, size):
    """Rows and columns as a crop, resize and flip take them, or in any order."""
    taken = []
    for length in size:
        index = draw(st.lists(st.integers(0, length - 1), min_size=1, max_size=30))
        order = draw(st.sampled_from((sorted, lambda i: sorted(i, reverse=True), list)))
        taken.append(np.array(order(index), draw(st.sampled_from((np.int64, np.int32, np.uint8)))))
    return taken


def assert_counted_as_recounted(record):
    recounted = RegionRecord(
        record.labels, record.mask_bits, record.num_masks, record.ignore_label
    ).regions()
    for name in ("plane", "label", "area"):
        actual, expected = getattr(record.regions(), name), getattr(recounted, name)
        assert actual.dtype == expected.dtype == np.int64
        np.testing.assert_array_equal(actual, expected)


@settings(max_examples=150)
@given(records(), st.data())
def test_take_gathers_pixels_of_records_and_of_bytes(record, data):
    rows, columns = data.draw(axes(record.size))
    taken = record.take(rows, columns)
    np.testing.assert_array_equal(taken.labels, record.labels[:, rows[:, None], columns])
    np.testing.assert_array_equal(taken.mask_bits, record.mask_bits[:, rows[:, None], columns])
    encoded = EncodedRecord(record.to_bytes())
    assert_same(encoded.take(rows, columns), taken)
    assert_counted_as_recounted(encoded.take(rows, columns))


def test_take_rejects_indices():
    record = RegionRecord.from_labels(np.zeros((4, 6), np.int64))
    for either in (record, EncodedRecord(record.to_bytes())):
        for rows, columns in (
            ([4], [0]),
            ([-1], [0]),
            ([0], [6]),
            ([], [0]),
            ([0], []),
            ([[0]], [0]),
            ([0.0], [0]),
            ([True], [0]),
            ([2**64 - 1], [0]),
        ):
            with pytest.raises(IndexError, match="row"):
                either.take(rows, columns)


@QUICK
@given(records())
def test_encoded_records_say_what_records_say(record):
    encoded = EncodedRecord(record.to_bytes())
    assert (encoded.size, encoded.params) == (record.size, record.params)
    assert_same(encoded.decode(), record)
    assert_same(encoded.map_planes(np.flipud), record.map_planes(np.flipud))
    for other in (pickle.loads(pickle.dumps(encoded)), copy.deepcopy(encoded)):
        assert other.data == encoded.data
        assert_same(other.decode(), record)


@QUICK
@given(records(), st.data())
def test_select_bits_equals_packing_the_masks(record, data):
    count = len(record.regions())
    indices = data.draw(st.lists(st.integers(0, count - 1), max_size=20)) if count else []
    bits = record.select_bits(indices)
    assert bits.dtype == np.uint8
    np.testing.assert_array_equal(bits, pack_bits(record.select(indices)))


@QUICK
@given(records())
def test_map_planes_equals_the_direct_operation(record):
    def turn(plane):
        assert plane.dtype == np.uint8
        return np.rot90(plane)[::2]

    mapped = record.map_planes(turn)
    np.testing.assert_array_equal(mapped.labels, np.rot90(record.labels, axes=(1, 2))[:, ::2])
    assert mapped.labels.dtype == record.labels.dtype
    expected = {key: turn(mask.view(np.uint8)).view(bool) for key, mask in expand(record).items()}
    assert_regions(selected(mapped), present(expected))


def test_map_planes_carries_labels_through_detectron2_transforms():
    transforms = pytest.importorskip("detectron2.data.transforms", reason="needs Detectron2")
    record = RegionRecord.from_labels(np.arange(20 * 30).reshape(20, 30))
    resize = transforms.ResizeTransform(20, 30, 40, 60)
    mapped = record.map_planes(resize.apply_segmentation)
    np.testing.assert_array_equal(mapped.labels[0], record.labels[0].repeat(2, 0).repeat(2, 1))
    flipped = record.map_planes(transforms.HFlipTransform(30).apply_segmentation)
    assert_same(flipped, record.flip())


def test_map_planes_rejects_other_output():
    record = RegionRecord.from_labels(np.zeros((4, 4), np.int64))
    with pytest.raises(ValueError, match="uint8"):
        record.map_planes(lambda plane: plane.astype(np.float32))
    heights = iter((2, 3))
    two = RegionRecord.from_labels(np.zeros((2, 4, 4), np.int64))
    with pytest.raises(ValueError, match="different sizes"):
        two.map_planes(lambda plane: plane[: next(heights)])


@QUICK
@given(records(multiple_of=4, max_side=5))
def test_coverage_equals_patch_coverage_of_the_masks(record):
    every = np.arange(len(record.regions()))
    chosen = np.concatenate([every[::-1], every[:2]])
    expected = patch_coverage(record.select(chosen), 4)
    np.testing.assert_array_equal(record.coverage(chosen, 4), expected)


def test_labels_take_the_smallest_type():
    for top, dtype in ((255, "uint8"), (256, "uint16"), (65535, "uint16"), (65536, "uint32")):
        assert RegionRecord.from_labels(np.array([[0, top]])).labels.dtype == dtype
    with pytest.raises(ValueError, match=r"-1\.\.0"):
        RegionRecord.from_labels(np.array([[0, -1]]))
    with pytest.raises(ValueError, match="must be integers"):
        RegionRecord.from_labels(np.zeros((2, 2)))


def test_record_rejects_planes_that_disagree():
    labels, bits = np.zeros((1, 4, 4), np.uint8), np.zeros((1, 4, 4), np.uint8)
    for wrong in (
        (labels[0], bits, 8),
        (labels.astype(np.int64), bits, 8),
        (labels, bits[:, :3], 8),
        (labels, bits, 9),
        (labels, bits.astype(np.uint16), 8),
        (labels[:, :0], bits[:, :0], 8),
    ):
        with pytest.raises(ValueError):
            RegionRecord(*wrong)
    record = RegionRecord(labels, bits, 8)
    for window in ((0, 0, 5, 4), (-1, 0, 2, 2), (3, 3, 2, 1), (0, 0, 0, 4)):
        with pytest.raises(ValueError, match="does not fit in a 4x4"):
            record.crop(*window)
    with pytest.raises(ValueError, match="resize"):
        record.resize((0, 4))


def test_bytes_cut_anywhere_or_damaged_are_refused():
    labels = np.random.default_rng(0).integers(0, 400, (2, 5, 6))
    data = RegionRecord.from_labels(labels, params={"scales": [1]}).to_bytes()
    for length in range(len(data)):
        with pytest.raises(StoreError, match="cut short"):
            RegionRecord.from_bytes(data[:length])
    for position in range(len(data)):
        damaged = bytearray(data)
        damaged[position] ^= 0x10
        with pytest.raises(StoreError):
            RegionRecord.from_bytes(bytes(damaged))
    with pytest.raises(StoreError, match="foreign bytes"):
        RegionRecord.from_bytes(data + b"x")
    with pytest.raises(StoreError, match="not a region record"):
        RegionRecord.from_bytes(b"\x93NUMPY" + data)
    with pytest.raises(StoreError, match="format 9, this program reads 1"):
        RegionRecord.from_bytes(data[:4] + b"\x09\x00" + data[6:])


def test_package_imports_without_detectron2_and_torch():
    program = (
        "import sys; sys.modules['detectron2'] = sys.modules['torch'] = None; "
        "import rmae_d2.regions; assert 'numba' not in sys.modules; "
        "print({m.split('.')[1] for m in sys.modules if m.startswith('rmae_d2.')})"
    )
    done = subprocess.run([sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert eval(done.stdout) <= {
        *("regions", "annotations", "errors", "extras", "files", "hub_files"),
        *("listing", "members", "pixels", "packed"),
        *("remote", "disk_cache", "at_hand", "path_handlers"),
        *("moved", "compat", "registration"),
    }
