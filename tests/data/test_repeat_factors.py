import math

import numpy as np
import pytest
from detectron2.data.samplers import RepeatFactorTrainingSampler
from hypothesis import given
from hypothesis import strategies as st

from rmae_d2.data import build_train_loader
from rmae_d2.data.loader import StreamDataset
from rmae_d2.data.repeat_factors import RepeatedOrder, category_repeat_factors

FACTORS = st.lists(st.floats(0, 4), min_size=1, max_size=60).filter(lambda f: sum(f) >= 1)


def _dicts(*classes):
    return [
        {"image_id": i, "file_name": f"{i}.jpg", "annotations": [{"category_id": c} for c in image]}
        for i, image in enumerate(classes)
    ]


def _kept(dataset_dict):
    return dataset_dict


@given(FACTORS, st.integers(0, 2**32))
def test_epochs_have_one_length_and_images_their_share(factors, seed):
    order = RepeatedOrder(np.array(factors))
    counts = np.bincount(order.draw(np.random.default_rng(seed)), minlength=len(factors))
    assert counts.sum() == order.length
    assert (counts >= np.floor(factors)).all()
    assert (counts <= np.floor(factors) + 1).all()


def test_images_appear_as_often_as_their_factor_says():
    factors = np.array([1.0, 1.5, 2.25, 0.25, 3.0, 1.0])
    order = RepeatedOrder(factors)
    total = np.zeros(6)
    for epoch in range(4000):
        total += np.bincount(order.draw(np.random.default_rng(epoch)), minlength=6)
    np.testing.assert_allclose(total / 4000, factors, atol=0.05)


def test_factors_are_detectron2s():
    dicts = _dicts(*([[0]] * 90), *([[0, 1]] * 9), [2])
    expected = RepeatFactorTrainingSampler.repeat_factors_from_category_frequency(dicts, 0.2)
    factors = category_repeat_factors(dicts, 0.2)
    np.testing.assert_allclose(factors, expected.numpy())
    assert factors[-1] == pytest.approx(math.sqrt(0.2 / 0.01))


def test_a_stream_repeats_rare_classes_and_is_a_function_of_position():
    dicts = _dicts(*([[0]] * 99), [1])
    loaders = [
        build_train_loader(dicts, _kept, 10, num_workers=0, repeat_threshold=0.04) for _ in range(2)
    ]
    streams = [loader._stream for loader in loaders]
    assert loaders[0].dataset_size == 100
    assert streams[0].size == 101  # sqrt(0.04 / 0.01) = 2
    epoch = [streams[0].index(101 + i) for i in range(101)]
    assert epoch.count(99) == 2
    assert sorted(set(epoch)) == list(range(100))
    assert epoch == [streams[1].index(101 + i) for i in reversed(range(101))][::-1]


def test_an_unreadable_repeated_image_is_replaced_by_any_image():
    def mapper(dataset_dict):
        if dataset_dict["image_id"] == 1:
            raise OSError("damaged")
        return dataset_dict

    stream = StreamDataset(_dicts([0], [1]), mapper, 0, RepeatedOrder(np.array([1.0, 5.0])))
    samples = [stream[position] for position in range(stream.size)]
    assert all(sample["image_id"] == 0 for sample in samples)
    assert sum("skipped" in sample for sample in samples) == 5


def test_bad_factors_are_refused():
    with pytest.raises(ValueError, match="leave no image"):
        RepeatedOrder(np.array([0.1, 0.2]))
    with pytest.raises(ValueError, match="repeat_threshold=0 must be positive"):
        category_repeat_factors(_dicts([0]), 0)
