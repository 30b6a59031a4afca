"""Build shard sets: tars, index and manifest from the entries of an archive."""
