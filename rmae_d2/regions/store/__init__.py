"""Region records in indexed tar shards."""
