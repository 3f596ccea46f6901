"""Visualized predictions: masks, boxes, names and scores over the photo."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import pycocotools.mask as mask_util
import torch
from detectron2.data.catalog import Metadata
from detectron2.structures import Instances
from numpy.typing import NDArray

from ..errors import UserError
from .palette import class_palette
from .sheets import enlargement

_PAD = 1  # photo pixels around a name


def draw_instances(
    image_HWC: NDArray[np.uint8],
    instances: Instances,
    class_names: Sequence[str],
    score_threshold: float = 0.5,
) -> NDArray[np.uint8]:
    """Draws objects with Detectron2's Visualizer, each in its own colour.

    The same objects give the same picture.

    Args:
        image_HWC: uint8 (H, W, 3) RGB.
        instances: on the CPU, at the image's size: ``pred_boxes``, ``pred_classes``, ``scores`` if they
            are predictions and not labels, and ``pred_masks`` (N, H, W) if there are masks.
        class_names: by class index.
        score_threshold: objects with a lower score are omitted.

    Returns:
        uint8 (H, W, 3) RGB; a long side below 640 pixels is enlarged to that, at most five times.

    Raises:
        UserError: if OpenCV, which the Visualizer draws with, does not work here.
    """
    try:
        from detectron2.utils.visualizer import Visualizer
    except ImportError as error:
        remedy = "pip install opencv-python"
        if not isinstance(error, ModuleNotFoundError):  # libGL, which containers usually lack
            remedy = (
                "apt-get install libgl1 libglib2.0-0, or in its place the one that needs no libGL: "
            )
            remedy += "pip uninstall opencv-python, then pip install opencv-python-headless"
        raise UserError(f"pictures need OpenCV ({error}): {remedy}") from error

    class WithinPicture(Visualizer):
        """Moves names that would extend beyond an edge."""

        def draw_text(self, *arguments: Any, **options: Any) -> Any:
            output = super().draw_text(*arguments, **options)
            text = output.ax.texts[-1]
            place = text.get_window_extent(output.canvas.get_renderer())
            right, bottom = place.x1 / output.scale, output.height - place.y0 / output.scale
            x, y = text.get_position()
            x -= min(max(right + _PAD - output.width, 0), x - _PAD)
            text.set_position((x, y - min(max(bottom + _PAD - output.height, 0), y - _PAD)))
            return output

    scored = instances.has("scores")
    shown = instances[instances.scores >= score_threshold] if scored else instances
    # On small pictures, names would cover the objects; at 10 times, the Visualizer's letters vanish.
    scale = enlargement(*image_HWC.shape[:2])
    visualizer = WithinPicture(image_HWC, Metadata(), scale=scale)
    if len(shown):
        names = [class_names[number] for number in shown.pred_classes.tolist()]
        if scored:
            names = [f"{n} {s:.0%}" for n, s in zip(names, shown.scores.tolist(), strict=True)]
        visualizer.overlay_instances(
            boxes=shown.pred_boxes,
            masks=_masks(shown),
            labels=names,
            assigned_colors=class_palette(len(shown)) / 255,
        )
    return np.asarray(visualizer.get_output().get_image(), np.uint8)


def _masks(instances: Instances) -> list[dict[str, Any]] | None:
    """Encodes masks as RLEs: the Visualizer would reject a two-column array, from a very narrow image."""
    if not instances.has("pred_masks"):
        return None
    masks_HWN = instances.pred_masks.to(torch.uint8).permute(1, 2, 0).numpy()
    return list(mask_util.encode(np.asfortranarray(masks_HWN)))
