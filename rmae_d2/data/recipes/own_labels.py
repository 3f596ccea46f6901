"""Configs of semantic segmentation and of classification made to fit their data.

What is changed, and when, is said at :func:`.adapt_to_data`. With eval_only the test
data lead, else the training data.
"""

import os
from collections.abc import Sequence
from typing import Any

from detectron2.data import MetadataCatalog
from omegaconf import DictConfig, OmegaConf

from ...errors import UserError
from ..datasets import class_names, semantic_dataset
from .num_classes import dataset_node, overridden, set_num_classes, without_evaluation


def adapt_semantic(
    cfg: DictConfig,
    train: DictConfig | None,
    test: DictConfig | None,
    overrides: Sequence[str],
    eval_only: bool,
) -> None:
    """Fits a config, which is changed, to what its ``semantic_dataset`` nodes name.

    Raises:
        UserError: numbers of classes that contradict each other, or own training data without one.
    """
    lead, other = (test, train) if eval_only else (train, test)
    if lead is None:
        return
    count = _known_number(lead)
    if count is None and other is not None and _is_own(other):
        count = _known_number(other)
    if count is None:
        count = lead.get("num_classes")
        if not eval_only and not overridden(cfg, overrides):
            _refuse_borrowed_number(lead, count)
    if count is None:
        return
    set_num_classes(cfg, count, _semantic_name(lead), overrides)
    others = None if other is None else _known_number(other)
    if other is None or others in (None, count):
        return
    if eval_only:
        if _is_own(other):
            raise UserError(
                f"--eval-only would evaluate on {_semantic_name(lead)}, which has {count} classes, and "
                f"{_semantic_name(other)}, the training data, {others}: set dataloader.test.dataset.images "
                "and labels, and one num_classes"
            )
    elif "evaluator" in cfg.dataloader and _is_own(other):
        remedy = (
            "give both the same num_classes, or leave out one of them"
            if _is_own(lead)
            else "set dataloader.train.dataset.images and labels too"
        )
        raise UserError(
            f"{_semantic_name(other)} has {others} classes, {_semantic_name(lead)}, the training data, "
            f"{count}: {remedy}"
        )
    elif "evaluator" in cfg.dataloader:
        without_evaluation(
            *(cfg, _semantic_name(lead), _semantic_name(other)),
            "dataloader.test.dataset.images and dataloader.test.dataset.labels",
        )


def _refuse_borrowed_number(data: DictConfig, count: int | None) -> None:
    """For own data to train on, without a number: the recipe's would be that of its own dataset.

    Raises:
        UserError: it is.
    """
    names = data.get("names") or ()
    if _is_own(data) and count is not None and count == _registered_number(names):
        raise UserError(
            f"how many classes has {_semantic_name(data)}? Set dataloader.train.dataset.num_classes=N (the "
            f"config's {count} are those of {names if isinstance(names, str) else ', '.join(names)})"
        )


def follow_own_labels(cfg: DictConfig, overrides: Sequence[str]) -> None:
    """For prediction: the number of classes that own data of a ``semantic_dataset`` are given, in the model.

    Raises:
        UserError: an override says another number.
    """
    for split in ("test", "train"):
        data = dataset_node(cfg, split, semantic_dataset)
        count = None if data is None or not _is_own(data) else _known_number(data)
        if data is not None and count is not None:
            set_num_classes(cfg, count, _semantic_name(data), overrides)
            return


def _is_own(data: DictConfig) -> bool:
    return data.get("images") is not None


def _known_number(data: DictConfig) -> int | None:
    """What the data have by themselves: own data's literal number, or the count of registered names."""
    if _is_own(data):
        raw: Any = OmegaConf.to_container(data, resolve=False)
        return raw["num_classes"] if isinstance(raw.get("num_classes"), int) else None
    return _registered_number(data.get("names") or ())


def _registered_number(names: str | Sequence[str]) -> int | None:
    first = names if isinstance(names, str) else next(iter(names), "")
    # Not MetadataCatalog.get, which would make metadata for any name.
    classes = MetadataCatalog.get(first).get("stuff_classes") if first in MetadataCatalog else None
    return len(classes) if classes else None


def _semantic_name(data: DictConfig) -> str:
    """For messages."""
    if _is_own(data):
        return str(data.images)
    names = data.get("names") or ()
    return names if isinstance(names, str) else ", ".join(names)


def adapt_classification(
    cfg: DictConfig,
    train: DictConfig | None,
    test: DictConfig | None,
    overrides: Sequence[str],
    eval_only: bool,
) -> None:
    """Fits a config, which is changed, to what its ``classification_dataset`` nodes name.

    Raises:
        UserError: numbers or names of classes that contradict each other.
        UserError: there are no class folders.
    """
    lead = test if eval_only else train
    if lead is None:
        return
    if train is not None and test is not None and train.get("root") != test.get("root"):
        # What is not used need not be there.
        if eval_only:
            compared = train.get("root") is not None and os.path.isdir(_class_folder(train))
        else:
            compared = "evaluator" in cfg.dataloader and cfg.train.eval_period > 0
        if compared:
            _check_same_folders(train, test)
    if lead.get("root") is not None:
        set_num_classes(cfg, len(_folder_classes(lead)), _class_folder(lead), overrides)


def _check_same_folders(train: DictConfig, test: DictConfig) -> None:
    """Names give classes their numbers, so both must have the same."""
    trained, tested = _folder_classes(train), _folder_classes(test)
    if trained == tested:
        return
    odd = sorted(set(trained) ^ set(tested))
    raise UserError(
        f"{_class_folder(train)}, for training, has {len(trained)} class folders, {_class_folder(test)}, for "
        f"testing, {len(tested)}; only one of them has {', '.join(odd[:5])}: set "
        "dataloader.{train,test}.dataset.root to data of the same classes"
    )


def _folder_classes(data: DictConfig) -> list[str]:
    return class_names(data.get("root"), _numbering_split(data))


def _numbering_split(data: DictConfig) -> str:
    """The split whose folders number the classes, as in ``classification_dataset``."""
    split, reference = (data.get(key, "train") or "" for key in ("split", "classes_from"))
    root = data.get("root")
    if root is None or os.path.isdir(os.path.join(os.path.expanduser(root), reference)):
        return str(reference)
    return str(split)


def _class_folder(data: DictConfig) -> str:
    """For messages."""
    return os.path.join(str(data.get("root") or "imagenet"), _numbering_split(data)).rstrip("/")
