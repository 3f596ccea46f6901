"""A detection config made to fit its data: number of classes, masks or boxes only, what to evaluate on."""

import copy
import logging
import os
from collections.abc import Iterator, Sequence
from typing import Any

from detectron2.data import MetadataCatalog
from detectron2.utils.registry import locate
from omegaconf import DictConfig, OmegaConf

from ..config import ConfigError
from ..data.datasets import check_same_classes, detection_dataset, json_facts

logger = logging.getLogger(__name__)


def adapt_to_data(
    cfg: DictConfig, overrides: Sequence[str] = (), *, eval_only: bool = False
) -> DictConfig:
    """Changes what follows from the data that ``dataloader.{train,test}.dataset`` name.

    - Every number of classes in the model becomes the data's: that of ``json``, else of the registered name
      where its classes are known. With eval_only it is the test data's.
    - Training data without masks, and ``dataset.masks=false``, make a model without mask head. (With
      eval_only: test data without masks, or training data that the config still names.)
    - Masks as RLE are loaded as bitmasks.
    - Where test and training data have other classes, a test json is an error; without one the config's own
      test data are not meant, and evaluation is switched off, with a warning.

    Args:
        cfg: with overrides applied. One without a ``detection_dataset`` is returned as it is.
        overrides: those of the command line, which may not contradict the data.
        eval_only: only the test data will be used.

    Returns:
        a changed copy, which may be saved: it needs no second adaptation, nor minds one.

    Raises:
        ConfigError: an override of a number of classes contradicts the data; or eval_only, and the test data
            are not those that belong to the training json.
        AnnotationError: a json cannot be used, or those for training and test differ in their classes.
        DatasetMissingError: a json is not there.
    """
    if not any(_dataset(cfg, split) for split in ("train", "test")):
        return cfg
    cfg = copy.deepcopy(cfg)
    train, test = _dataset(cfg, "train"), _dataset(cfg, "test")
    if eval_only:
        _check_test_data(train, test)
    elif train is not None and test is not None and "evaluator" in cfg.dataloader:
        _evaluate_on_fitting_data(cfg, train, test)
    data = test if eval_only else train
    if data is None:
        return cfg
    classes = _classes(data)
    if classes is not None:
        set_num_classes(cfg, classes, _name(data), overrides)
    _fit_federated_loss(cfg, data, classes)
    shown = [node for node in (train, test) if node is not None] if eval_only else [data]
    bare = [_name(node) for node in shown if not _has_masks(node)]
    if test is not None and not _has_masks(test):
        test.masks = False  # else its loader recommends a model without mask head
    if bare:
        _drop_masks(cfg, bare[0])
    elif data.get("json") and json_facts(data.json).has_rle:
        _load_bitmasks(cfg)
    return cfg


def _dataset(cfg: DictConfig, split: str) -> DictConfig | None:
    """``dataloader.SPLIT.dataset`` where it is one of detection."""
    node = OmegaConf.select(cfg, f"dataloader.{split}.dataset")
    if not isinstance(node, DictConfig) or "_target_" not in node:
        return None
    target = locate(node._target_) if isinstance(node._target_, str) else node._target_
    return node if target is detection_dataset else None


def _name(data: DictConfig) -> str:
    """For messages."""
    if data.get("json"):
        return str(data.json)
    names = data.get("names") or ()
    return names if isinstance(names, str) else ", ".join(names)


def _classes(data: DictConfig) -> tuple[str, ...] | None:
    """In the model's order; None for a registered dataset whose classes are known only once it is loaded."""
    if data.get("json"):
        return json_facts(data.json).classes
    names = data.get("names") or ()
    first = names if isinstance(names, str) else next(iter(names), "")
    # Not MetadataCatalog.get, which would make metadata for any name.
    classes = MetadataCatalog.get(first).get("thing_classes") if first in MetadataCatalog else None
    return None if classes is None else tuple(classes)


def _has_masks(data: DictConfig) -> bool:
    """Whether masks are to be had, and wanted; registered datasets are taken to have them."""
    if data.get("masks") is False:
        return False
    json = data.get("json")
    # With eval_only the json for training need not be there.
    return not json or not os.path.exists(os.path.expanduser(json)) or json_facts(json).has_masks


def _check_test_data(train: DictConfig | None, test: DictConfig | None) -> None:
    """For eval_only; a json for training that is no longer there says nothing."""
    json = None if train is None else train.get("json")
    if test is None or not json or not os.path.exists(os.path.expanduser(json)):
        return
    if test.get("json"):
        check_same_classes(json, test.json)
    elif _classes(test) not in (None, json_facts(json).classes):
        raise ConfigError(
            f"--eval-only would evaluate on {_name(test)}, whose classes are not those of {json}: set "
            "dataloader.test.dataset.json and root"
        )


