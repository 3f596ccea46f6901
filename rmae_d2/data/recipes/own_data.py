"""Configs made to fit their data: number of classes, masks or boxes only, what to evaluate on."""

import copy
import logging
import os
import re
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from detectron2.data import DatasetCatalog, MetadataCatalog
from detectron2.utils.registry import locate
from omegaconf import DictConfig, OmegaConf

from ...annotations.coco import located
from ...annotations.formats.addresses import Address, address_of
from ...annotations.formats.recognise import splits_of
from ...errors import UserError
from ...files import exists
from ..datasets import (
    check_same_classes,
    class_names,
    classification_dataset,
    detection_dataset,
    json_facts,
    own_labels,
    pretrain_dataset,
    semantic_dataset,
)
from .bands import KEYS as BANDS
from .bands import adapt_bands

logger = logging.getLogger(__name__)

_Node = DictConfig | None


def adapt_to_data(
    cfg: DictConfig, overrides: Sequence[str] = (), *, eval_only: bool = False
) -> DictConfig:
    """Changes what follows from the data that ``dataloader.{train,test}.dataset`` name.

    Every number of classes in the model becomes the data's (with eval_only the test data's): those of a
    ``json`` or registered name (``detection_dataset``), ``dataset.num_classes`` or a registered name's
    (``semantic_dataset``), the class folders below an own ``root`` or a registered name's
    (``classification_dataset``).

    Detection data without masks, and ``dataset.masks=false``, make a model without mask head (with eval_only:
    test data without masks, or training data that the config still names). RLE masks are loaded as bitmasks.

    With ``mapper.all_bands`` the model gets the images' channels, see `adapt_bands`.

    Where test and training data have other classes, own test data are an error; without them the config's
    own test data are not meant, and evaluation is switched off, with a warning (of classification that is an
    error too).

    Unless test data are given too, evaluation of a classifier that trains on a registered name is on the test
    or validation part of that name, and that of pre-training follows the training data: of own photos, or
    names that an override gives, it takes the validation part of that name, else a share that training leaves
    out (``pretrain_dataset(held_out=...)``).

    Args:
        cfg: with overrides applied. One without such a dataset is returned as it is.
        overrides: those of the command line, which may not contradict the data.
        eval_only: only the test data will be used.

    Returns:
        a changed copy, which may be saved: it needs no second adaptation, nor minds one.

    Raises:
        UserError: an override of a number of classes contradicts the data; own labels to train on come
            without a number; those for training and test differ; a json or a folder is not there; or
            eval_only, and the test data are not those that belong to the training data.
        AnnotationError: a json cannot be used, or those for training and test differ in their classes.
    """
    for dataset, adapt in (
        (detection_dataset, _adapt_detection),
        (semantic_dataset, _adapt_semantic),
        (classification_dataset, _adapt_classification),
        (pretrain_dataset, _adapt_pretraining),
    ):
        if any(dataset_node(cfg, split, dataset) for split in ("train", "test")):
            cfg = copy.deepcopy(cfg)
            train, test = (dataset_node(cfg, split, dataset) for split in ("train", "test"))
            adapt(cfg, train, test, overrides, eval_only)
            adapt_bands(cfg, [key for key in BANDS for o in overrides if _sets(o, key)])
    return cfg


# --- any task


def dataset_node(cfg: DictConfig, split: str, function: Callable[..., Any]) -> DictConfig | None:
    """``dataloader.SPLIT.dataset`` where it is a call of the function."""
    node = OmegaConf.select(cfg, f"dataloader.{split}.dataset")
    if not isinstance(node, DictConfig) or "_target_" not in node:
        return None
    target = locate(node._target_) if isinstance(node._target_, str) else node._target_
    return node if target is function else None


def _names_of(data: DictConfig) -> tuple[str, ...]:
    """The registered datasets that a dataset node names."""
    names = data.get("names") or ()
    return (names,) if isinstance(names, str) else tuple(names)


