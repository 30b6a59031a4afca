"""Build shard sets: from the entries of an archive to tars, index and manifest."""
