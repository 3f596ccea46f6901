"""A config as plain values that JSON can hold, and what two of them differ in."""

from collections.abc import Iterator
from typing import Any

from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException


def plain(cfg: DictConfig, resolve: bool = True) -> dict[str, Any]:
    """Dicts, lists and values; classes and functions by their names.

    Args:
        cfg: left as it is.
        resolve: whether references are to be replaced by what they refer to, where there is that.
    """
    try:
        content = OmegaConf.to_container(cfg, resolve=resolve)
    except OmegaConfBaseException:  # refers to nothing, which building it would have told
        content = OmegaConf.to_container(cfg)
    return _named(content)  # type: ignore[no-any-return]


def _named(value: Any) -> Any:
    if isinstance(value, dict):
        return {str(k): _named(v) for k, v in value.items()}
    if isinstance(value, list | tuple):
        return [_named(v) for v in value]
    if value is None or isinstance(value, str | bool | int | float):
        return value
    if hasattr(value, "__qualname__"):
        return f"{value.__module__}.{value.__qualname__}"
    return str(value)


def differences(base: dict[str, Any], run: dict[str, Any]) -> dict[str, dict[str, Any]]:
    """What a run's config has other than the one it was made of.

    Returns:
        dotted key -> ``base`` and ``run``, the values of the two, without that which has no such key.
    """
    sides = {"base": dict(_leaves(base)), "run": dict(_leaves(run))}
    keys = sorted({key for values in sides.values() for key in values})
    found = {key: {n: v[key] for n, v in sides.items() if key in v} for key in keys}
    return {k: v for k, v in found.items() if len(v) < 2 or v["base"] != v["run"]}


def _leaves(node: Any, path: str = "") -> Iterator[tuple[str, Any]]:
    """Values by dotted key; a list of plain values is one value."""
    children: Any = node.items() if isinstance(node, dict) else ()
    if isinstance(node, list) and any(isinstance(value, dict | list) for value in node):
        children = enumerate(node)
    if not children:
        yield path, node
    for key, value in children:
        yield from _leaves(value, f"{path}.{key}" if path else str(key))
