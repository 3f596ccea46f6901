"""One image's regions, and their bytes. This was a module in 0.1, whose names are kept."""

from .masks import pack_bits, patch_coverage, unpack_bits
from .record import EncodedRecord, RegionRecord, RegionTable

__all__ = [
    "EncodedRecord",
    "RegionRecord",
    "RegionTable",
    "pack_bits",
    "patch_coverage",
    "unpack_bits",
]
