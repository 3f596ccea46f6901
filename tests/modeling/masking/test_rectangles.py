import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from rmae_d2.modeling.masking.rectangles import sample_rectangles

GRIDS = st.tuples(st.integers(1, 16), st.integers(1, 16))


def extent(inside):
    """Height and width of each rectangle, and whether it is one."""
    rows, columns = inside.any(dim=-1), inside.any(dim=-2)
    height, width = rows.sum(dim=-1), columns.sum(dim=-1)
    full = inside.sum(dim=(-1, -2)) == height * width
    steps = [(line[..., 1:] != line[..., :-1]).sum(dim=-1) for line in (rows, columns)]
    return height, width, full & (steps[0] <= 2) & (steps[1] <= 2)


@given(grid=GRIDS, seeds=st.lists(st.integers(0, 2**63 - 1), min_size=1, max_size=5))
def test_they_are_rectangles_and_functions_of_their_seeds(grid, seeds):
    inside = sample_rectangles(torch.tensor(seeds), grid, number=3)
    assert inside.shape == (len(seeds), 3, *grid) and inside.dtype == torch.bool
    assert extent(inside)[2].all() and inside.flatten(2).any(dim=2).all()
    torch.rand(5)
    again = sample_rectangles(torch.tensor(seeds[-1:]), grid, number=3)
    assert torch.equal(inside[-1:], again)


def published(side_of, area, size=14):
    """The two sides as the paper's code has them: l, min(14, ceil(area / l))."""
    return side_of, min(size, math.ceil(area / side_of))


@pytest.mark.parametrize(("drawn", "taller"), [("columns", 0.837), ("either", 0.480)])
def test_the_published_distribution_on_14x14(drawn, taller):
    """Sides against the closed form: each (l, area) equally likely, columns or either axis first."""
    n = 20_000
    inside = sample_rectangles(torch.arange(n), (14, 14), drawn=drawn)[:, 0]
    height, width, _ = extent(inside)
    expected = torch.zeros(15, 15, dtype=torch.float64)
    for side in range(4, 11):
        for area in range(40, 161):
            a, b = published(side, area)
            columns_first = 0.5 if drawn == "either" else 1.0
            expected[a, b] += (1 - columns_first) / (7 * 121)
            expected[b, a] += columns_first / (7 * 121)
    found = torch.zeros(15, 15, dtype=torch.float64)
    found.index_put_((height, width), torch.ones(n, dtype=torch.float64), accumulate=True)
    assert (found[expected == 0] == 0).all()
    deviation = (n * expected * (1 - expected)).sqrt()
    assert ((found - n * expected).abs() <= 5 * deviation + 1e-9).all()
    assert (height > width).float().mean().item() == pytest.approx(taller, abs=5 * 0.5 / n**0.5)
    assert expected.tril(-1).sum().item() == pytest.approx(taller, abs=1e-3)


def test_places_are_uniform():
    """Each place where a rectangle of one size fits has as many."""
    n = 20_000
    inside = sample_rectangles(torch.arange(n), (6, 9), area=(6 / 54, 6 / 54), side=(1 / 3, 1 / 3))
    height, width, _ = extent(inside[:, 0])
    # Two rows and three columns, or three columns (a third of nine) and two rows: the same.
    assert (height == 2).all() and (width == 3).all()
    top = inside[:, 0].any(dim=2).float().argmax(dim=1)
    left = inside[:, 0].any(dim=1).float().argmax(dim=1)
    counts = (top * 7 + left).bincount(minlength=35)
    p = 1 / 35
    assert (counts - n * p).abs().max() < 5 * (n * p * (1 - p)) ** 0.5
