"""Region records in indexed tar shards."""

from .store import RegionStore, write_index

__all__ = ["RegionStore", "write_index"]
