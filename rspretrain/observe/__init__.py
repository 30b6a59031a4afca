"""Monitoring of a run: metrics files and wandb, collapse measures and verdicts, progress bars."""
