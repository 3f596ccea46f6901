"""What configs of every task share in following their data: finding the dataset, setting class numbers."""

import logging
from collections.abc import Callable, Iterator, Sequence
from typing import Any

from detectron2.utils.registry import locate
from omegaconf import DictConfig, OmegaConf

from ...errors import UserError

logger = logging.getLogger(__name__)


def dataset_node(cfg: DictConfig, split: str, function: Callable[..., Any]) -> DictConfig | None:
    """``dataloader.SPLIT.dataset`` where it is a call of the function."""
    node = OmegaConf.select(cfg, f"dataloader.{split}.dataset")
    if not isinstance(node, DictConfig) or "_target_" not in node:
        return None
    target = locate(node._target_) if isinstance(node._target_, str) else node._target_
    return node if target is function else None


def set_num_classes(
    cfg: DictConfig, count: int, source: str, overrides: Sequence[str] = ()
) -> None:
    """Makes every number of classes in ``cfg.model``, which is changed, that of the data.

    Raises:
        UserError: one of the overrides of the command line says another number.
    """
    model = OmegaConf.to_container(cfg.model, resolve=False)
    for key, before in _numbers_of_classes(model, "model"):
        if before == count:
            continue
        if any(_sets(override, key) for override in overrides):
            raise UserError(
                f"{key}={before} contradicts {source}, which has {count} classes: leave it out, the "
                "number follows the data"
            )
        OmegaConf.update(cfg, key, count)
        logger.info("%s: %s -> %d, the classes of %s", key, before, count, source)


def overridden(cfg: DictConfig, overrides: Sequence[str]) -> bool:
    """Whether the command line says a number of classes of ``cfg.model``."""
    model = OmegaConf.to_container(cfg.model, resolve=False)
    keys = [key for key, _ in _numbers_of_classes(model, "model")]
    return any(_sets(override, key) for override in overrides for key in keys)


def without_evaluation(cfg: DictConfig, train: str, test: str, remedy: str) -> None:
    """Switches evaluation off, with a warning: the config's own test data are not meant.

    Args:
        cfg: changed.
        train: the training data, for the message.
        test: the test data.
        remedy: the keys that name other test data.
    """
    if cfg.train.eval_period > 0:
        logger.warning(
            "NO EVALUATION: %s has other classes than %s, on which this run trains. To evaluate set %s, "
            "or later use --eval-only",
            *(test, train, remedy),
        )
    cfg.train.eval_period = 0


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
