"""Strict overrides of a LazyConfig from the command line.

Detectron2's own `LazyConfig.apply_overrides` creates unknown keys and accepts values of any type, so
`trian.max_iter=3` silently trains the default schedule. Here, both are errors.
"""

import collections.abc
import contextlib
import copy
import inspect
import re
import types
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Union, get_args, get_origin

import yaml
from detectron2.utils.registry import locate
from omegaconf import DictConfig, ListConfig, OmegaConf, open_dict
from omegaconf.errors import OmegaConfBaseException

from ..errors import UserError, did_you_mean
from .ranges import check_ranges

Node = DictConfig | ListConfig
_SCALARS: dict[Any, str] = {bool: "bool", int: "int", float: "float", str: "str"}
_CLEARABLE = {"null", "str", "list", "dict", "object", "scalar"}  # kinds of keys that accept null


def apply_overrides(cfg: DictConfig, overrides: Sequence[str]) -> DictConfig:
    """Apply "a.b.c=value" overrides in order, refusing unknown keys and wrong types.

    Known keys are those of the config, list elements by index and, below a `_target_`, also the keyword
    parameters of its callable. A value is YAML as OmegaConf reads it (1e-4 is a float) and must have the
    type of the value it replaces. Text keys take it literally; where either text or a part is allowed, only
    a value in brackets is not text ("holiday: 2017" is). null switches a part off, "{a: 1}" changes these
    keys of a part, and "{_target_: x.Y, a: 1}" replaces the part.

    Returns:
        A changed copy.

    Raises:
        UserError: with one line per bad override, or per number in the config that is out of range.
    """
    cfg = copy.deepcopy(cfg)
    errors = []
    for text in join_spaced(overrides):
        try:
            name, raw = split_override(text)
            _override(cfg, name, _parse(raw), raw)
        except UserError as error:
            errors.append(str(error))
        except OmegaConfBaseException as error:  # a malformed or dangling reference
            errors.append(f"{text}: {str(error).splitlines()[0]}")
    if errors:
        raise UserError("\n".join(errors))
    check_ranges(OmegaConf.to_container(cfg))
    return cfg


class _NotYaml(str):
    """A value that is not YAML: allowed for text keys only, where it is taken literally."""


_UNKNOWN = object()  # the value of a key that is unset or whose reference does not resolve


def join_spaced(overrides: Sequence[str]) -> list[str]:
    """Undo the shell's splitting of "a = 1" and "a =1"."""
    joined: list[str] = []
    open_equals = False  # the last item ends in an "=" that stood alone
    for text in overrides:
        after_key = bool(joined) and "=" not in joined[-1] and text.startswith("=")
        if after_key or (open_equals and not text.startswith("--")):
            joined[-1] += text
            open_equals = after_key and text == "="
        else:
            joined.append(text)
            open_equals = False
    return joined


def split_override(text: str) -> tuple[str, str]:
    """Split an override into key and value, with indices in the key as ``.0``; UserError if malformed."""
    name, equals, raw = (part.strip() for part in text.partition("="))
    if text.startswith("-") or not (name and equals):
        raise UserError(f"{text}: overrides are key=value, and flags go before them")
    return re.sub(r"\[(\d+)\]", r".\1", name), raw


def _parse(raw: str) -> Any:
    try:
        holder = OmegaConf.from_dotlist([f"value={raw}"])
    except yaml.YAMLError:
        return _NotYaml(raw)
    return OmegaConf.to_container(holder, resolve=False)["value"]  # type: ignore[call-overload,index]


def _override(cfg: DictConfig, name: str, value: Any, raw: str | None) -> None:
    """Set one key; `raw` is the value's text, if it was given as text."""
    found = _find(cfg, name)
    if found is None:
        raise UserError(f"{name}: unknown key; {did_you_mean(name, known_keys(cfg))}")
    node, key = found
    if key == "_target_":
        _check_targets(name, {key: value})
        node[key] = value
        return
    current = _read(node, key)
    kinds = _kinds(node, key, current)
    in_brackets = raw is None or raw[:1] in ("{", "[")
    if isinstance(value, Mapping | list) and not in_brackets and kinds & {"str", "any"}:
        value = raw  # YAML would interpret a colon, or a leading dash
    if isinstance(value, Mapping) and kinds & {"dict", "object", "any"}:
        _override_part(cfg, name, value, node, key, current)
        return
    try:
        if isinstance(value, str) and "${" in value:
            _set(node, key, value)
            resolved = node[key]
            _convert(resolved, str(resolved), kinds, current)
        else:
            _set(node, key, _convert(value, raw, kinds, current))
    except TypeError:
        raise _type_error(name, value, raw, kinds, current) from None
    _check_targets(name, value)


