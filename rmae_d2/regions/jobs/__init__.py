"""Making and verifying a region store, shard by shard, on one machine or many."""
