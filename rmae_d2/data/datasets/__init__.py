"""Datasets: importing this package registers ours beside Detectron2's."""

from . import builtin as _builtin  # noqa: F401  (registration)
from .images_only import DatasetMissingError, images_from, pretrain_dataset

__all__ = ["DatasetMissingError", "images_from", "pretrain_dataset"]
