import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from rmae_d2.modeling import mask_from_order
from rmae_d2.noise import hash_noise, num_visible, random_shuffle, uniform_noise

SEEDS = st.lists(st.integers(0, 2**63 - 1), min_size=1, max_size=6)


@given(SEEDS, st.integers(1, 300))
def test_every_row_is_a_permutation(seeds, L):
    ids = random_shuffle(torch.tensor(seeds), L)
    assert ids.dtype == torch.int64
    assert torch.equal(ids.sort(dim=1).values, torch.arange(L).expand(len(seeds), L))


@given(SEEDS, st.integers(2, 64))
def test_the_order_is_a_function_of_the_seed_alone(seeds, L):
    batch = random_shuffle(torch.tensor(seeds), L)
    torch.rand(7)  # torch's generator plays no part
    for seed, row in zip(seeds, batch, strict=True):
        assert torch.equal(random_shuffle(torch.tensor([seed]), L)[0], row)


def test_the_order_is_that_of_splitmix64_in_plain_python():
    """A resumed run must hide the same patches, also after an update of this package or of torch."""

    def mix(x):
        x = (x ^ (x >> 30)) * 0xBF58476D1CE4E5B9 % 2**64
        x = (x ^ (x >> 27)) * 0x94D049BB133111EB % 2**64
        return x ^ (x >> 31)

    def noise(seed, i):
        x = mix((mix(seed) + i * 0x9E3779B97F4A7C15) % 2**64)
        return x - 2**64 if x >= 2**63 else x

    seeds = [0, 1, 2**32, 2**62 + 12345, 2**63 - 1]
    expected = [sorted(range(49), key=lambda i, s=s: noise(s, i + 1)) for s in seeds]
    assert random_shuffle(torch.tensor(seeds), 49).tolist() == expected


@pytest.mark.parametrize("step", [1, 1000, 2**32, 2**50 + 1])
def test_patches_are_visible_equally_often_alone_and_in_pairs(step):
    L, V, n = 16, 4, 2000
    ids = random_shuffle(torch.arange(n) * step, L)
    visible = (~mask_from_order(ids, V)).double()
    # Sampling V of L without replacement: chi-square of the counts has L - 1 = 15 degrees of freedom,
    # whose 99.99 % point is 44.3.
    p = V / L
    counts = visible.sum(dim=0)
    chi2 = ((counts - n * p) ** 2 / (n * p * (1 - p))).sum() * (L - 1) / L
    assert chi2 < 44.3
    pair = V * (V - 1) / (L * (L - 1))
    together = visible.T @ visible / n
    off_diagonal = together[~torch.eye(L, dtype=torch.bool)]
    assert (off_diagonal - pair).abs().max() < 5 * (pair * (1 - pair) / n) ** 0.5
    # The order within the row is random too, and neighbouring seeds do not resemble each other.
    places = torch.nn.functional.one_hot(ids, L).double().mean(dim=0)
    assert (places - 1 / L).abs().max() < 5 * (1 / L * (1 - 1 / L) / n) ** 0.5
    agree = (visible[1:] * visible[:-1]).sum(dim=1).mean()
    assert agree.item() == pytest.approx(V * V / L, abs=0.1)


def test_distinct_seeds_give_distinct_orders():
    assert len(random_shuffle(torch.arange(2000), 49).unique(dim=0)) == 2000


def test_uniform_noise_is_uniform_open_and_in_the_order_of_its_hash():
    seeds = torch.arange(200)
    noise = uniform_noise(seeds, 500)
    assert noise.dtype == torch.float64 and noise.min() > 0 and noise.max() < 1
    counts = (noise.flatten() * 10).long().bincount(minlength=10)
    assert (counts - 10_000).abs().max() < 5 * (100_000 * 0.1 * 0.9) ** 0.5
    assert torch.equal(noise.argsort(dim=1), hash_noise(seeds, 500).argsort(dim=1))


@pytest.mark.parametrize(
    ("L", "ratio", "V"),
    [(196, 0.75, 49), (196, 0.9, 19), (16, 0.5, 8), (49, 0.75, 12), (2, 0.5, 1)],
)
def test_num_visible(L, ratio, V):
    assert num_visible(L, ratio) == V


@pytest.mark.parametrize(("L", "ratio"), [(196, 1.0), (196, 0.999), (196, 0.0), (1, 0.5), (4, -1)])
def test_a_ratio_that_hides_all_or_nothing_is_refused(L, ratio):
    with pytest.raises(ValueError, match=f"mask_ratio={ratio} .* of {L} patches"):
        num_visible(L, ratio)
    if ratio not in (0, 1):
        with pytest.raises(ValueError, match="at least one must be visible"):
            num_visible(L, ratio, ends=True)


def test_of_regions_all_or_none_may_be_visible():
    assert [num_visible(196, ratio, ends=True) for ratio in (0, 0.0, 0.75, 1, 1.0)] == [
        196,
        196,
        49,
        0,
        0,
    ]
