"""Edges drawn by an image's segments, on graphs small enough to solve by hand."""

import numpy as np
import pytest
from scipy.sparse import csr_matrix

from rmae_d2.regions.segment_walk import SegmentGraph, place_seeds, segment_graph, walk

LABELS = np.array([[0, 0, 1, 1, 2, 2], [0, 0, 1, 1, 2, 2]])
NOTHING = np.full(LABELS.shape, -1, np.int8)


def chain(first, second):
    """Three segments of four pixels in a row, tied by the two weights."""
    ties = [[first, -first, 0], [-first, first + second, -second], [0, -second, second]]
    return SegmentGraph(LABELS, np.full(3, 4.0), csr_matrix(np.array(ties, float)))


def seeded(*seeds):
    map_ = NOTHING.copy()
    for row, column, value in seeds:
        map_[row, column] = value
    return map_


def test_without_ties_the_prior_stays():
    found = walk(chain(0, 0), np.array([0.1, 0.5, 0.9]), NOTHING)
    np.testing.assert_allclose(found, np.array([0.1, 0.5, 0.9])[LABELS], atol=1e-12)


def test_between_two_seeds_the_stronger_tie_wins():
    seeds = seeded((0, 0, 1), (1, 5, 0))
    found = walk(chain(3, 1), np.full(3, 0.2), seeds)
    # Weights of 3 to 1, of 1 to 0, and of 0.01 for each of 4 pixels to the prior.
    middle = (3 * 1 + 1 * 0 + 0.04 * 0.2) / (3 + 1 + 0.04)
    np.testing.assert_allclose(found, np.array([1, middle, 0])[LABELS], atol=1e-12)


def test_a_segment_with_both_seeds_is_divided_and_ties_nothing():
    found = walk(chain(0, 5), np.array([0.4, 0.4, 0.7]), seeded((0, 0, 1), (0, 1, 0)))
    assert found[:, :2].tolist() == [[1, 0], [1, 0]]
    np.testing.assert_allclose(found[:, 2:].mean(), 0.55, atol=1e-12)


def test_seeds_on_a_smaller_map_are_not_lost():
    seeds = np.full((4, 4), -1, np.int8)
    seeds[0, 0], seeds[1, 1], seeds[3, 0] = 0, 1, 0
    assert place_seeds(seeds, (2, 2)).tolist() == [[1, -1], [0, -1]]
    assert np.array_equal(place_seeds(seeds, (4, 4)), seeds)


@pytest.mark.parametrize("channels", [1, 3])
def test_ties_of_an_image(channels):
    image = np.zeros((20, 40, channels), np.uint8)
    image[:, 16:] = 60
    graph = segment_graph(image)
    assert graph.labels.max() == 1 and graph.areas.tolist() == [20 * 16, 20 * 24]
    tie = 20 * (0.01 + np.exp(-channels * (60 / 80) ** 2))
    np.testing.assert_allclose(graph.laplacian.toarray(), [[tie, -tie], [-tie, tie]], rtol=1e-9)
    assert graph.means(np.arange(800).reshape(20, 40) % 40).tolist() == [7.5, 27.5]


def test_a_large_image_is_reduced():
    assert segment_graph(np.zeros((100, 1536, 3), np.uint8)).labels.shape == (25, 384)
    assert segment_graph(np.zeros((1, 5000, 3), np.uint8)).labels.shape == (1, 384)
