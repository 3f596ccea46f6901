"""Datasets: importing this package registers ours beside Detectron2's."""

from typing import Any

from ...moved import moved_name
from . import builtin as _builtin  # noqa: F401  (registration)
from .detection import (
    check_same_classes,
    detection_dataset,
    json_facts,
    own_dataset_name,
    own_labels,
)
from .image_folder import class_names, classification_dataset, knn_dataset
from .images_only import images_from, pretrain_dataset
from .semantic import first_label, semantic_classes, semantic_dataset

__all__ = [
    "check_same_classes",
    "detection_dataset",
    "first_label",
    "images_from",
    "json_facts",
    "own_dataset_name",
    "own_labels",
    "pretrain_dataset",
    "class_names",
    "classification_dataset",
    "knn_dataset",
    "semantic_classes",
    "semantic_dataset",
]


def __getattr__(name: str) -> Any:
    return moved_name(__name__, name)
