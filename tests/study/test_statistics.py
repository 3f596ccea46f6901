import itertools
import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from rmae_d2.study.statistics import (
    bootstrap_interval,
    paired_difference,
    student_interval,
)

NUMBERS = st.floats(-100, 100, allow_nan=False)


def test_students_interval_is_that_of_the_tables():
    low, high = student_interval([1.0, 2.0, 3.0])
    # t(0.975, 2) = 4.30265; the standard error is 1 / sqrt(3).
    assert (low, high) == pytest.approx(
        (2 - 4.30265 / math.sqrt(3), 2 + 4.30265 / math.sqrt(3)), abs=1e-4
    )
    assert student_interval([1.0]) == (-math.inf, math.inf)


def test_the_bootstrap_of_three_looks_at_all_27_samples():
    values = [0.0, 3.0, 9.0]
    means = [np.mean([values[i] for i in draw]) for draw in itertools.product(range(3), repeat=3)]
    assert bootstrap_interval(values) == pytest.approx(tuple(np.quantile(means, [0.025, 0.975])))
    assert bootstrap_interval(values)[0] == pytest.approx(0.65)  # 1 of 27 means is 0, 3 are 1


def test_the_bootstrap_of_many_has_the_width_of_the_normal_interval():
    values = np.random.default_rng(1).normal(5, 2, 200)
    low, high = bootstrap_interval(values)
    assert (low, high) == pytest.approx(
        (values.mean() - 1.96 * 2 / 200**0.5, values.mean() + 1.96 * 2 / 200**0.5), abs=0.05
    )


@given(st.lists(NUMBERS, min_size=1, max_size=5), NUMBERS)
def test_intervals_hold_the_mean_and_move_with_the_values(values, shift):
    low, high = bootstrap_interval(values)
    mean = float(np.mean(values))
    assert low - 1e-9 <= mean <= high + 1e-9
    moved = bootstrap_interval([v + shift for v in values])
    assert moved == pytest.approx((low + shift, high + shift), abs=1e-6)


def test_differences_are_paired_by_seed():
    found = paired_difference(
        {0: 12.0, 1: 21.5, 2: 31.0, 7: 99.0}, {2: 30.0, 0: 11.0, 1: 20.0, 9: 1.0}
    )
    assert found.n == 3
    assert found.mean == pytest.approx(3.5 / 3)
    assert found.bootstrap == pytest.approx((1.0, 1.3917), abs=1e-4)
    assert paired_difference({0: 1.0}, {1: 1.0}) is None


@pytest.mark.parametrize(
    ("values", "significant"),
    [
        ([1.0, 1.1, 0.9], True),
        ([-1.0, -1.1, -0.9], True),
        ([1.0, 0.1, 0.4], False),  # of one sign, but Student's interval reaches below 0
        ([1.0, -1.0, 0.5], False),
        ([5.0], False),
        ([0.66, 0.66], False),  # two that agree by chance
    ],
)
def test_a_difference_is_there_where_both_intervals_say_so(values, significant):
    found = paired_difference(dict(enumerate(values)), dict.fromkeys(range(3), 0.0))
    assert found.significant is significant
