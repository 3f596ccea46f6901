"""A backbone-only file for people who don't have this package."""

import os
from collections.abc import Mapping
from typing import Any

from .files import atomic_save
from .formats import CheckpointError, load_weights


def export_backbone(weights: str | Mapping[str, Any], path: str) -> list[str]:
    """Writes the pixel encoder for a plain Detectron2 ViTDet.

    The file is ``{"model": ..., "matching_heuristics": True}`` with bare ViT names (``blocks.0...``), which
    Detectron2's own checkpointer matches by suffix without a query string. The final norm is left out: its
    name would match a norm of ViTDet's pyramid; so is the cls token, which ViTDet has not.

    Args:
        weights: anything that :func:`load_weights` takes.
        path: where to.

    Returns:
        the names written.
    """
    _, state_dict = load_weights(weights)
    encoder = {
        key.removeprefix("backbone.net."): value
        for key, value in state_dict.items()
        if key.startswith("backbone.net.")
    }
    for name in ("norm.weight", "norm.bias", "cls_token"):
        encoder.pop(name, None)
    if not encoder:
        raise CheckpointError("no pixel encoder in these weights: nothing to export")
    folder = os.path.dirname(os.path.abspath(path))
    os.makedirs(folder, exist_ok=True)
    atomic_save({"model": encoder, "matching_heuristics": True, "__author__": "rmae_d2"}, path)
    return sorted(encoder)
