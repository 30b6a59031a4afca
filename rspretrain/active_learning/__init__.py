"""Active learning: query images within a label budget, obtain their labels, and track the labelled pool."""
