"""Region maps as data: sources, records, their cache and their store. Needs numpy only; never Detectron2.

The function `felzenszwalb` stays in its module, whose name it would hide here.
"""

from .annotations import InstanceSource, PanopticSource
from .cache import RegionCache
from .felzenszwalb import FelzenszwalbSource
from .masks import pack_bits, patch_coverage, unpack_bits
from .mixture import MixtureOfSources
from .npy import NpySource
from .record import EncodedRecord, RecordError, RegionRecord, RegionTable
from .sam import SamSource
from .sam_json import SamJsonSource
from .shards import ShardHeader, ShardWriter
from .store import RegionStore, StoreError, write_index
from .stored import StoredRegions

__all__ = [
    "EncodedRecord",
    "FelzenszwalbSource",
    "InstanceSource",
    "MixtureOfSources",
    "NpySource",
    "PanopticSource",
    "RecordError",
    "RegionCache",
    "RegionRecord",
    "RegionStore",
    "RegionTable",
    "SamJsonSource",
    "SamSource",
    "ShardHeader",
    "ShardWriter",
    "StoreError",
    "StoredRegions",
    "pack_bits",
    "patch_coverage",
    "unpack_bits",
    "write_index",
]
