"""Look into shard sets: verify, preview, plot."""