def _override_part(
    cfg: DictConfig, name: str, value: Mapping[Any, Any], node: Node, key: Any, current: Any
) -> None:
    """Merge a mapping into a part, or replace the part if the mapping has a `_target_`."""
    _check_targets(name, value)
    if "_target_" in value:
        _set(node, key, {"_target_": value["_target_"]})
    elif not isinstance(current, DictConfig) or not current:  # an empty dict is open to any key
        if _kinds_of_value(current) == {"object"}:
            raise _type_error(name, value, None, {"object"}, current)
        _set(node, key, value)
        return
    elif OmegaConf.is_interpolation(node, key):  # type: ignore[arg-type]
        raise UserError(f"{name} refers to another key: override that one")
    errors = []
    for child, child_value in value.items():
        try:
            _override(cfg, f"{name}.{child}", child_value, None)
        except UserError as error:
            errors.append(str(error))
    if errors:
        raise UserError("\n".join(errors))


def _set(node: Node, key: Any, value: Any) -> None:
    with open_dict(node):  # a struct flag must not refuse the parameters of a `_target_`
        node[key] = value


# ---------------------------------------------------------------- keys


def _own_keys(node: Node) -> list[Any]:
    return list(range(len(node))) if isinstance(node, ListConfig) else list(node.keys())


def _children(node: Node) -> dict[str, Any]:
    """What can be set below a node, by name: its keys and its `_target_`'s parameters."""
    return {str(key): key for key in (*_parameters(node), *_own_keys(node))}


def _read(node: Node, key: Any) -> Any:
    """The value of a key, with references resolved; None if it is "???"."""
    if OmegaConf.is_missing(node, key):
        return None
    try:
        return node[key]
    except OmegaConfBaseException:
        return _UNKNOWN


def _branch(node: Node, key: Any) -> Node | None:
    """The node stored at a key itself; what a reference points to is overridden at its own key."""
    value = _read(node, key)
    if not isinstance(value, Node) or OmegaConf.is_interpolation(node, key):
        return None
    return value


def _find(node: Node, name: str) -> tuple[Node, Any] | None:
    """The node and key that a dotted name refers to, even if keys themselves contain dots."""
    for text, key in _children(node).items():
        if name == text:
            return node, key
        branch = _branch(node, key) if name.startswith(text + ".") else None
        found = _find(branch, name[len(text) + 1 :]) if branch is not None else None
        if found is not None:
            return found
    return None


def known_keys(cfg: DictConfig) -> set[str]:
    """All dotted names that an override can set."""
    return {name for name, _ in _walk(cfg)}


def lost_targets(content: Any, name: str = "") -> list[str]:
    """The parts of a config's plain dicts and lists whose `_target_` cannot be imported.

    A saved lambda is one example.
    """
    lost = []
    if isinstance(content, list):
        content = dict(enumerate(content))
    for key, value in content.items() if isinstance(content, dict) else ():
        child = f"{name}.{key}" if name else str(key)
        if key == "_target_" and _locate(value) is None:
            lost.append(child)
        lost += lost_targets(value, child)
    return lost


def _walk(node: Node, prefix: str = "") -> Iterator[tuple[str, Any]]:
    """Yield every known key with its value."""
    for text, key in _children(node).items():
        yield prefix + text, _read(node, key)
        if (branch := _branch(node, key)) is not None:
            yield from _walk(branch, f"{prefix}{text}.")


def _locate(target: Any) -> Callable[..., Any] | None:
    if isinstance(target, str):
        try:
            target = locate(target) if "." in target else None
        except Exception:  # importing may raise anything
            return None
    return target if callable(target) else None


def _parameters(node: Node) -> Mapping[str, inspect.Parameter]:
    """The keyword parameters of a node's `_target_`."""
    is_call = isinstance(node, DictConfig) and "_target_" in node
    target = _locate(_read(node, "_target_")) if is_call else None
    if target is None:
        return {}
    try:
        signature = inspect.signature(target)
        with contextlib.suppress(Exception):  # annotations may need type-checking imports
            signature = inspect.signature(target, eval_str=True)
    except (TypeError, ValueError):  # builtins without one
        return {}
    settable = (inspect.Parameter.POSITIONAL_OR_KEYWORD, inspect.Parameter.KEYWORD_ONLY)
    return {name: p for name, p in signature.parameters.items() if p.kind in settable}


