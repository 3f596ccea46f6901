"""Registers our datasets in Detectron2's catalogs, under $DETECTRON2_DATASETS or ./datasets."""

import os
from collections.abc import Callable
from functools import partial

from detectron2.data import DatasetCatalog, MetadataCatalog
from detectron2.data.datasets import load_sem_seg, register_coco_instances, register_coco_panoptic

from ...path_handlers import path_manager
from ..scenes.dataset import panoptic_metadata
from ..scenes.render import THING_CLASSES
from .fine_grained import FineGrained, Listing, read_cars, read_cub, read_inaturalist
from .images_only import images_from


def register_all(root: str) -> None:
    """Register the datasets that are not yet registered; nothing needs to exist on disk.

    Args:
        root: folder of all datasets, the one that Detectron2's own datasets use.
    """
    unlabeled = os.path.join(root, "coco/annotations/image_info_unlabeled2017.json")
    _register_images("coco_2017_unlabeled", os.path.join(root, "coco/unlabeled2017"), unlabeled)
    for split in ("train", "val"):
        _register_images(f"imagenet_1k_{split}", os.path.join(root, "imagenet", split))
        _register_scenes(f"scenes_{split}", os.path.join(root, "scenes"), split)
        for year in (2017, 2018, 2019):
            folder = os.path.join(root, f"inaturalist_{year}")
            name, read = (
                f"inaturalist_{year}_{split}",
                partial(read_inaturalist, folder, year, split),
            )
            _register_fine_grained(name, folder, read)
    for split in ("train", "test"):
        cub, cars = os.path.join(root, "CUB_200_2011"), os.path.join(root, "stanford_cars")
        _register_fine_grained(f"cub_200_{split}", cub, partial(read_cub, cub, split))
        _register_fine_grained(f"stanford_cars_{split}", cars, partial(read_cars, cars, split))


def _register_images(name: str, folder: str, json_file: str | None = None) -> None:
    """Register images without labels: those listed in a COCO json, or all in a folder."""
    if name not in DatasetCatalog:
        DatasetCatalog.register(name, lambda: images_from(json_file or folder, folder))
        MetadataCatalog.get(name).set(image_root=folder)


def _register_fine_grained(name: str, folder: str, read: Callable[[str], Listing]) -> None:
    if name not in DatasetCatalog:
        DatasetCatalog.register(name, FineGrained(name, read))
        MetadataCatalog.get(name).set(image_root=folder)


def _register_scenes(name: str, root: str, split: str) -> None:
    """Register the demo dataset: instances; NAME_panoptic, COCO's segments; NAME_semantic, label images."""
    if name not in DatasetCatalog:
        images = os.path.join(root, split)
        annotations = os.path.join(root, "annotations", f"instances_{split}.json")
        metadata = {"thing_classes": list(THING_CLASSES)}
        register_coco_instances(name, metadata, annotations, images)
        segments = os.path.join(root, f"panoptic_{split}")
        segments_json = os.path.join(root, "annotations", f"panoptic_{split}.json")
        classes = panoptic_metadata()
        register_coco_panoptic(
            f"{name}_panoptic", classes, images, segments, segments_json, annotations
        )
        labels = os.path.join(root, f"stuff_{split}")
        DatasetCatalog.register(f"{name}_semantic", partial(load_sem_seg, labels, images))
        MetadataCatalog.get(f"{name}_semantic").set(
            image_root=images,
            sem_seg_root=labels,
            evaluator_type="sem_seg",
            ignore_label=255,
            stuff_classes=classes["stuff_classes"],
            stuff_colors=classes["stuff_colors"],
        )


path_manager()  # enables it to open our addresses, too
register_all(os.path.expanduser(os.getenv("DETECTRON2_DATASETS", "datasets")))
