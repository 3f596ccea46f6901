"""FH compiled by numba: scikit-image's partition to the last bit, its cost, its compiled code."""

import multiprocessing
import warnings
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
import skimage
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image
from scipy import ndimage
from skimage import data as photos
from skimage.segmentation import felzenszwalb as by_skimage

from rmae_d2.regions import FelzenszwalbSource

pytest.importorskip("numba", reason="pip install rmae_d2[fast]")
from rmae_d2.regions.sources import fh_numba
from rmae_d2.regions.sources.fh_numba import segment, smooth
from tests.helpers import HUNG

ALL_SCALES = (50, 100, 500, 1000, 1500, 3000)


def skimage_planes(image, scales, sigma=0.8):
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message=".*third dimension")
        return [by_skimage(image, scale=s, sigma=sigma, min_size=int(s)) for s in scales]


def stable_skimage_planes(image, scales, sigma=0.8):
    """scikit-image with edges of equal weight in their own order, not in the processor's."""
    argsort = np.argsort
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(np, "argsort", lambda costs: argsort(costs, kind="stable"))
        return skimage_planes(image, scales, sigma)


def assert_same(planes, expected):
    for plane, other in zip(planes, expected, strict=True):
        np.testing.assert_array_equal(plane, other)


def photo_files(root):
    """Photos of shared/data, and those that scikit-image carries."""
    found = [
        *sorted((root / "coco").glob("*2017/*.jpg")),
        *sorted((root / "imagenet").rglob("*.JPEG")),
        *sorted((root / "ADEChallengeData2016/images").rglob("*.jpg")),
    ]
    names = ("astronaut.png", "chelsea.png", "coffee.png", "rocket.jpg", "camera.png", "moon.png")
    return found + [Path(skimage.__file__).parent / "data" / name for name in names]


def read(file):
    image = Image.open(file)
    pixels = np.asarray(image if image.mode == "L" else image.convert("RGB"))
    return pixels[:1000, :1000].reshape(*pixels.shape[:2], -1)[:1000, :1000]


# ------------------------------------------------------------------------------- exactness


def test_some_whole_photos_have_the_partition_of_skimage(shared_data):
    for file in photo_files(shared_data)[::20]:
        image = read(file)
        assert_same(segment(image, (50, 1000), 0.8), skimage_planes(image, (50, 1000)))


@pytest.mark.slow
def test_all_photos_have_the_partition_of_skimage(shared_data):
    files = photo_files(shared_data)
    assert len(files) > 50
    for file in files:
        image = read(file)
        assert_same(segment(image, ALL_SCALES, 0.8), skimage_planes(image, ALL_SCALES))


def draw(kind, height, width, channels, seed):
    rng = np.random.default_rng(seed)
    shape = (height, width, channels)
    if kind == "noise":
        return rng.integers(0, 256, shape, dtype=np.uint8)
    if kind == "posterised":
        return (rng.integers(0, 3, shape) * 127).astype(np.uint8)
    if kind == "constant":
        return np.full(shape, rng.integers(256), np.uint8)
    if kind == "ramp":
        steps = rng.integers(0, 4, 2)
        ramp = np.add.outer(np.arange(height) * steps[0], np.arange(width) * steps[1])
        return np.repeat((ramp % 256)[..., None], channels, axis=2).astype(np.uint8)
    y, x = rng.integers(0, 200, 2)  # of a photo of 400x600
    patch = photos.coffee()[y : y + height, x : x + width]
    return np.take(patch, np.arange(channels) % 3, axis=2)


images = st.builds(
    draw,
    st.sampled_from(["noise", "posterised", "constant", "ramp", "photo"]),
    st.integers(1, 48),
    st.integers(1, 48),
    st.integers(1, 5),
    st.integers(0, 2**32),
)
scale_lists = st.lists(st.sampled_from([1, 3, 10, 40, 150, 1000]), min_size=1, max_size=4)


@given(images, scale_lists, st.sampled_from([0.0, 0.1, 0.3, 0.8, 2.6]))
def test_any_image_has_the_partition_of_skimage_with_a_stable_sort(image, scales, sigma):
    assert_same(segment(image, scales, sigma), stable_skimage_planes(image, scales, sigma))


@given(images, scale_lists)
def test_labels_are_canonical_and_segments_not_too_small(image, scales):
    for plane, scale in zip(segment(image, scales, 0.8), scales, strict=True):
        values, first, sizes = np.unique(plane, return_index=True, return_counts=True)
        assert plane.dtype == np.uint8 or values.max() > 255
        np.testing.assert_array_equal(values, np.arange(len(values)))
        assert (np.diff(first) > 0).all()
        assert len(sizes) == 1 or sizes.min() >= scale
        for value in values:
            joined, parts = ndimage.label(plane == value, structure=np.ones((3, 3)))
            assert parts == 1


