"""What the page offers to begin with."""

import numpy as np
import pytest

from rmae_d2.data import read_image
from rmae_d2.demo import Limits
from rmae_d2.demo.examples import MOST, default_examples, examples_from
from rmae_d2.demo.requests import decode_image
from rmae_d2.errors import UserError


def test_examples_are_there_without_a_network():
    examples = default_examples()
    assert len(examples) >= 4 and all(example.credit for example in examples)
    for example in examples:
        assert decode_image(example.data, Limits().pixels).size
        height, width, _ = decode_image(example.thumbnail, Limits().pixels).shape
        assert height <= 108 and width <= 144


def test_own_ones(make_photos, tmp_path, capsys):
    folder = make_photos(tmp_path / "photos", MOST + 1)
    examples = examples_from([str(folder)], Limits())
    assert [example.name for example in examples] == [f"photo{k:02d}" for k in range(MOST)]
    first = decode_image(examples[0].data, Limits().pixels)
    assert np.array_equal(first, read_image(folder / "photo00.jpg"))
    assert f"the first {MOST} of {MOST + 1} images" in capsys.readouterr().err
    with pytest.raises(UserError, match="photo00.jpg: It has more than 10 bytes"):
        examples_from([str(folder)], Limits(upload_bytes=10))