def _name(data: DictConfig) -> str:
    """For messages: the own data, or the registered names."""
    own = data.get("json") or data.get("images") or data.get("root")
    return str(own or ", ".join(_names_of(data)))


def _registered_classes(data: DictConfig, key: str) -> tuple[str, ...] | None:
    """Of the first registered name; None where they are known only once it is loaded."""
    first = next(iter(_names_of(data)), "")
    # Not MetadataCatalog.get, which would make metadata for any name.
    classes = MetadataCatalog.get(first).get(key) if first in MetadataCatalog else None
    return None if classes is None else tuple(classes)


def set_num_classes(
    cfg: DictConfig, count: int, source: str, overrides: Sequence[str] = ()
) -> None:
    """Makes every number of classes in ``cfg.model``, which is changed, that of the data.

    Raises:
        UserError: one of the overrides of the command line says another number.
    """
    for key, before in _numbers_of_classes(cfg):
        if before == count:
            continue
        if any(_sets(override, key) for override in overrides):
            raise UserError(
                f"{key}={before} contradicts {source}, which has {count} classes: leave it out, the "
                "number follows the data"
            )
        OmegaConf.update(cfg, key, count)
        logger.info("%s: %s -> %d, the classes of %s", key, before, count, source)


def _without_evaluation(cfg: DictConfig, train: str, test: str, remedy: str) -> None:
    """Switches evaluation off, with a warning of the data and the keys that name other test data."""
    if cfg.train.eval_period > 0:
        logger.warning(
            "NO EVALUATION: %s has other classes than %s, on which this run trains. To evaluate set %s, "
            "or later use --eval-only",
            *(test, train, remedy),
        )
    cfg.train.eval_period = 0


def _numbers_of_classes(cfg: DictConfig) -> list[tuple[str, int]]:
    """Full names and values of the model's keys ``num_classes``; not of those that refer to another key."""
    found: list[tuple[str, int]] = []
    waiting: list[tuple[str, Any]] = [("model", OmegaConf.to_container(cfg.model, resolve=False))]
    while waiting:
        name, node = waiting.pop()
        for key, child in node.items() if isinstance(node, dict) else enumerate(node):
            if key == "num_classes" and isinstance(child, int):
                found.append((f"{name}.{key}", child))
            elif isinstance(child, dict | list):
                waiting.append((f"{name}.{key}", child))
    return found


def _sets(override: str, key: str) -> bool:
    """Whether an override sets a key, by its name or as part of ``parent={child: value}``."""
    name, _, value = override.partition("=")
    name = name.strip()
    return name == key or (key.startswith(f"{name}.") and key.rpartition(".")[2] in value)


@contextmanager
def naming(part: str, otherwise: str = "") -> Iterator[None]:
    """Errors of the data of a config's part, in which ``dataset.KEY`` gets its full name.

    Args:
        part: such as ``dataloader.test``.
        otherwise: what else would help, to end the message with.
    """
    try:
        yield
    except UserError as error:
        if len(error.args) == 1 and isinstance(error.args[0], str):
            text = re.sub(r"(?<![\w.])dataset\.(?=\w)", f"{part}.dataset.", error.args[0])
            error.args = (f"{text}\n  {otherwise}" if otherwise else text,)
        raise


def data_name(cfg: DictConfig, part: str) -> str:
    """What the data of a config's part are called where results are told.

    Args:
        part: such as ``dataloader.test``.

    Returns:
        own data as they were given, or registered names; "" for what says neither.
    """
    data = OmegaConf.select(cfg, f"{part}.dataset")
    if not isinstance(data, DictConfig):
        return ""
    own = data.get("json") or data.get("images") or data.get("root")
    split = next((data[key] for key in ("split", "query_split", "bank_split") if data.get(key)), "")
    if split and (own or not _names_of(data)):  # folders of classes
        return os.path.join(str(own or "imagenet"), str(split))
    return f"{own or ', '.join(_names_of(data))}{' (held out)' if data.get('held_out') else ''}"


