"""Adapt configs to their data: number of classes, masks or boxes only, what to evaluate on."""

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
    """Change everything that follows from the data in ``dataloader.{train,test}.dataset``.

    Every number of classes in the model is set to that of the data (with eval_only, the test data): of a
    ``json`` or registered name (``detection_dataset``), ``dataset.num_classes`` or a registered name's number
    (``semantic_dataset``), the class folders below the user's own ``root`` or a registered name's classes
    (``classification_dataset``).

    Detection data without masks, or ``dataset.masks=false``, result in a model without a mask head (with
    eval_only: test data without masks, or training data that the config still names). RLE masks are loaded as
    bitmasks.

    With ``mapper.all_bands``, the model gets the images' number of channels, see `adapt_bands`.

    If test and training data have different classes, this is an error for the user's own test data; otherwise
    the config's default test data do not apply, and evaluation is switched off with a warning (for
    classification, this is an error as well).

    Unless test data are given too, a classifier that trains on a registered name is evaluated on the test or
    validation part of that name, and evaluation in pre-training follows the training data: for the user's own
    photos, or names given by an override, it uses the validation part of that name, or else a fraction held
    out from training (``pretrain_dataset(held_out=...)``).

    Args:
        cfg: with overrides applied. A config without such a dataset is returned unchanged.
        overrides: those from the command line, which must not contradict the data.
        eval_only: only the test data will be used.

    Returns:
        a changed copy that may be saved: adapting it again is unnecessary and has no effect.

    Raises:
        UserError: an override of a number of classes contradicts the data; the user's own training labels
            come without a number; the numbers for training and test differ; a json or folder does not exist;
            or, with eval_only, the test data do not belong to the training data.
        AnnotationError: a json cannot be used, or the training and test jsons differ in their classes.
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
    """``dataloader.SPLIT.dataset``, if it is a call of the function."""
    node = OmegaConf.select(cfg, f"dataloader.{split}.dataset")
    if not isinstance(node, DictConfig) or "_target_" not in node:
        return None
    target = locate(node._target_) if isinstance(node._target_, str) else node._target_
    return node if target is function else None


def _names_of(data: DictConfig) -> tuple[str, ...]:
    """The registered datasets named in a dataset node."""
    names = data.get("names") or ()
    return (names,) if isinstance(names, str) else tuple(names)


def _name(data: DictConfig) -> str:
    """The user's own data or the registered names, for messages."""
    own = data.get("json") or data.get("images") or data.get("root")
    return str(own or ", ".join(_names_of(data)))


def _registered_classes(data: DictConfig, key: str) -> tuple[str, ...] | None:
    """Classes of the first registered name; None if they are unknown until it is loaded."""
    first = next(iter(_names_of(data)), "")
    # Not MetadataCatalog.get, which would create metadata for any name.
    classes = MetadataCatalog.get(first).get(key) if first in MetadataCatalog else None
    return None if classes is None else tuple(classes)


def set_num_classes(
    cfg: DictConfig, count: int, source: str, overrides: Sequence[str] = ()
) -> None:
    """Set every number of classes in ``cfg.model``, in place, to that of the data.

    Raises:
        UserError: a command-line override gives another number.
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
    """Switch evaluation off, with a warning that names the data and the keys for other test data."""
    if cfg.train.eval_period > 0:
        logger.warning(
            "NO EVALUATION: %s has other classes than %s, on which this run trains. To evaluate set %s, "
            "or later use --eval-only",
            *(test, train, remedy),
        )
    cfg.train.eval_period = 0


def _numbers_of_classes(cfg: DictConfig) -> list[tuple[str, int]]:
    """Full names and values of the model's ``num_classes`` keys, except those that refer to another key."""
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
    """Expand ``dataset.KEY`` to its full name in errors about the data of a part of the config.

    Args:
        part: such as ``dataloader.test``.
        otherwise: an alternative remedy, appended to the message.
    """
    try:
        yield
    except UserError as error:
        if len(error.args) == 1 and isinstance(error.args[0], str):
            text = re.sub(r"(?<![\w.])dataset\.(?=\w)", f"{part}.dataset.", error.args[0])
            error.args = (f"{text}\n  {otherwise}" if otherwise else text,)
        raise


