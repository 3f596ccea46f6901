"""Describe a region source and its arguments as text, so that any process can build the same one."""

import importlib
import importlib.util
import json
import os
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import lru_cache
from hashlib import blake2b
from typing import Any

from ...errors import UserError, did_you_mean

#: Names of the built-in sources for `SourceSpec.named`.
SOURCES = {
    "fh": "rmae_d2.regions.sources.felzenszwalb:FelzenszwalbSource",
    "nested": "rmae_d2.regions.sources.nested:NestedSource",
    "slic": "rmae_d2.regions.sources.slic:SlicSource",
    "instances": "rmae_d2.regions.sources.annotations:InstanceSource",
    "panoptic": "rmae_d2.regions.sources.annotations:PanopticSource",
    "detections": "rmae_d2.regions.sources.detections:DetectionSource",
    "sam": "rmae_d2.regions.sources.sam:SamSource",
    "sam-json": "rmae_d2.regions.sources.sam_json:SamJsonSource",
    "npy": "rmae_d2.regions.sources.npy:NpySource",
    "proposals": "rmae_d2.inference.proposals:ProposalSource",
    "features": "rmae_d2.inference.feature_regions:FeatureRegions",
}


@dataclass(frozen=True)
class SourceSpec:
    """How to make a region source, as text that any process understands."""

    target: str  # `package.module:Class` or `/absolute/path/file.py:Class`
    arguments: Mapping[str, Any] = field(default_factory=dict)  # keywords of the class; JSON types

    @classmethod
    def named(cls, name: str, arguments: Mapping[str, Any] | None = None) -> "SourceSpec":
        """Create a spec from a key of `SOURCES` or a target; UserError, with the closest name, if unknown."""
        target = SOURCES.get(name, name)
        place, _, class_name = target.rpartition(":")
        if not place or not class_name:
            raise UserError(
                f"no region source {name!r}: {did_you_mean(name, SOURCES)}. There are "
                f"{', '.join(SOURCES)}, and own classes as package.module:Class or path/to/file.py:Class"
            )
        if place.endswith(".py"):
            target = f"{os.path.abspath(os.path.expanduser(place))}:{class_name}"
        spec = cls(target, arguments or {})
        spec.load()
        return spec

    def load(self) -> Callable[..., Any]:
        """The class; UserError if the module or file does not exist or lacks the class."""
        place, _, class_name = self.target.rpartition(":")
        try:
            module = _load_file(place) if place.endswith(".py") else importlib.import_module(place)
        except Exception as error:  # anything raised by the module's own code
            hint = "" if place.endswith(".py") else "; a file is named as path/to/file.py:Class"
            raise UserError(
                f"the region source {self.target} cannot be imported "
                f"({type(error).__name__}: {error}){hint}"
            ) from error
        found = getattr(module, class_name, None)
        if not callable(found):
            classes = [name for name, value in vars(module).items() if isinstance(value, type)]
            raise UserError(
                f"{place} has no class {class_name}; {did_you_mean(class_name, classes)}"
            )
        return found  # type: ignore[no-any-return]

    def build(self) -> Callable[..., Any]:
        """The source, built once per process: it may hold a network or a data set's annotations."""
        return _built(self.target, json.dumps(dict(self.arguments)))

    def params(self) -> dict[str, Any]:
        """The source's `params`, after a round trip through JSON; UserError if there are none."""
        params = getattr(self.build(), "params", None)
        try:
            if not isinstance(params, Mapping):
                raise TypeError(f"it is {params!r}")
            content: dict[str, Any] = json.loads(json.dumps(params))
        except (TypeError, ValueError) as error:
            raise UserError(
                f"the source {self.target} needs an attribute `params`, a dict of JSON types with "
                f"all that its regions depend on besides the image: {error}"
            ) from error
        return content


@lru_cache(maxsize=1)
def _built(target: str, arguments: str) -> Callable[..., Any]:
    source = SourceSpec(target).load()
    try:
        built: Callable[..., Any] = source(**json.loads(arguments))
    except (OSError, ValueError, TypeError, ImportError) as error:
        raise UserError(f"the region source {target} cannot be built: {error}") from error
    if not callable(built):
        raise UserError(
            f"{target} is not a region source: it needs a method __call__(dataset_dict, image_HWC)"
        )
    return built


def _load_file(path: str) -> Any:
    """The module in a file, loaded once, under a name that makes its classes picklable."""
    name = f"_region_source_{blake2b(path.encode(), digest_size=8).hexdigest()}"
    if name not in sys.modules:
        spec = importlib.util.spec_from_file_location(name, path)
        assert spec is not None and spec.loader is not None  # for any path that ends in .py
        module = importlib.util.module_from_spec(spec)
        sys.modules[name] = module
        try:
            spec.loader.exec_module(module)
        except BaseException:
            del sys.modules[name]
            raise
    return sys.modules[name]
