"""What 0.1 wrote and what its users import still works."""

import importlib
from pathlib import Path

import pytest
from detectron2.utils.registry import locate
from omegaconf import DictConfig, ListConfig

from rmae_d2.config import load_config
from rmae_d2.moved import MODULES, NAMES

CONFIGS = sorted((Path(__file__).parent / "data/configs_of_0.1").glob("*.yaml"))


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
@pytest.mark.parametrize("old", MODULES)
def test_old_modules_are_the_new_ones(old):
    new = importlib.import_module(f"rmae_d2.{MODULES[old]}")
    assert importlib.import_module(f"rmae_d2.{old}") is new
    assert new.__spec__.name == new.__name__ == f"rmae_d2.{MODULES[old]}"


def test_an_old_name_is_the_new_one_and_says_so():
    for package, name in NAMES:
        with pytest.warns(DeprecationWarning, match="goes in 0.3"):
            old = getattr(importlib.import_module(f"rmae_d2.{package}"), name)
        place, _, new = NAMES[package, name].rpartition(".")
        assert old is getattr(importlib.import_module(f"rmae_d2.{place}"), new)
    with pytest.raises(AttributeError, match="no attribute 'nothing'"):
        importlib.import_module("rmae_d2.engine").nothing  # noqa: B018


def targets(node):
    if isinstance(node, DictConfig):
        if "_target_" in node:
            yield node._target_
        for key in node:
            child = node._get_node(key)
            if isinstance(child, DictConfig | ListConfig) and not child._is_interpolation():
                yield from targets(child)
    elif isinstance(node, ListConfig):
        for i in range(len(node)):
            child = node._get_node(i)
            if isinstance(child, DictConfig | ListConfig) and not child._is_interpolation():
                yield from targets(child)


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
@pytest.mark.parametrize("path", CONFIGS, ids=lambda path: path.stem)
def test_all_that_a_config_of_0_1_names_is_found(path):
    found = list(targets(load_config(path)))
    assert len(found) > 5
    for target in found:
        assert callable(locate(target))
