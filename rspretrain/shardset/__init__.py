"""The on-disk format of shard sets: records, index, manifest, statistics. Does not need torch."""