def _evaluate_on_fitting_data(cfg: DictConfig, train: DictConfig, test: DictConfig) -> None:
    classes, tested = _classes(train), _classes(test)
    if classes is None or tested is None or classes == tested:
        return
    if test.get("json") and train.get("json"):
        check_same_classes(train.json, test.json)
    if test.get("json"):
        raise ConfigError(
            f"{_name(test)} has {len(tested)} classes, which are not the {len(classes)} of {_name(train)}: "
            "set dataloader.train.dataset.json too"
        )
    if cfg.train.eval_period > 0:
        logger.warning(
            "NO EVALUATION: %s has other classes than %s, on which this run trains. To evaluate set "
            "dataloader.test.dataset.json and dataloader.test.dataset.root, or later use --eval-only",
            *(_name(test), _name(train)),
        )
    cfg.train.eval_period = 0


def set_num_classes(
    cfg: DictConfig, classes: Sequence[str], source: str, overrides: Sequence[str] = ()
) -> None:
    """Makes every number of classes in ``cfg.model``, which is changed, that of the data.

    Raises:
        ConfigError: one of the overrides of the command line says another number.
    """
    model = OmegaConf.to_container(cfg.model, resolve=False)
    for key, before in _numbers_of_classes(model, "model"):
        if before == len(classes):
            continue
        if any(_sets(override, key) for override in overrides):
            raise ConfigError(
                f"{key}={before} contradicts {source}, which has {len(classes)} classes: leave it out, the "
                "number follows the data"
            )
        OmegaConf.update(cfg, key, len(classes))
        logger.info("%s: %s -> %d, the classes of %s", key, before, len(classes), source)


def _numbers_of_classes(node: Any, name: str) -> Iterator[tuple[str, int]]:
    """Full names and values of the keys ``num_classes``; not of those that refer to another key."""
    if isinstance(node, list):
        for i, child in enumerate(node):
            yield from _numbers_of_classes(child, f"{name}.{i}")
    elif isinstance(node, dict):
        for key, child in node.items():
            if key == "num_classes" and isinstance(child, int):
                yield f"{name}.{key}", child
            yield from _numbers_of_classes(child, f"{name}.{key}")


def _sets(override: str, key: str) -> bool:
    """Whether an override sets a key, by its name or as part of ``parent={child: value}``."""
    name, _, value = override.partition("=")
    name = name.strip()
    return name == key or (key.startswith(f"{name}.") and key.rpartition(".")[2] in value)


def _drop_masks(cfg: DictConfig, source: str) -> None:
    """Boxes only, from the loaders to the model."""
    logger.warning(
        "BOXES ONLY: %s has no masks, or none are wanted: the model has no mask head", source
    )
    for split in ("train", "test"):
        if (data := _dataset(cfg, split)) is not None:
            data.masks = False
    mapper = OmegaConf.select(cfg, "dataloader.train.mapper") or {}
    for key in ("use_instance_mask", "recompute_boxes"):
        if key in mapper:
            mapper[key] = False
    heads = OmegaConf.select(cfg, "model.roi_heads") or {}
    for part in ("mask_in_features", "mask_pooler", "mask_head"):
        if part in heads:
            heads[part] = None


def _load_bitmasks(cfg: DictConfig) -> None:
    """Detectron2's mapper fails on an RLE where polygons are expected; polygons it draws where need be."""
    mapper = OmegaConf.select(cfg, "dataloader.train.mapper")
    if mapper is not None and mapper.get("use_instance_mask"):
        mapper.instance_mask_format = "bitmask"


def _fit_federated_loss(cfg: DictConfig, data: DictConfig, classes: Sequence[str] | None) -> None:
    """LVIS's recipes on other data: class weights of those, and no more classes a batch than there are."""
    heads = OmegaConf.select(cfg, "model.roi_heads") or {}
    for predictor in [heads.get("box_predictor"), *(heads.get("box_predictors") or ())]:
        if predictor is None or not predictor.get("use_fed_loss"):
            continue
        weights = predictor.get("get_fed_loss_cls_weights")
        # In training they refer to the training data already.
        if isinstance(weights, DictConfig) and weights.get("json") != data.get("json"):
            weights.json = data.json
        if classes is not None and predictor.get("fed_loss_num_classes", 50) > len(classes):
            predictor.fed_loss_num_classes = len(classes)
