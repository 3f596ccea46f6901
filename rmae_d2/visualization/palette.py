"""Colours of classes, objects and regions."""

import colorsys

import numpy as np
from numpy.typing import NDArray


def class_palette(num_classes: int = 256) -> NDArray[np.uint8]:
    """Returns colours by index, uint8 (N, 3) RGB: the same for an index whatever N is.

    Hues are a golden-ratio step apart, and saturation and brightness alternate, so that neighbours differ.
    """
    strength, brightness = (0.9, 0.55, 0.75), (1.0, 0.8, 0.62, 0.92, 0.7)
    colours = [
        colorsys.hsv_to_rgb((k + 1) * 0.618034 % 1.0, strength[k % 3], brightness[k % 5])
        for k in range(num_classes)
    ]
    return np.rint(np.array(colours).reshape(-1, 3) * 255).astype(np.uint8)


def label_edges(labels_HW: NDArray[np.integer]) -> NDArray[np.bool_]:
    """Marks pixels whose left or upper neighbour has another label, bool (H, W)."""
    edges = np.zeros(labels_HW.shape, np.bool_)
    edges[:, 1:] |= labels_HW[:, 1:] != labels_HW[:, :-1]
    edges[1:] |= labels_HW[1:] != labels_HW[:-1]
    return edges
