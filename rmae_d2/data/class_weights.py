"""How often the federated loss samples a class as a negative (LVIS; Detectron2's ``use_fed_loss``)."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from detectron2.data import DatasetCatalog, MetadataCatalog
from torch import Tensor

from ..errors import UserError
from .datasets import json_facts


@dataclass(frozen=True)
class FederatedClassWeights:
    """Class weights: the number of training images that show a class, to a power (ViTDet, appendix A.2).

    For ``FastRCNNOutputLayers(get_fed_loss_cls_weights=...)``, which calls it without arguments. Unlike the
    lambda in Detectron2's configs, it can be saved as YAML and supports the user's own data. A class without
    images is weighted like one with a single image, because the loss only samples classes with positive
    weight.

    Args:
        names: registered datasets; the counts come from the first one's metadata ``class_image_count``, or
            its json. Used if no json is given.
        json: the user's own data, as for `detection_dataset`.
        power: 0.5 in ViTDet's LVIS recipe.
    """

    names: Sequence[str] | str = ()
    json: str | None = None
    power: float = 0.5

    def __call__(self) -> Tensor:
        """The weights, float32 (classes,); UserError if the images per class are not known."""
        counts = (
            self._registered_counts() if self.json is None else json_facts(self.json).image_counts
        )
        return torch.tensor(counts).clamp(min=1).float() ** self.power

    def _registered_counts(self) -> Sequence[int]:
        name = self.names if isinstance(self.names, str) else next(iter(self.names), "")
        if name not in DatasetCatalog:
            raise UserError(f"federated loss: no dataset is registered as {name!r}")
        metadata = MetadataCatalog.get(name)
        by_class: list[dict[str, Any]] | None = metadata.get("class_image_count")
        if by_class is not None:
            return [c["image_count"] for c in sorted(by_class, key=lambda c: c["id"])]
        if metadata.get("json_file"):
            return json_facts(metadata.json_file).image_counts
        raise UserError(
            f"federated loss: {name} has neither class_image_count nor json_file in its metadata, so the "
            "images per class are not known"
        )
