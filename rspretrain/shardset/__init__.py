"""The on-disk format, both directions. Runs where torch is not installed."""
