"""One image's regions, and their bytes. In 0.1 a module, whose names stay."""

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
