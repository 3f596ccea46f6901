"""Meaning of a model's class indices: names and category ids, from the dataset that its config tests on."""

import logging

from detectron2.data import DatasetCatalog, MetadataCatalog
from detectron2.utils.file_io import PathManager
from omegaconf import DictConfig, OmegaConf

from ..annotations.classes import Classes
from ..annotations.coco import read_annotations
from ..errors import UserError
from .ground_truth import category_names

logger = logging.getLogger(__name__)


def classes_of(cfg: DictConfig) -> Classes:
    """Returns names and category ids of the classes that a config's model predicts.

    They come from ``dataloader.test.dataset``: its json, else the dataset registered under its name
    (or the evaluator's). A registered dataset needs no file on disk if its ids are known without one, as
    for COCO and LVIS.

    Raises:
        UserError: if the config names no dataset, or one with unknown classes.
        AnnotationError: if the json cannot be used.
    """
    json = OmegaConf.select(cfg, "dataloader.test.dataset.json")
    if json is not None:
        return _of_json(json)
    names = OmegaConf.select(cfg, "dataloader.test.dataset.names")
    if names is None:
        names = OmegaConf.select(cfg, "dataloader.evaluator.dataset_name")
    if not names:
        raise UserError(
            "the config does not say which classes its model has: set dataloader.test.dataset.names to a "
            "registered dataset, or dataloader.test.dataset.json to a COCO json with 'categories'"
        )
    return _of_registered(names if isinstance(names, str) else names[0])


def _of_json(path: str, name: str | None = None, registered: list[str] | None = None) -> Classes:
    annotations = read_annotations(path, name)
    ids = annotations.class_ids()
    names = category_names(registered, annotations, ids)
    by_id = dict(zip(sorted(ids.values()), names, strict=True))
    in_order = tuple(ids[number] for number in sorted(ids))
    return Classes(tuple(by_id[identifier] for identifier in in_order), in_order, path)


def _of_registered(name: str) -> Classes:
    if name not in DatasetCatalog:
        raise UserError(f"dataloader.test.dataset: no dataset is registered as {name!r}")
    metadata = MetadataCatalog.get(name)
    registered = metadata.get("thing_classes")
    mapping = metadata.get("thing_dataset_id_to_contiguous_id")
    if registered and mapping:
        ids = {number: identifier for identifier, number in mapping.items()}
        return Classes(tuple(registered), tuple(ids[k] for k in range(len(registered))), name)
    if registered and metadata.get("evaluator_type") == "lvis":
        # Detectron2's loader numbers LVIS's classes by their ids, 1 to 1203.
        return Classes(tuple(registered), tuple(range(1, len(registered) + 1)), name)
    json = metadata.get("json_file")
    if json and PathManager.isfile(json):
        return _of_json(json, name, registered)
    if not registered:
        raise UserError(
            f"the classes of {name} are not known: register it with thing_classes, or set "
            "dataloader.test.dataset.json to a COCO json with 'categories'"
        )
    logger.warning(
        "%s: the category ids of its classes are in its json, which is not there (%s): the model's class "
        "numbers, 0 to %d, stand for them",
        *(name, json, len(registered) - 1),
    )
    return Classes(tuple(registered), tuple(range(len(registered))), name)
