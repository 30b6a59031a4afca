"""Loads batches from shards in one deterministic order. Does not depend on objectives."""
