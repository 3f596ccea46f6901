"""What `rmae-d2 visualize masking` does: photos, a model's masks for them, and what it predicts."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from detectron2.config import instantiate
from omegaconf import OmegaConf

from ..data.loader import seeded
from ..errors import UserError
from ..visualization import draw_reconstructions
from ..visualization.sheets import save_picture
from .finished_run import load_run
from .predict_inputs import list_inputs


def draw_masking(
    config_file: str | None,
    weights: str,
    inputs: Sequence[str],
    output: Path,
    *,
    overrides: Sequence[str] = (),
    max_images: int = 8,
    seed: int = 0,
) -> Path:
    """Draws one sheet, a row a photo: image, mask probability where the policy has one, mask, predictions.

    Photos pass through the config's test mapper, so they are cropped as in evaluation; regions are made only
    where the model or its policy looks at them.

    Args:
        config_file: of a pre-training run; None for the config.yaml beside its weights.
        weights: its checkpoint, masking policy included; every tensor must fit.
        seed: of crops and masks.
    """
    photos = list_inputs(inputs)[:max_images]
    cfg, model = load_run(weights, config_file, overrides)
    node = OmegaConf.select(cfg, "dataloader.test.mapper")
    if node is None:
        raise UserError(
            f"{config_file or weights} has no dataloader.test.mapper to read photos with"
        )
    if not model.needs_regions:
        node.regions = None
    mapper = instantiate(node)
    samples: list[dict[str, Any]] = []
    for i, photo in enumerate(photos):
        try:
            with seeded(seed, i):
                samples.append(mapper(photo.dataset_dict))
        except UserError as error:
            raise UserError(
                f"{photo.path}: {error}\n(Regions are those of dataloader.test.mapper.regions.)"
            ) from error
    with torch.no_grad():
        outputs = model(samples)
    return save_picture(draw_reconstructions(samples, outputs), output)
