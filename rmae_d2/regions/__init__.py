"""Region maps as data: sources, records and their cache. Needs numpy only; never Detectron2.

The function `felzenszwalb` stays in its module, whose name it would hide here.
"""

from .cache import RegionCache
from .felzenszwalb import FelzenszwalbSource
from .masks import pack_bits, patch_coverage, unpack_bits
from .record import RecordError, RegionRecord, RegionTable

__all__ = [
    "FelzenszwalbSource",
    "RecordError",
    "RegionCache",
    "RegionRecord",
    "RegionTable",
    "pack_bits",
    "patch_coverage",
    "unpack_bits",
]
