"""Configs made to fit their data: number of classes, masks or boxes only, what to evaluate on."""

import copy
import logging
import os
from collections.abc import Sequence

from detectron2.data import MetadataCatalog
from omegaconf import DictConfig, OmegaConf

from ...errors import UserError
from ..datasets import (
    check_same_classes,
    classification_dataset,
    detection_dataset,
    json_facts,
    semantic_dataset,
)
from .num_classes import dataset_node, set_num_classes, without_evaluation
from .own_labels import adapt_classification, adapt_semantic

logger = logging.getLogger(__name__)


def adapt_to_data(
    cfg: DictConfig, overrides: Sequence[str] = (), *, eval_only: bool = False
) -> DictConfig:
    """Changes what follows from the data that ``dataloader.{train,test}.dataset`` name.

    Every number of classes in the model becomes the data's. With eval_only it is the test data's.

    Detection (``detection_dataset``):

    - The classes are those of ``json``, else of the registered name where they are known.
    - Training data without masks, and ``dataset.masks=false``, make a model without mask head. (With
      eval_only: test data without masks, or training data that the config still names.)
    - Masks as RLE are loaded as bitmasks.

    Semantic segmentation (``semantic_dataset``): own data's number of classes is ``dataset.num_classes``, of
    training or test data, else the model's, where an override says that; registered names have theirs.

    Classification (``classification_dataset``): it is the number of class folders below an own ``root``.

    Where test and training data have other classes, own test data are an error; without them the config's
    own test data are not meant, and evaluation is switched off, with a warning (of classification that is an
    error too).

    Args:
        cfg: with overrides applied. One without such a dataset is returned as it is.
        overrides: those of the command line, which may not contradict the data.
        eval_only: only the test data will be used.

    Returns:
        a changed copy, which may be saved: it needs no second adaptation, nor minds one.

    Raises:
        UserError: an override of a number of classes contradicts the data; own labels to train on come
            without a number; those for training and test differ; or eval_only, and the test data are not
            those that belong to the training data.
        AnnotationError: a json cannot be used, or those for training and test differ in their classes.
        UserError: a json or a folder is not there.
    """
    for dataset, adapt in (
        (detection_dataset, _adapt_detection),
        (semantic_dataset, adapt_semantic),
        (classification_dataset, adapt_classification),
    ):
        if any(dataset_node(cfg, split, dataset) for split in ("train", "test")):
            cfg = copy.deepcopy(cfg)
            train, test = (dataset_node(cfg, split, dataset) for split in ("train", "test"))
            adapt(cfg, train, test, overrides, eval_only)
    return cfg


def _adapt_detection(
    cfg: DictConfig,
    train: DictConfig | None,
    test: DictConfig | None,
    overrides: Sequence[str],
    eval_only: bool,
) -> None:
    if eval_only:
        _check_test_data(train, test)
    elif train is not None and test is not None and "evaluator" in cfg.dataloader:
        _evaluate_on_fitting_data(cfg, train, test)
    data = test if eval_only else train
    if data is None:
        return
    classes = _classes(data)
    if classes is not None:
        set_num_classes(cfg, len(classes), _name(data), overrides)
    _fit_federated_loss(cfg, data, classes)
    shown = [node for node in (train, test) if node is not None] if eval_only else [data]
    bare = [_name(node) for node in shown if not _has_masks(node)]
    if test is not None and not _has_masks(test):
        test.masks = False  # else its loader recommends a model without mask head
    if bare:
        _drop_masks(cfg, bare[0])
    elif data.get("json") and json_facts(data.json).has_rle:
        _load_bitmasks(cfg)


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
        raise UserError(
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
        raise UserError(
            f"{_name(test)} has {len(tested)} classes, which are not the {len(classes)} of {_name(train)}: "
            "set dataloader.train.dataset.json too"
        )
    without_evaluation(
        *(cfg, _name(train), _name(test)),
        "dataloader.test.dataset.json and dataloader.test.dataset.root",
    )


def _drop_masks(cfg: DictConfig, source: str) -> None:
    """Boxes only, from the loaders to the model."""
    logger.warning(
        "BOXES ONLY: %s has no masks, or none are wanted: the model has no mask head", source
    )
    for split in ("train", "test"):
        if (data := dataset_node(cfg, split, detection_dataset)) is not None:
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
