import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from PIL import Image

from rmae_d2.errors import AnnotationError, ImageReadError
from rmae_d2.photos.label_images import read_labels


@pytest.fixture
def save(tmp_path):
    def write(image, name="labels.png"):
        if not isinstance(image, Image.Image):
            image = Image.fromarray(np.asarray(image))
        image.save(tmp_path / name)
        return str(tmp_path / name)

    return write


@given(
    labels=hnp.arrays(np.uint8, st.tuples(st.integers(1, 9), st.integers(1, 9))),
    num_classes=st.integers(1, 255),
    zero_is_ignored=st.booleans(),
)
def test_every_label_is_a_class_or_ignored_or_an_error(
    tmp_path_factory, labels, num_classes, zero_is_ignored
):
    path = tmp_path_factory.mktemp("labels") / "x.png"
    Image.fromarray(labels).save(path)
    largest = num_classes if zero_is_ignored else num_classes - 1
    wrong = (labels > largest) & (labels != 255)
    if wrong.any():
        with pytest.raises(AnnotationError) as error:
            read_labels(str(path), num_classes, zero_is_ignored)
        row, column = np.argwhere(wrong)[0]
        place = f"{path} has the label {labels[row, column]} at row {row}, column {column}"
        assert place in str(error.value) and f"{wrong.sum()} pixels" in str(error.value)
        return
    read = read_labels(str(path), num_classes, zero_is_ignored)
    assert read.dtype == np.uint8 and read.flags.writeable
    for file, label in zip(labels.ravel().tolist(), read.ravel().tolist(), strict=True):
        without = file == 255 or (file == 0 and zero_is_ignored)
        assert label == (255 if without else file - zero_is_ignored)


def test_palette_images_give_their_values(save):
    """As PASCAL VOC's: the colours are for viewers."""
    image = Image.fromarray(np.array([[0, 1], [2, 255]], np.uint8)).convert("P")
    image.putdata([0, 1, 2, 255])
    image.putpalette([128, 0, 0] * 256)
    path = save(image)
    with Image.open(path) as again:
        assert again.mode == "P"
    assert read_labels(path, 3).tolist() == [[0, 1], [2, 255]]


def test_sixteen_bits(save):
    assert read_labels(save(np.array([[3, 255]], np.uint16)), 4).tolist() == [[3, 255]]
    with pytest.raises(AnnotationError, match="has the label 300 at row 0, column 1"):
        read_labels(save(np.array([[3, 300]], np.uint16)), 4)


@pytest.mark.parametrize("bits", [1, 2, 4, 8])
@pytest.mark.parametrize("mode", ["L", "P"])
@pytest.mark.parametrize("interlaced", [False, True])
def test_few_bits_give_the_stored_values(tmp_path, bits, mode, interlaced):
    """Gray of 2 and 4 bits too, which Pillow widens, and masks of one bit, as Pillow saves booleans."""
    values = np.arange(24).reshape(4, 6) % 2**bits
    image = Image.fromarray(values.astype(np.uint8))
    if mode == "P":
        image = image.convert("P")
        image.putdata(values.ravel().tolist())
    image.save(tmp_path / "a.png", bits=bits, interlace=interlaced)
    assert read_labels(str(tmp_path / "a.png"), 2**bits - (bits == 8)).tolist() == values.tolist()


@pytest.mark.parametrize("suffix", ["png", "tif", "bmp"])
def test_a_boolean_mask_is_0_and_1(tmp_path, suffix):
    mask = np.zeros((9, 7), bool)
    mask[2:5, 1:4] = True
    Image.fromarray(mask).save(tmp_path / f"a.{suffix}")
    labels = read_labels(str(tmp_path / f"a.{suffix}"), 2)
    assert labels.dtype == np.uint8 and labels.tolist() == mask.astype(int).tolist()


@pytest.mark.parametrize("mode", ["RGB", "RGBA", "LA"])
def test_colours_are_no_labels(save, mode):
    path = save(Image.new(mode, (3, 2)))
    with pytest.raises(AnnotationError, match=f"{path} holds {mode} pixels.*palette PNG"):
        read_labels(path, 3)


def test_ades_zero_is_guessed(save):
    with pytest.raises(AnnotationError, match="largest 150.*set dataset.zero_is_ignored=true"):
        read_labels(save(np.array([[0, 150]], np.uint8)), 150)
    with pytest.raises(AnnotationError) as error:
        read_labels(save(np.array([[0, 151]], np.uint8)), 150)
    assert "zero_is_ignored" not in str(error.value)


def test_files_that_cannot_be_read(save, tmp_path):
    with pytest.raises(ImageReadError, match="there is no such file"):
        read_labels(str(tmp_path / "absent.png"), 3)
    path = save(np.zeros((40, 40), np.uint8))
    with open(path, "rb+") as file:
        file.truncate(50)
    with pytest.raises(ImageReadError, match="labels.png"):
        read_labels(path, 3)
