import numpy as np
import pytest

from rmae_d2.visualization import class_palette, draw_semantic

NAMES = ["wall", "tree", "sky"]


@pytest.fixture
def halves():
    """A grey photo whose upper three quarters are sky (2), the rest wall (0)."""
    labels = np.zeros((640, 700), np.uint8)
    labels[:480] = 2
    return np.full((640, 700, 3), 128, np.uint8), labels


def test_classes_are_in_their_colours_beside_a_legend(halves):
    image, labels = halves
    picture = draw_semantic(image, labels, NAMES)
    palette = class_palette()
    assert picture.dtype == np.uint8 and picture.shape[0] == 640 and picture.shape[1] > 800
    # Over the photo a mixture; pure at the edge between classes, and in the legend.
    for place, number in (((100, 350), 2), ((600, 350), 0)):
        mixed = 0.45 * 128 + 0.55 * palette[number].astype(float)
        np.testing.assert_allclose(picture[place], mixed, atol=1.5)
    np.testing.assert_array_equal(picture[480, 350], palette[0])
    legend = picture[:, 700:].reshape(-1, 3)
    found = [int(np.flatnonzero((legend == palette[k]).all(axis=1))[0]) for k in (2, 0)]
    assert found == sorted(found)  # the larger one above
    assert not (legend == palette[1]).all(axis=1).any()
    assert (legend == 0).all(axis=1).any()  # letters
    assert (image == 128).all() and set(np.unique(labels)) == {0, 2}


def test_the_legend_says_names_and_shares(halves):
    image, labels = halves
    picture, again, other, share = (
        draw_semantic(image, planes, names)[:, 700:]
        for planes, names in (
            (labels, NAMES),
            (labels, NAMES),
            (labels, ["wall", "tree", "sea"]),
            (np.roll(labels, 70, axis=0), NAMES),
        )
    )
    np.testing.assert_array_equal(picture, again)
    assert picture.shape != other.shape or (picture != other).any()
    # Rolling moves the areas, not their shares.
    np.testing.assert_array_equal(picture, share)


@pytest.mark.parametrize(
    ("size", "drawn"),
    [((150, 200), (480, 640)), ((2, 2), (10, 10)), ((300, 2), (640, 4)), ((900, 700), (900, 700))],
)
def test_small_photos_are_enlarged(size, drawn):
    labels = np.ones(size, np.uint8)
    picture = draw_semantic(np.full((*size, 3), 128, np.uint8), labels, NAMES)
    assert picture.shape[0] >= drawn[0] and picture.shape[1] > drawn[1]
    mixed = 0.45 * 128 + 0.55 * class_palette()[1].astype(float)
    part = picture[: drawn[0], : drawn[1]]
    np.testing.assert_allclose(part, np.broadcast_to(mixed, part.shape), atol=1.5)


def test_every_class_has_its_line():
    """255 of them, the most there can be, with long names: more columns, nothing cut off."""
    labels = np.repeat(np.arange(255, dtype=np.uint8), 1000).reshape(255, 1000)
    names = [f"class {k}, and some more words to describe it" for k in range(255)]
    picture = draw_semantic(np.zeros((255, 1000, 3), np.uint8), labels, names)
    legend = picture[:, 1000:].reshape(-1, 3)
    seen = set(map(tuple, legend[(legend != legend[:, :1]).any(axis=1)].tolist()))
    assert set(map(tuple, class_palette(255).tolist())) <= seen
    assert (picture[:, -1] == 255).all() and (picture[-1, 1000:] == 255).all()