def _check_targets(name: str, value: Any) -> None:
    """Raise UserError if a `_target_` in a new value is not callable."""
    if isinstance(value, Mapping):
        if "_target_" in value and _locate(value["_target_"]) is None:
            raise UserError(
                f"{name}: _target_ {value['_target_']!r} is not the dotted name of a class or "
                "function that can be imported"
            )
        value = value.values()
    elif not isinstance(value, list):
        return
    for element in value:
        _check_targets(name, element)


# ---------------------------------------------------------------- types


def _kinds(node: Node, key: Any, current: Any) -> set[str]:
    """The kinds of value that a key accepts: that of its current value, and what its `_target_` declares."""
    parameter = _parameters(node).get(key)
    declared = _kinds_of_parameter(parameter) if parameter else {"any"}
    if key not in _own_keys(node):
        return declared
    if current is None:
        return declared
    return _kinds_of_value(current) | (declared - {"any"})


def _kinds_of_value(value: Any) -> set[str]:
    if value is None:
        return {"any"}
    if value is _UNKNOWN:
        return {"scalar"}
    if isinstance(value, Mapping | DictConfig):
        return {"dict"}
    if isinstance(value, list | tuple | ListConfig):
        return {"list"}
    return {next((kind for type_, kind in _SCALARS.items() if isinstance(value, type_)), "object")}


def _kinds_of_parameter(parameter: inspect.Parameter) -> set[str]:
    kinds = {"null"} if parameter.default is None else set()
    if parameter.annotation is not inspect.Parameter.empty:
        return kinds | _kinds_of_annotation(parameter.annotation)
    default = _kinds_of_value(parameter.default)
    return kinds | (default if default <= set(_SCALARS.values()) else {"any"})


def _kinds_of_annotation(annotation: Any) -> set[str]:
    if annotation is None or annotation is type(None):
        return {"null"}
    if annotation in (bool, int, float, str):
        return {_SCALARS[annotation]}
    if annotation is Path:
        return {"str"}
    origin = get_origin(annotation) or annotation
    if origin in (Union, types.UnionType):
        return set().union(*map(_kinds_of_annotation, get_args(annotation)))
    if isinstance(origin, type) and issubclass(origin, collections.abc.Mapping):
        return {"dict"}
    if isinstance(origin, type) and issubclass(origin, collections.abc.Sequence):
        return {"list"}
    return {"any"}


def _convert(value: Any, raw: str | None, kinds: set[str], current: Any) -> Any:
    """Convert the value to one of `kinds`; TypeError if it is none of them."""
    plain = not isinstance(value, _NotYaml) and raw != ""
    if plain and "any" in kinds:
        return value
    if plain and value is None and kinds & _CLEARABLE:
        return None
    if isinstance(value, bool):
        literal = raw is None or raw.lower() in ("true", "false")  # not YAML's yes, on
        if "bool" in kinds and literal:
            return value
    elif isinstance(value, int) and "int" in kinds:
        return value
    elif isinstance(value, int | float) and "float" in kinds:
        return float(value)
    elif isinstance(value, float) and "int" in kinds and value.is_integer():  # 1e4
        return int(value)
    if isinstance(value, list | ListConfig) and "list" in kinds:
        elements = _element_kinds(current)
        return [_convert(element, None, elements, None) for element in value]
    if isinstance(value, dict | DictConfig) and "dict" in kinds:
        return value
    if plain and "scalar" in kinds and not isinstance(value, list | dict):
        return value
    if "str" in kinds and isinstance(value, str) and (raw is None or raw[:1] in ("'", '"')):
        return str(value)
    if "str" in kinds and raw is not None:
        return raw
    raise TypeError


def _element_kinds(current: Any) -> set[str]:
    """The kinds that a list's elements accept: any, unless the current ones share a type or are numbers."""
    if not isinstance(current, ListConfig):
        return {"any"}
    kinds = set().union(*(_kinds_of_value(_read(current, i)) for i in range(len(current))))
    return kinds if len(kinds) == 1 or kinds == {"int", "float"} else {"any"}


def _type_error(name: str, value: Any, raw: str | None, kinds: set[str], current: Any) -> UserError:
    texts = {
        "bool": "bool (true or false)",
        "list": "list of " + " or ".join(sorted(_element_kinds(current))),
        "object": "null or {_target_: ...}",
    }
    expected = " or ".join(texts.get(kind, kind) for kind in sorted(kinds))
    if isinstance(value, _NotYaml):
        kind = "invalid YAML"
    else:
        kind = next(iter(_kinds_of_value(value)))
    given = "nothing" if raw == "" else f"{kind} {raw or repr(value)}"
    given = "null" if value is None and raw != "" else given
    now = "unset" if current is _UNKNOWN else repr(current)
    return UserError(f"{name}: expected {expected}, got {given} (now {now[:80]})")
