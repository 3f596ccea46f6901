import numpy as np

from rmae_d2.visualization.palette import class_palette, label_edges


def test_a_number_has_its_colour_for_good():
    assert class_palette(3).tolist() == [[25, 92, 255], [157, 204, 92], [158, 40, 143]]
    palette = class_palette(256)
    np.testing.assert_array_equal(palette[:150], class_palette(150))
    distance = np.abs(palette[:, None].astype(int) - palette[None]).sum(axis=2)
    assert distance[~np.eye(256, dtype=bool)].min() >= 10
    follows = np.abs(np.diff(palette.astype(int), axis=0)).sum(axis=1)
    assert follows.min() > 100


def test_edges_are_drawn_on_one_side():
    labels = np.array([[1, 1, 2], [1, 1, 2], [3, 3, 3]])
    assert label_edges(labels).tolist() == [[0, 0, 1], [0, 0, 1], [1, 1, 1]]
