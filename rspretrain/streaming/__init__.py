"""Shards to batches in one deterministic order. Knows nothing of objectives."""
