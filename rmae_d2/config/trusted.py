"""Configs from other people: read only where building the model runs nothing but networks' code.

``load_config`` imports and calls whatever a config names, as a run's owner wants it. A config that came with
weights from a hub is somebody else's.
"""

from pathlib import Path
from pydoc import locate
from typing import Any

import yaml
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from ..errors import UserError
from ..files import read_text
from .load import load_config

#: Where classes and functions that a model is made of are defined.
_HOMES = ("rmae_d2.modeling.", "detectron2.modeling.", "detectron2.layers.", "torch.nn.")
_ALSO = {
    "functools.partial",
    "rmae_d2.checkpoint.load_generator",
    "rmae_d2.checkpoint.load_scorer",
}
_TAG = "tag:yaml.org,2002:python/"


def load_trusted_config(path: str | Path) -> DictConfig:
    """A saved config.yaml whose tags and ``model`` name nothing but parts of networks.

    Raises:
        UserError: it names something else, or is not a config of ours; nothing that it names has been run.
    """
    text = read_text(path)
    try:
        names = _tagged(yaml.compose(text, Loader=yaml.SafeLoader))
        _check(names, path)
        cfg = load_config(path)
        model = OmegaConf.to_container(cfg.model, resolve=True)
    except (yaml.YAMLError, OmegaConfBaseException, AttributeError, RecursionError) as error:
        raise UserError(f"{path}: no config of a model ({' '.join(str(error).split())})") from error
    _check(_targets(model), path)
    return cfg


def _check(names: set[str], path: str | Path) -> None:
    wrong = sorted(name for name in names if not _is_part(name))
    if wrong:
        raise UserError(
            f"{path} names {wrong[0]}, which is not a part of a network: building it could run anything. "
            "If you trust whoever made it, copy the folder and load the copy"
        )


def _is_part(name: str) -> bool:
    if name in _ALSO:
        return True
    if not name.startswith(_HOMES):
        return False
    # What a module imports has a name in it, too: torch.nn.functional.warnings.sys.
    found = locate(name)
    return callable(found) and f"{getattr(found, '__module__', '')}.".startswith(_HOMES)


def _tagged(root: Any) -> set[str]:
    """What the Python tags of a YAML document name; a tag that does not name one is itself in it."""
    names, seen, left = set(), set(), [root]
    while left:
        node = left.pop()
        if node is None or id(node) in seen:
            continue
        seen.add(id(node))
        if node.tag.startswith(_TAG) and node.tag != f"{_TAG}tuple":
            kind, _, name = node.tag.removeprefix(_TAG).partition(":")
            known = kind == "name" or (kind == "object/apply" and name == "functools.partial")
            names.add(name if known else f"!!python/{kind}:{name}")
        if isinstance(node, yaml.SequenceNode):
            left += node.value
        elif isinstance(node, yaml.MappingNode):
            left += [part for pair in node.value for part in pair]
    return names


def _targets(value: Any) -> set[str]:
    """What the ``_target_`` of a plain value's parts name."""
    if isinstance(value, list | tuple):
        return set().union(*map(_targets, value))
    if not isinstance(value, dict):
        return set()
    own = {str(value["_target_"])} if "_target_" in value else set()
    return own.union(*map(_targets, value.values()))
