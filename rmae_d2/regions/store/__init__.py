"""Region records in indexed tar shards. In 0.1 a module, whose names stay."""

from .merged_index import write_index
from .store import RegionStore

__all__ = ["RegionStore", "write_index"]
