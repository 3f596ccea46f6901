"""Make and verify a region store, shard by shard, on one machine or many."""
