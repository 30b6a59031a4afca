"""The one training loop, its optimizers and its checkpoints."""
