"""Region records in indexed tar shards. This was a module in 0.1, whose names are kept."""

from .store import RegionStore, write_index

__all__ = ["RegionStore", "write_index"]
