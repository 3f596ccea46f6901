"""Region records in indexed tar shards. In 0.1 a module, whose names stay."""

from .store import RegionStore, write_index

__all__ = ["RegionStore", "write_index"]
