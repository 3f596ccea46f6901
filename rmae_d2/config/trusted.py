"""Configs from other people: loaded only if building the model runs nothing but network code.

``load_config`` imports and calls whatever a config names, which is what the owner of a run wants. A config
that came with weights from a hub was written by somebody else.
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

#: Where the classes and functions that make up models are defined.
_HOMES = ("rmae_d2.modeling.", "detectron2.modeling.", "detectron2.layers.", "torch.nn.")
_ALSO = {
    "functools.partial",
    "rmae_d2.checkpoint.load_generator",
    "rmae_d2.checkpoint.load_scorer",
}
_TAG = "tag:yaml.org,2002:python/"


def load_trusted_config(path: str | Path) -> DictConfig:
    """Load a saved config.yaml whose tags and ``model`` name nothing but parts of networks.

    Raises:
        UserError: it names anything else, or is not one of our configs; nothing it names has been run.
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
    # A module's own imports are reachable through it, too: torch.nn.functional.warnings.sys.
    found = locate(name)
    return callable(found) and f"{getattr(found, '__module__', '')}.".startswith(_HOMES)


def _tagged(root: Any) -> set[str]:
    """The names in a YAML document's Python tags; a tag that names nothing is included as it is."""
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
    """The names in all ``_target_`` entries of a plain value."""
    if isinstance(value, list | tuple):
        return set().union(*map(_targets, value))
    if not isinstance(value, dict):
        return set()
    own = {str(value["_target_"])} if "_target_" in value else set()
    return own.union(*map(_targets, value.values()))