def data_name(cfg: DictConfig, part: str) -> str:
    """The name of a config part's data, for reporting results.

    Args:
        part: such as ``dataloader.test``.

    Returns:
        the user's own data as given, or registered names; "" if there are neither.
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
        train.held_out = None  # decided, for a later adaptation of the saved config
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
    """Whether the command line specifies the images of a split."""
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
        test.masks = False  # otherwise its loader recommends a model without mask head
    if bare:
        _drop_masks(cfg, bare[0])
    elif data.get("json") and json_facts(data.json).has_rle:
        # Detectron2's mapper fails on RLE where it expects polygons; polygons it rasterizes if needed.
        mapper = OmegaConf.select(cfg, "dataloader.train.mapper") or {}
        if mapper.get("use_instance_mask"):
            mapper["instance_mask_format"] = "bitmask"


def _settle_own_data(train: _Node, test: _Node, overrides: Sequence[str], eval_only: bool) -> None:
    """Merge the user's data and their split into one string, ``json``; evaluation follows training data."""
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
    """Without test data, evaluate on the first of the training data's splits."""
    if test is None or not splits or _is_own_detection(test) or _named(overrides, "test"):
        return
    test.json = located(str(address._replace(split=splits[0])))
    logger.info("evaluation follows the training data: on %s", test.json)


def _is_own_detection(data: DictConfig) -> bool:
    return data.get("json") is not None or data.get("root") is not None


def _is_there(json: str) -> bool:
    return exists(address_of(json).path)


def _classes(data: DictConfig) -> tuple[str, ...] | None:
    """Classes in the model's order; None if they are not known yet."""
    if data.get("json"):
        return json_facts(data.json).classes
    return _registered_classes(data, "thing_classes")


def _has_masks(data: DictConfig) -> bool:
    """Whether masks are available and wanted; registered datasets are assumed to have them."""
    if data.get("masks") is False:
        return False
    json = data.get("json")
    # With eval_only, the training json need not exist.
    return not json or not _is_there(json) or json_facts(json).has_masks


def _check_classes(cfg: DictConfig, train: DictConfig, test: DictConfig, eval_only: bool) -> None:
    """Refuse the user's own data if classes differ; the config's default test data are then not used."""
    json = train.get("json")
    # With eval_only, a training json that no longer exists says nothing, and names do not apply.
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
    """Use boxes only, from the loaders to the model."""
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
    """Fit LVIS recipes to other data: class weights from these, and at most as many classes per batch."""
    heads = OmegaConf.select(cfg, "model.roi_heads") or {}
    for predictor in [heads.get("box_predictor"), *(heads.get("box_predictors") or ())]:
        if predictor is None or not predictor.get("use_fed_loss"):
            continue
        weights = predictor.get("get_fed_loss_cls_weights")
        # In training, they already refer to the training data.
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
        # The user's own training data need a number: the recipe's would be that of its own dataset.
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
    """For prediction: set the model to the number of classes of the user's ``semantic_dataset``."""
    for split in ("test", "train"):
        data = dataset_node(cfg, split, semantic_dataset)
        if data is not None and _is_own(data) and (count := _known_number(data)) is not None:
            set_num_classes(cfg, count, _name(data), overrides)
            return


def _is_own(data: DictConfig) -> bool:
    return data.get("images") is not None


def _known_number(data: DictConfig) -> int | None:
    """The number defined by the data: the literal one of the user's own data, or that of registered names."""
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
        # Data that are not used need not exist.
        compared = "evaluator" in cfg.dataloader and cfg.train.eval_period > 0
        if eval_only:
            compared = train.get("root") is not None and os.path.isdir(_class_folder(train))
        # Names give classes their indices, so both must have the same names.
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
    """The user's own root, or registered names, as in ``classification_dataset``; neither means ImageNet."""
    root = data.get("root")
    return root, () if root is not None else _names_of(data)


def _test_on_other_split(train: DictConfig, test: DictConfig) -> None:
    """If training uses names and testing none, test on the first name's test or validation split."""
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
    """The folder or names, for messages."""
    if names := _labels_of(data)[1]:
        return ", ".join(names)
    return os.path.join(str(data.get("root") or "imagenet"), _numbering_split(data)).rstrip("/")
