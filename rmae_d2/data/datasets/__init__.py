"""Datasets: importing this package registers ours beside Detectron2's."""

from . import builtin as _builtin  # noqa: F401  (registration)
from .coco_json import AnnotationError
from .detection import (
    check_same_classes,
    detection_dataset,
    json_facts,
    num_classes_of,
    own_dataset_name,
)
from .images_only import DatasetMissingError, images_from, pretrain_dataset

__all__ = [
    "AnnotationError",
    "DatasetMissingError",
    "check_same_classes",
    "detection_dataset",
    "images_from",
    "json_facts",
    "num_classes_of",
    "own_dataset_name",
    "pretrain_dataset",
]
