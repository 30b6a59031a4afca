"""The training loop, its jobs, evaluators and checkpoints."""
