"""A run's config.yaml as plain values: read without executing anything, and compared with its base."""

import json
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any

import yaml

from ..config import config_root, load_config
from ..errors import UserError

#: Bytes, values and nesting of a config that is still one.
_MAX_BYTES = 1 << 20
_MAX_VALUES = 10_000
_MAX_DEPTH = 40


class _PlainLoader(yaml.SafeLoader):
    """Reads ``!!python/...`` as text: LazyConfig's own reader would import and call what they name."""


def _plain(loader: yaml.SafeLoader, suffix: str, node: yaml.Node) -> Any:
    suffix = suffix.partition(":")[2] or suffix
    if isinstance(node, yaml.MappingNode):
        return {suffix: loader.construct_mapping(node, deep=True)}
    if isinstance(node, yaml.SequenceNode):
        return loader.construct_sequence(node, deep=True)
    return suffix


_PlainLoader.add_multi_constructor("tag:yaml.org,2002:python/", _plain)


@dataclass(frozen=True)
class Difference:
    """A value that a run has other than its base; None where one of them has no such key."""

    key: str
    base: str | None
    run: str | None


@dataclass(frozen=True)
class RunConfig:
    """A config.yaml.

    Attributes:
        text: as the file has it.
        values: by dotted key; lists of plain values are one value.
    """

    text: str
    values: dict[str, Any]

    def get(self, key: str, default: Any = None) -> Any:
        """A value by its dotted key."""
        return self.values.get(key, default)

    def has(self, part: str) -> bool:
        """Whether there is a part of that dotted name, and it is not null."""
        if part in self.values:
            return self.values[part] is not None
        return any(key.startswith(f"{part}.") for key in self.values)

    def target(self, part: str) -> str:
        """The last name of a part's ``_target_``; empty where it has none."""
        return str(self.get(f"{part}._target_", "")).rpartition(".")[2]


def read_config(path: Path) -> RunConfig | None:
    """Reads a config.yaml; None where there is none.

    Raises:
        UserError: for a file that is no config, or too large for one.
    """
    if not path.is_file():
        return None
    if path.stat().st_size > _MAX_BYTES:
        raise UserError(f"{path}: over {_MAX_BYTES >> 20} MiB, no run's config is that large")
    try:
        text = path.read_text(encoding="utf-8")
        content = yaml.load(text, Loader=_PlainLoader)  # a SafeLoader
    except (yaml.YAMLError, UnicodeDecodeError, RecursionError) as error:
        raise UserError(f"{path}: not YAML ({' '.join(str(error).split())[:200]})") from error
    if not isinstance(content, dict):
        raise UserError(f"{path}: not a config, it has no keys")
    pairs = list(islice(_flatten(content, (), path), _MAX_VALUES + 1))
    if len(pairs) > _MAX_VALUES:
        raise UserError(f"{path}: over {_MAX_VALUES} values, no run's config has as many")
    return RunConfig(text, dict(pairs))


def find_base(name: str) -> Path | None:
    """The package's own config that a command named; None for a file of the user's own.

    Args:
        name: ``--config-file``; may be a path of another machine, of which the end counts.
    """
    parts = Path(name).parts
    if not name.endswith(".py") or ".." in parts:
        return None
    root = config_root()
    # At least a folder and a file: "train.py" could be anybody's.
    for start in range(len(parts) - 1):
        found = root.joinpath(*parts[start:])
        if parts[start] != "/" and found.is_relative_to(root) and found.is_file():
            return found
    return None


def read_base(path: Path) -> RunConfig:
    """A base config as a run would save it, so that the two compare.

    Raises:
        UserError: it does not load, or cannot be saved.
    """
    from detectron2.config import LazyConfig

    with tempfile.TemporaryDirectory() as folder:
        saved = Path(folder) / "config.yaml"
        try:
            LazyConfig.save(load_config(path), str(saved))
        except Exception as error:  # a config file is a program
            raise UserError(f"{path}: {' '.join(str(error).split())[:200]}") from error
        config = read_config(saved)
    if config is None:
        raise UserError(f"{path}: cannot be written as YAML")
    return config


def compare(base: RunConfig, run: RunConfig) -> list[Difference]:
    """What differs, in the order of the keys."""
    keys = sorted({*base.values, *run.values})
    shown = [(key, _shown(base, key), _shown(run, key)) for key in keys]
    return [Difference(*row) for row in shown if row[1] != row[2]]


def _shown(config: RunConfig, key: str) -> str | None:
    if key not in config.values:
        return None
    value = config.values[key]
    return value if isinstance(value, str) and value else json.dumps(value, default=str)


def _flatten(node: Any, path: tuple[str, ...], file: Path) -> Iterator[tuple[str, Any]]:
    if len(path) > _MAX_DEPTH:
        raise UserError(f"{file}: nested deeper than {_MAX_DEPTH}")
    if isinstance(node, dict) and node:
        for key, value in node.items():
            yield from _flatten(value, (*path, str(key)), file)
    elif isinstance(node, list) and any(isinstance(value, dict | list) for value in node):
        for index, value in enumerate(node):
            yield from _flatten(value, (*path, str(index)), file)
    else:
        yield ".".join(path), node
