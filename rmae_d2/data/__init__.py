"""Data: datasets, reading, augmentation, mapping and the position-addressed loaders."""

from typing import Any

from ..moved import moved_name
from .classification_mapper import ClassificationDatasetMapper, RandAugment, ResizeCenterCrop
from .datasets import images_from, pretrain_dataset
from .images import CropResizeTransform, RandomResizedCrop, read_image
from .loader import EvalLoader, SkipCounter, TrainLoader, build_eval_loader, build_train_loader
from .mappers import RegionDatasetMapper
from .reconstruction_loader import SeveralSourcesLoader, build_reconstruction_loader
from .semantic_mapper import SemanticDatasetMapper
from .semantic_transforms import LimitedClassCrop, PhotometricDistortion

__all__ = [
    "CropResizeTransform",
    "EvalLoader",
    "RandomResizedCrop",
    "RegionDatasetMapper",
    "SkipCounter",
    "TrainLoader",
    "SeveralSourcesLoader",
    "build_eval_loader",
    "build_reconstruction_loader",
    "build_train_loader",
    "images_from",
    "pretrain_dataset",
    "read_image",
    "ClassificationDatasetMapper",
    "RandAugment",
    "ResizeCenterCrop",
    "SemanticDatasetMapper",
    "LimitedClassCrop",
    "PhotometricDistortion",
]


def __getattr__(name: str) -> Any:
    return moved_name(__name__, name)
