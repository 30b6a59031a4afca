"""What a person watches: metrics, collapse measures, progress."""
