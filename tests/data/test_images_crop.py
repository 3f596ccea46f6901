"""The random resized crop: torchvision's parameters, Pillow's picture, and masks that follow."""

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from detectron2.data import transforms as T
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from torchvision.transforms import RandomResizedCrop as TorchvisionCrop

from rmae_d2.data.images import CropResizeTransform, RandomResizedCrop, label_indices

sides = st.integers(1, 90)


@given(sides, sides, st.integers(0, 2**31))
@settings(max_examples=60, deadline=None)
def test_crops_are_torchvisions(height, width, seed):
    image = np.zeros((height, width, 3), np.uint8)
    torch.manual_seed(seed)
    crop = RandomResizedCrop(32).get_transform(image)
    torch.manual_seed(seed)
    expected = TorchvisionCrop.get_params(Image.fromarray(image), [0.2, 1.0], [3 / 4, 4 / 3])
    assert (crop.y0, crop.x0, crop.crop_h, crop.crop_w) == expected


def _photo(height=120, width=160):
    y, x = np.mgrid[:height, :width]
    waves = [np.sin(x / 9) + np.cos(y / 7), np.sin((x + y) / 5), np.cos(x * y / 900)]
    return ((np.stack(waves, -1) + 2) * 60).astype(np.uint8)


@pytest.mark.parametrize(
    "box",
    [(3, 5, 100, 80), (0, 0, 160, 120), (150, 100, 7, 9), (20, 0, 60, 120), (90, 10, 40, 100)],
)
@pytest.mark.parametrize("kind", ["photo", "noise", "black and white"])
def test_picture_is_pillows(box, kind):
    """Width first, then height, as Pillow up to 12 has it, and 13 where asked for one after the other."""
    noise = np.random.default_rng(0).integers(0, 256, (120, 160, 3), dtype=np.uint8)
    image = {"photo": _photo(), "noise": noise, "black and white": noise // 128 * 255}[kind]
    left, top, width, height = box
    ours = CropResizeTransform(left, top, width, height, 48, 64, 160, 120).apply_image(image)
    cropped = Image.fromarray(image[top : top + height, left : left + width])
    narrowed = cropped.resize((64, height), Image.Resampling.BICUBIC)
    difference = np.abs(ours.astype(int) - narrowed.resize((64, 48), Image.Resampling.BICUBIC))
    assert ours.dtype == np.uint8 and difference.max() <= 2 and (difference > 0).mean() < 0.03
    if int(Image.__version__.split(".")[0]) < 13:
        pillow = cropped.resize((64, 48), Image.Resampling.BICUBIC)
        assert np.abs(ours.astype(int) - pillow).max() <= 2


@pytest.mark.parametrize("channels", [None, 1, 3, 5])
@pytest.mark.parametrize("dtype", [np.uint8, np.float32, np.float64])
def test_any_channels(channels, dtype):
    shape = (20, 30) if channels is None else (20, 30, channels)
    image = np.random.default_rng(0).integers(0, 256, shape).astype(dtype)
    out = CropResizeTransform(2, 3, 20, 15, 8, 6, 30, 20).apply_image(image)
    assert out.shape == (8, 6, *shape[2:]) and out.dtype == dtype
    floats = CropResizeTransform(2, 3, 20, 15, 8, 6, 30, 20).apply_image(image.astype(np.float64))
    assert np.abs(out - floats.clip(0, 255) if dtype == np.uint8 else out - floats).max() < 2


@given(
    st.data(),
    st.sampled_from([np.bool_, np.uint8, np.uint16, np.int32, np.int64, np.float32]),
    st.sampled_from([None, 1, 5]),
)
@settings(max_examples=50, deadline=None)
def test_labels_of_any_type_are_cropped_and_resized_as_torch_does(data, dtype, channels):
    height, width = data.draw(sides), data.draw(sides)
    crop_h, crop_w = data.draw(st.integers(1, height)), data.draw(st.integers(1, width))
    y, x = data.draw(st.integers(0, height - crop_h)), data.draw(st.integers(0, width - crop_w))
    shape = (height, width) if channels is None else (height, width, channels)
    labels = np.random.default_rng(0).integers(0, 1000, shape).astype(dtype)
    out = CropResizeTransform(x, y, crop_w, crop_h, 16, 24, width, height).apply_segmentation(
        labels
    )
    planes = torch.from_numpy(labels.reshape(height, width, -1).astype(np.float32)).permute(2, 0, 1)
    expected = F.interpolate(
        planes[None, :, y : y + crop_h, x : x + crop_w], (16, 24), mode="nearest"
    )
    assert out.dtype == dtype
    np.testing.assert_array_equal(
        out.reshape(16, 24, -1), expected[0].permute(1, 2, 0).numpy().astype(dtype)
    )


@given(sides, sides, st.lists(st.sampled_from(["crop", "flip", "nothing"]), max_size=4), st.data())
@settings(max_examples=60)
def test_label_indices_are_the_pixels_that_segmentation_takes(height, width, steps, data):
    labels = np.arange(height * width).reshape(height, width)
    transforms, size = [], (height, width)
    for step in steps:
        if step == "crop":
            out = (data.draw(sides), data.draw(sides))
            transforms.append(RandomResizedCrop(out).get_transform(np.empty(size)))
            size = out
        else:
            transforms.append(T.HFlipTransform(size[1]) if step == "flip" else T.NoOpTransform())
    rows, columns = label_indices(T.TransformList(transforms), (height, width))
    assert rows.dtype == columns.dtype == np.int64
    expected = T.TransformList(transforms).apply_segmentation(labels)
    np.testing.assert_array_equal(labels[rows][:, columns], expected)


def test_label_indices_of_one_transform_and_of_unknown_ones():
    rows, columns = label_indices(T.HFlipTransform(3), (2, 3))
    assert rows.tolist() == [0, 1] and columns.tolist() == [2, 1, 0]

    class Turned(T.HFlipTransform):
        def apply_segmentation(self, segmentation):
            return segmentation[::-1]

    for unknown in (Turned(3), T.RotationTransform(2, 3, 45), T.ResizeTransform(2, 3, 4, 6)):
        assert label_indices(unknown, (2, 3)) is None
        assert label_indices(T.TransformList([T.NoOpTransform(), unknown]), (2, 3)) is None
    with pytest.raises(ValueError, match="same height and width"):
        label_indices(CropResizeTransform(0, 0, 4, 4, 2, 2, 8, 8), (8, 9))


@pytest.mark.parametrize("shape", [(1, 1), (8, 20000), (20000, 8), (5, 3)])
def test_odd_images(shape):
    image = np.random.default_rng(0).integers(0, 256, (*shape, 3), dtype=np.uint8)
    crop = RandomResizedCrop((224, 192)).get_transform(image)
    assert crop.apply_image(image).shape == (224, 192, 3)
    assert crop.apply_segmentation(image[..., 0].astype(bool)).shape == (224, 192)


def test_input_is_left_alone():
    image = _photo()
    image.flags.writeable = False
    RandomResizedCrop(32).get_transform(image).apply_image(image[:, ::-1])


def test_boxes_follow():
    crop = CropResizeTransform(10, 20, 40, 20, 40, 80, 100, 60)
    np.testing.assert_allclose(crop.apply_box(np.array([[10.0, 20, 30, 30]])), [[0, 0, 40, 20]])


def test_errors_and_repr():
    with pytest.raises(ValueError, match="same height and width"):
        CropResizeTransform(0, 0, 4, 4, 2, 2, 8, 8).apply_segmentation(np.zeros((8, 9)))
    with pytest.raises(ValueError, match="size="):
        RandomResizedCrop(0)
    with pytest.raises(ValueError, match="scale="):
        RandomResizedCrop(8, scale=(1.0, 0.2))
    assert "RandomResizedCrop" in str(T.AugmentationList([RandomResizedCrop(8)]))


@pytest.mark.parametrize(
    ("scale", "ratio"),
    [((0.2, 1.0), (3 / 4, 4 / 3)), ((0.9, 1.0), (2, 3)), ((0.01, 0.02), (0.1, 9))],
)
def test_crops_are_torchvisions_and_leave_its_generator_where_it_would(scale, ratio):
    """Those in the middle too, which images get that no crop of an allowed shape fits into."""
    crop = RandomResizedCrop(8, scale, ratio)
    sizes = np.random.default_rng(0).integers(1, 900, (200, 2)).tolist()
    for seed, (height, width) in enumerate(sizes):
        torch.manual_seed(seed)
        image = torch.empty(1).expand(1, height, width)
        expected = TorchvisionCrop.get_params(image, list(scale), list(ratio)), torch.rand(1)
        torch.manual_seed(seed)
        made = crop.get_transform(np.broadcast_to(np.uint8(0), (height, width)))
        found = (made.y0, made.x0, made.crop_h, made.crop_w), torch.rand(1)
        assert found == expected


@pytest.mark.parametrize("new", [1, 7, 96, 224, 225, 1024])
def test_labels_are_picked_as_torch_does(new):
    for old in [*range(1, 300), 333, 640, 1023, 4000, 7919]:
        every = torch.arange(old, dtype=torch.float32)[None, None]
        expected = torch.nn.functional.interpolate(every, new, mode="nearest")[0, 0].long()
        transform = CropResizeTransform(0, 0, old, 1, 1, new, old, 1)
        np.testing.assert_array_equal(transform.label_indices((1, old))[1], expected.numpy())