# --- pre-training


def _adapt_pretraining(
    cfg: DictConfig, train: _Node, test: _Node, overrides: Sequence[str], eval_only: bool
) -> None:
    if train is None or test is None or "held_out" in train:
        return
    if not eval_only and ("evaluator" not in cfg.dataloader or cfg.train.eval_period <= 0):
        return
    own = train.get("root") is not None
    if test.get("root") is not None or not (own or _named(overrides, "train")):
        return
    if _named(overrides, "test"):
        train.held_out = None  # decided, for whoever adapts the saved config
        return
    names = _names_of(train)
    validation = "" if own or not names else re.sub("_train$", "_val", names[0])
    if validation in DatasetCatalog and validation != names[0]:
        test.names = [validation]
        logger.info("evaluation follows the training data: on %s", validation)
        return
    for key in ("names", "root", "image_root", "format", "split"):
        if key in train:
            test[key] = train[key]
    train.held_out, test.held_out = False, True
    mapper = cfg.dataloader.test.get("mapper")
    if not OmegaConf.is_interpolation(cfg.dataloader.test, "mapper") and "regions" in (
        mapper or {}
    ):
        mapper.regions = copy.deepcopy(cfg.dataloader.train.mapper.get("regions"))
    logger.info(
        "evaluation follows the training data: on a tenth of %s (at most 1000 images, those whose names have "
        "the smallest SHA-256), which %s. Other data: dataloader.test.dataset.root",
        _name(train),
        "a run that was not evaluated has trained on" if eval_only else "training leaves out",
    )


def _named(overrides: Sequence[str], split: str) -> bool:
    """Whether the command line says which images are those of a split."""
    keys = [f"dataloader.{split}.dataset.{key}" for key in ("names", "root")]
    return any(_sets(override, key) for override in overrides for key in keys)


# --- detection


def _adapt_detection(
    cfg: DictConfig, train: _Node, test: _Node, overrides: Sequence[str], eval_only: bool
) -> None:
    _settle_own_data(train, test, overrides, eval_only)
    if train is not None and test is not None and (eval_only or "evaluator" in cfg.dataloader):
        _check_classes(cfg, train, test, eval_only)
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
        # Detectron2's mapper fails on an RLE where polygons are expected; polygons it draws where need be.
        mapper = OmegaConf.select(cfg, "dataloader.train.mapper") or {}
        if mapper.get("use_instance_mask"):
            mapper["instance_mask_format"] = "bitmask"


def _settle_own_data(train: _Node, test: _Node, overrides: Sequence[str], eval_only: bool) -> None:
    """Makes own data one text, ``json``, with their split; evaluation follows those for training."""
    for node, split in ((train, "train"), (test, "val")):
        if node is None or not _is_own_detection(node):
            continue
        text, root = own_labels(*(node.get(key) for key in ("json", "root", "format", "split")))
        address = address_of(str(text))
        if eval_only and node is train and not exists(address.path):
            continue
        splits = splits_of(address)
        if node is train and address.split is None:
            _follow(test, address, [name for name in ("val", "test") if name in splits], overrides)
        if address.split is None and split in splits:
            address = address._replace(split=split)
        node.json, node.root = located(str(address)), root
        for key in ("format", "split"):
            if key in node:
                node[key] = None


def _follow(test: _Node, address: Address, splits: Sequence[str], overrides: Sequence[str]) -> None:
    """Without test data evaluates on the first of the training data's splits."""
    if test is None or not splits or _is_own_detection(test) or _named(overrides, "test"):
        return
    test.json = located(str(address._replace(split=splits[0])))
    logger.info("evaluation follows the training data: on %s", test.json)