@given(images, scale_lists)
def test_a_scale_does_not_depend_on_the_others_and_repeats(image, scales):
    planes = segment(image, scales, 0.8)
    assert_same(planes, [segment(image, (scale,), 0.8)[0] for scale in scales])
    assert_same(planes, segment(image, scales, 0.8))


@given(images, st.sampled_from([0.0, 0.1, 0.2, 0.8, 1.0, 7.5]))
def test_smoothing_equals_scipy_to_the_bit(image, sigma):
    expected = ndimage.gaussian_filter(image * (1 / 255), (sigma, sigma, 0))
    np.testing.assert_array_equal(smooth(image, sigma), np.moveaxis(expected, -1, 0))


def sort_edges(smooth_CHW):
    width = smooth_CHW.shape[2]
    ends = np.array([[0, 0, 0, width], [1, width, width + 1, 1]], np.uint32)
    return fh_numba._sort_edges(smooth_CHW, ends), ends


def test_weights_near_the_limit_are_judged_exactly():
    # Two pixels merge; the third joins unless its edge reaches their limit, a float32.
    rng = np.random.default_rng(0)
    for _ in range(300):
        scale = rng.uniform(0.01, 0.5)
        first = rng.uniform(0.1, 0.49) * scale
        limit = float(np.float32(first + scale / 2))
        for second, joins in ((limit, False), (np.nextafter(limit, 0), True)):
            line = np.array([[[-first, 0.0, second]]])
            edges, ends = sort_edges(line)
            parent = np.arange(3, dtype=np.uint32)
            size, heaviest = np.ones_like(parent), np.full_like(parent, fh_numba._NONE)
            forest = (parent, size, heaviest, np.full(3, scale, np.float32))
            refused = np.empty(2, np.uint32)
            _, count = fh_numba._merge(edges, forest, scale, line[0], ends, refused)
            assert count == (not joins)


@pytest.mark.parametrize("step", [1, 2, 5])
def test_long_runs_of_nearly_equal_edges(step):
    # The steps of a ramp differ in the last bits of float64 only, thousands of them.
    ramp = (np.arange(240) * step % 256).astype(np.uint8)
    image = np.add.outer(np.arange(120, dtype=np.uint8) // 7, ramp)[..., None]
    assert_same(segment(image, (2, 30, 300), 0.8), stable_skimage_planes(image, (2, 30, 300)))


@pytest.mark.parametrize("step, sigma", [(128, 0.0), (64, 0.8), (32, 2.0)])
def test_photos_of_few_colours_have_many_equal_edges(step, sigma):
    image = photos.coffee()[100:300, 150:400] // step * step
    expected = stable_skimage_planes(image, (20, 500), sigma)
    assert_same(segment(image, (20, 500), sigma), expected)
    assert min(len(np.unique(plane)) for plane in expected) > 3


def test_many_channels():
    # numpy sums eight and more channels in another order than one by one.
    image = np.concatenate([photos.coffee()[:100, :120] // n for n in (1, 2, 3)], axis=2)
    ours, theirs = segment(image, (40,), 0.8)[0], skimage_planes(image, (40,))[0]
    assert theirs.max() > 5 and abs(int(ours.max()) - int(theirs.max())) <= 1


def test_threads_do_not_disturb_each_other():
    inputs = [photos.coffee()[i : i + 90, :150] for i in (0, 60, 120, 180)]
    expected = [segment(image, (20, 200), 0.8) for image in inputs]
    with ThreadPoolExecutor(4) as pool:
        for planes, other in zip(
            pool.map(lambda image: segment(image, (20, 200), 0.8), inputs), expected, strict=True
        ):
            assert_same(planes, other)


def test_too_many_pixels_are_refused():
    image = np.broadcast_to(np.uint8(0), (2**16, 2**15, 1))
    with pytest.raises(ValueError, match="32768x65536.*max_pixels"):
        segment(image, (100,), 0.8)


# --------------------------------------------------------------------------- compiled code


def loops():
    return {name: f for name, f in vars(fh_numba).items() if hasattr(f, "signatures")}


def _signatures_of_a_new_process(source, queue):
    queue.put({name: len(loop.signatures) for name, loop in loops().items()})
    queue.put(source({}, photos.coffee()[:64, :64]).labels)


def test_workers_inherit_compiled_code():
    source = FelzenszwalbSource((10, 20))
    context = multiprocessing.get_context("fork")
    queue = context.Queue()
    worker = context.Process(target=_signatures_of_a_new_process, args=(source, queue))
    worker.start()
    signatures, labels = queue.get(timeout=HUNG), queue.get(timeout=HUNG)
    worker.join()
    assert signatures["_merge"] == signatures["_sort_parts"] == signatures["_drop_inner"] == 1
    np.testing.assert_array_equal(labels, source({}, photos.coffee()[:64, :64]).labels)
