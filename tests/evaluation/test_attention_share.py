"""The share of attention on the query's own instance, against cases worked out by hand."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from rmae_d2.evaluation.attention_share import (
    AttentionShare,
    clustered_error,
    paired_difference,
    patch_cover,
)


def test_a_case_by_hand():
    """1 x 3 patches; the instance covers all of the first, half of the second, none of the third."""
    cover = np.array([[[1.0, 0.5, 0.0]]])
    attention = np.array([[0.6, 0.2, 0.2], [0.1, 0.1, 0.8], [0.0, 0.2, 0.8]])
    share = AttentionShare()
    # Rows need not sum to 1: the cls token's part is missing from them.
    share.process("a", attention * [[0.5], [0.25], [1.0]], cover)
    result = share.evaluate()
    # Queries 0 and 1: 0.6 + 0.1 and 0.1 + 0.05.
    assert result["share"] == pytest.approx((0.7 + 0.15) / 2)
    assert result["area"] == pytest.approx(0.5)
    assert (result["instances"], result["images"], result["too_small"]) == (1, 1, 0)
    assert result["elsewhere"] == pytest.approx(0.1)
    assert result["beyond_elsewhere"] == pytest.approx(0.425 - 0.1)
    # Times 3, by displacement -1, 0, 1, 2: 0.3, (1.8 + 0.3) / 2, (0.6 + 2.4) / 2, 0.6.
    first = (1.05 + 0.5 * 1.5) / (1.05 + 1.5 + 0.6)
    second = (0.3 + 0.5 * 1.05) / (0.3 + 1.05 + 1.5)
    assert result["position"] == pytest.approx((first + second) / 2)
    assert result["beyond_position"] == pytest.approx(result["share"] - (first + second) / 2)


def test_uniform_and_local_attention():
    """Uniform gives the area; attention by displacement alone gives the position share, on any grid."""
    random = np.random.default_rng(0)
    uniform, local = AttentionShare(), AttentionShare()
    for number, (rows, columns) in enumerate([(4, 6), (6, 4), (5, 5)]):
        masks = np.zeros((3, rows * 8, columns * 8), bool)
        for mask in masks:
            y, x = random.integers(0, 16, 2)
            mask[y : y + 20, x : x + 20] = True
        cover = patch_cover(masks, (rows, columns))
        places = np.stack(np.divmod(np.arange(rows * columns), columns), 1)
        far = ((places[:, None] - places[None]) ** 2).sum(-1)
        uniform.process(number, np.ones(far.shape), cover)
        weights = np.exp(-far / 2.0)
        local.process(number, weights, cover)
    assert uniform.evaluate()["share"] == pytest.approx(uniform.evaluate()["area"])
    result = local.evaluate()
    assert result["share"] > 2 * result["area"]
    assert result["beyond_position"] == pytest.approx(0, abs=0.03)


def test_attention_that_does_not_depend_on_the_query():
    """What stands out draws a large share, and no more from its own patches than from elsewhere."""
    cover = np.zeros((2, 3, 3))
    cover[0, 0, :2], cover[1] = 1, 1
    salient = np.tile(np.array([4, 4, 1, 1, 1, 1, 1, 1, 1]) / 15, (9, 1))
    share = AttentionShare()
    share.process("a", salient, cover)
    result = share.evaluate()
    assert share.shares()["a", 0] == pytest.approx(8 / 15)
    # The second instance is everywhere.
    assert share.shares(beyond_elsewhere=True) == {("a", 0): pytest.approx(0)}
    assert result["elsewhere"] == pytest.approx(8 / 15)
    assert result["beyond_elsewhere"] == pytest.approx(0)
    everywhere = AttentionShare()
    everywhere.process("a", salient, cover[1:])
    assert everywhere.evaluate()["elsewhere"] is None
    assert everywhere.evaluate()["beyond_elsewhere_error"] is None


def test_small_instances_are_counted():
    share = AttentionShare()
    cover = np.array([[[0.4, 0.4]], [[0.0, 0.5]]])
    share.process("a", np.array([[0.5, 0.5], [0.25, 0.75]]), cover)
    assert share.evaluate()["too_small"] == 1
    assert share.shares() == {("a", 1): pytest.approx(0.375)}
    empty = AttentionShare()
    empty.process("a", np.ones((2, 2)), cover[:1])
    with pytest.raises(ValueError, match="no instance covers half a patch"):
        empty.evaluate()
    with pytest.raises(ValueError, match=r"shape \(2, 2\) for 1x3 patches"):
        share.process("b", np.ones((2, 2)), np.zeros((1, 1, 3)))


@given(
    st.integers(1, 12),
    st.integers(1, 12),
    st.integers(1, 5),
    st.integers(1, 5),
    st.integers(0, 2**31),
)
def test_cover_is_the_area_under_each_patch(height, width, rows, columns, seed):
    """Against pixels split so finely that patches hold whole ones."""
    masks = np.random.default_rng(seed).random((2, height, width)) < 0.5
    fine = masks.repeat(rows, axis=1).repeat(columns, axis=2)
    expected = fine.reshape(2, rows, height, columns, width).mean(axis=(2, 4))
    np.testing.assert_allclose(patch_cover(masks, (rows, columns)), expected, atol=1e-12)


def test_errors_and_differences():
    values = np.array([1.0, 2.0, 4.0, 5.0])
    apart = clustered_error(values, [0, 1, 2, 3])
    assert apart == pytest.approx(values.std() / 2)
    # Pairs: deviations -2, -1 and 1, 2 add up to -3 and 3.
    assert clustered_error(values, [0, 0, 1, 1]) == pytest.approx(18**0.5 / 4)
    one = {("a", 0): 0.5, ("a", 1): 0.25, ("b", 0): 0.5}
    other = {("a", 0): 0.25, ("b", 0): 0.5, ("c", 0): 0.0}
    found = paired_difference(one, other)
    assert found == {"difference": 0.125, "error": pytest.approx(0.125 / 2**0.5), "instances": 2}
    with pytest.raises(ValueError, match="nothing to compare"):
        paired_difference(one, {})