def _is_own_detection(data: DictConfig) -> bool:
    return data.get("json") is not None or data.get("root") is not None


def _is_there(json: str) -> bool:
    return exists(address_of(json).path)


def _classes(data: DictConfig) -> tuple[str, ...] | None:
    """In the model's order; None where they are not known yet."""
    if data.get("json"):
        return json_facts(data.json).classes
    return _registered_classes(data, "thing_classes")


def _has_masks(data: DictConfig) -> bool:
    """Whether masks are to be had, and wanted; registered datasets are taken to have them."""
    if data.get("masks") is False:
        return False
    json = data.get("json")
    # With eval_only the json for training need not be there.
    return not json or not _is_there(json) or json_facts(json).has_masks


def _check_classes(cfg: DictConfig, train: DictConfig, test: DictConfig, eval_only: bool) -> None:
    """Own data whose classes differ are refused; the config's own test data are then not evaluated on."""
    json = train.get("json")
    # With eval_only a json for training that is no longer there says nothing, and names are not meant.
    if eval_only and not (json and _is_there(json)):
        return
    classes, tested = _classes(train), _classes(test)
    if classes is None or tested is None or classes == tested:
        return
    if json and test.get("json"):
        check_same_classes(json, test.json)
    if eval_only:
        raise UserError(
            f"--eval-only would evaluate on {_name(test)}, whose classes are not those of {json}: set "
            "dataloader.test.dataset.root, or json and root"
        )
    if test.get("json"):
        raise UserError(
            f"{_name(test)} has {len(tested)} classes, which are not the {len(classes)} of {_name(train)}: "
            "set dataloader.train.dataset.json too"
        )
    keys = "dataloader.test.dataset.json and dataloader.test.dataset.root"
    _without_evaluation(cfg, _name(train), _name(test), keys)


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


def _fit_federated_loss(cfg: DictConfig, data: DictConfig, classes: Sequence[str] | None) -> None:
    """LVIS's recipes on other data: class weights of those, and no more classes per batch than there are."""
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


# --- semantic segmentation


def _adapt_semantic(
    cfg: DictConfig, train: _Node, test: _Node, overrides: Sequence[str], eval_only: bool
) -> None:
    lead, other = (test, train) if eval_only else (train, test)
    if lead is None:
        return
    count = _known_number(lead)
    if count is None and other is not None and _is_own(other):
        count = _known_number(other)
    if count is None:
        count = lead.get("num_classes")
        # Own data to train on need a number: the recipe's would be that of its own dataset.
        borrowed = _is_own(lead) and count is not None and count == _registered_number(lead)
        keys = [key for key, _ in _numbers_of_classes(cfg)]
        if borrowed and not eval_only and not any(_sets(o, key) for o in overrides for key in keys):
            raise UserError(
                f"the number of classes of {_name(lead)} is not known: set "
                f"dataloader.train.dataset.num_classes=N (the config's {count} are those of "
                f"{', '.join(_names_of(lead))})"
            )
    if count is None:
        return
    set_num_classes(cfg, count, _name(lead), overrides)
    others = None if other is None else _known_number(other)
    if other is None or others in (None, count):
        return
    if eval_only:
        if _is_own(other):
            raise UserError(
                f"--eval-only would evaluate on {_name(lead)}, which has {count} classes, and "
                f"{_name(other)}, the training data, {others}: set dataloader.test.dataset.images "
                "and labels, and one num_classes"
            )
    elif "evaluator" in cfg.dataloader and _is_own(other):
        remedy = "set dataloader.train.dataset.images and labels too"
        if _is_own(lead):
            remedy = "give both the same num_classes, or leave out one of them"
        raise UserError(
            f"{_name(other)} has {others} classes, {_name(lead)}, the training data, "
            f"{count}: {remedy}"
        )
    elif "evaluator" in cfg.dataloader:
        remedy = "dataloader.test.dataset.images and dataloader.test.dataset.labels"
        _without_evaluation(cfg, _name(lead), _name(other), remedy)


