"""Import of the reference code's `.npy` label planes."""

import logging
import pickle

import numpy as np
import pytest

from rmae_d2.errors import UserError
from rmae_d2.regions.sources.npy import NpySource

IMAGE = np.zeros((12, 20, 3), np.uint8)
PLANES = np.random.default_rng(0).integers(0, 200, (3, 12, 20), dtype=np.uint8)
SAMPLE = {"file_name": "/photos/train/a.jpg", "image_id": "a.jpg"}


def read(folder, array, sample=SAMPLE, name="a.npy"):
    np.save(folder / name, array)
    return NpySource(folder)(sample, IMAGE)


def test_planes_of_a_file(tmp_path):
    np.save(tmp_path / "a.npy", PLANES)
    source = pickle.loads(pickle.dumps(NpySource(tmp_path)))
    record = source(SAMPLE, IMAGE)
    np.testing.assert_array_equal(record.labels, PLANES)
    assert record.ignore_label is None and record.num_masks == 0
    assert record.params == source.params == {"source": "npy"}
    assert record.labels.dtype == np.uint8 and not record.labels.flags.owndata  # mapped


@pytest.mark.parametrize("dtype", [np.int8, np.int64, np.uint16, np.uint32, ">i4"])
def test_other_integers_and_one_plane(tmp_path, dtype):
    plane = (PLANES[0] // 2).astype(dtype)
    np.testing.assert_array_equal(read(tmp_path, plane).labels, plane[None])


def test_wrapped_labels_are_reported_once(tmp_path, caplog):
    planes = np.arange(300).astype(np.uint8)[:240].reshape(1, 12, 20)
    with caplog.at_level(logging.WARNING, "rmae_d2.regions"):
        read(tmp_path, planes)
        assert not caplog.records
        planes.flat[:3] = 255
        np.save(tmp_path / "a.npy", planes)
        source = NpySource(tmp_path)
        source(SAMPLE, IMAGE)
        source(SAMPLE, IMAGE)
    assert len(caplog.records) == 1
    assert "a.npy" in caplog.text and "FelzenszwalbSource" in caplog.text


@pytest.mark.parametrize(
    ("array", "message"),
    [
        (PLANES.astype(np.float32), "float32"),
        (PLANES > 3, "bool"),
        (PLANES[None], r"\(1, 3, 12, 20\)"),
        (PLANES[:0], r"\(0, 12, 20\)"),
        (PLANES.astype(np.int16) - 5, "labels must lie in"),
        (PLANES[:, 1:], r"\(11, 20\).*\(12, 20\)"),
        (PLANES.swapaxes(1, 2), "EXIF"),
        (np.array([{"a": 1}], object), "not a complete .npy"),
    ],
)
def test_other_contents_are_refused(tmp_path, array, message):
    with pytest.raises(ValueError, match=rf"(?s)a\.npy.*{message}"):
        read(tmp_path, array)


@pytest.mark.parametrize("keep", [0, 5, 60, -1])
def test_files_cut_short_are_refused(tmp_path, keep):
    np.save(tmp_path / "a.npy", PLANES)
    data = (tmp_path / "a.npy").read_bytes()
    (tmp_path / "a.npy").write_bytes(data[:keep])
    with pytest.raises(ValueError, match=r"a\.npy is not a complete"):
        NpySource(tmp_path)(SAMPLE, IMAGE)


def test_archives_are_refused(tmp_path):
    with open(tmp_path / "a.npy", "wb") as file:
        np.savez(file, PLANES)
    with pytest.raises(ValueError, match=r"a\.npy is an \.npz"):
        NpySource(tmp_path)(SAMPLE, IMAGE)


def test_what_is_missing_is_named(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"photos/train/a\.jpg.*a\.npy.*Name the folder"):
        NpySource(tmp_path)(SAMPLE, IMAGE)
    with pytest.raises(UserError, match="no folder .*absent"):
        NpySource(tmp_path / "absent")
