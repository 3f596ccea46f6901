"""Region maps as data: sources, records, their cache and their store. Needs only numpy; never Detectron2.

The function `felzenszwalb` stays in its module, whose name it would otherwise hide here.
"""

from typing import Any

from ..moved import moved_name
from .record.masks import pack_bits, patch_coverage, unpack_bits
from .record.record import EncodedRecord, RegionRecord, RegionTable
from .sources.annotations import InstanceSource, PanopticSource
from .sources.blind import is_blind, regions_of
from .sources.detections import DetectionSource
from .sources.felzenszwalb import FelzenszwalbSource, RegionCache
from .sources.mixture import MixtureOfSources
from .sources.nested import NestedSource
from .sources.npy import NpySource
from .sources.sam import SamSource
from .sources.sam_json import SamJsonSource
from .sources.stored import StoredRegions
from .store.shards import ShardHeader, ShardWriter
from .store.store import RegionStore, write_index

__all__ = [
    "DetectionSource",
    "EncodedRecord",
    "FelzenszwalbSource",
    "InstanceSource",
    "MixtureOfSources",
    "NpySource",
    "PanopticSource",
    "NestedSource",
    "RegionCache",
    "RegionRecord",
    "RegionStore",
    "RegionTable",
    "SamJsonSource",
    "SamSource",
    "ShardHeader",
    "ShardWriter",
    "StoredRegions",
    "is_blind",
    "pack_bits",
    "patch_coverage",
    "regions_of",
    "unpack_bits",
    "write_index",
]


def __getattr__(name: str) -> Any:
    return moved_name(__name__, name)