def follow_own_labels(cfg: DictConfig, overrides: Sequence[str]) -> None:
    """For prediction: the number of classes that own data of a ``semantic_dataset`` have, in the model."""
    for split in ("test", "train"):
        data = dataset_node(cfg, split, semantic_dataset)
        if data is not None and _is_own(data) and (count := _known_number(data)) is not None:
            set_num_classes(cfg, count, _name(data), overrides)
            return


def _is_own(data: DictConfig) -> bool:
    return data.get("images") is not None


def _known_number(data: DictConfig) -> int | None:
    """What the data have by themselves: own data's literal number, or the count of registered names."""
    if _is_own(data):
        raw: Any = OmegaConf.to_container(data, resolve=False)
        return raw["num_classes"] if isinstance(raw.get("num_classes"), int) else None
    return _registered_number(data)


def _registered_number(data: DictConfig) -> int | None:
    return len(_registered_classes(data, "stuff_classes") or ()) or None


# --- classification


def _adapt_classification(
    cfg: DictConfig, train: _Node, test: _Node, overrides: Sequence[str], eval_only: bool
) -> None:
    lead = test if eval_only else train
    if lead is None:
        return
    if train is not None and test is not None:
        _test_on_other_split(train, test)
    if train is not None and test is not None and _labels_of(train) != _labels_of(test):
        # What is not used need not be there.
        compared = "evaluator" in cfg.dataloader and cfg.train.eval_period > 0
        if eval_only:
            compared = train.get("root") is not None and os.path.isdir(_class_folder(train))
        # Names give classes their numbers, so both must have the same.
        trained, tested = (
            (_class_list(train, "train"), _class_list(test, "test")) if compared else ([], [])
        )
        if trained != tested:
            odd = sorted(set(trained) ^ set(tested))
            raise UserError(
                f"{_class_folder(train)}, for training, has {len(trained)} classes, "
                f"{_class_folder(test)}, for testing, {len(tested)}; only one of them has "
                f"{', '.join(odd[:5])}: set dataloader.{{train,test}}.dataset.root or names to data of the "
                "same classes"
            )
    if _labels_of(lead) != (None, ()):
        count = len(_class_list(lead, "test" if eval_only else "train"))
        set_num_classes(cfg, count, _class_folder(lead), overrides)


def _labels_of(data: DictConfig) -> tuple[str | None, tuple[str, ...]]:
    """Own root, or registered names, as in ``classification_dataset``; neither is ImageNet."""
    root = data.get("root")
    return root, () if root is not None else _names_of(data)


def _test_on_other_split(train: DictConfig, test: DictConfig) -> None:
    """Where training has names and testing nothing: on the test or validation split of the first name."""
    if not _labels_of(train)[1] or _labels_of(test) != (None, ()):
        return
    name = _names_of(train)[0]
    for split in ("_test", "_val"):
        other = re.sub("_train$", split, name)
        if other != name and other in DatasetCatalog:
            test.names = other
            logger.info("evaluation follows the training data: on %s", other)
            return


def _class_list(data: DictConfig, part: str) -> list[str]:
    with naming(f"dataloader.{part}"):
        return class_names(data.get("root"), _numbering_split(data), _names_of(data))


def _numbering_split(data: DictConfig) -> str:
    """The split whose folders number the classes, as in ``classification_dataset``."""
    split, reference = (data.get(key, "train") or "" for key in ("split", "classes_from"))
    root = data.get("root")
    if root is None or os.path.isdir(os.path.join(os.path.expanduser(root), reference)):
        return str(reference)
    return str(split)


def _class_folder(data: DictConfig) -> str:
    """For messages."""
    if names := _labels_of(data)[1]:
        return ", ".join(names)
    return os.path.join(str(data.get("root") or "imagenet"), _numbering_split(data)).rstrip("/")
