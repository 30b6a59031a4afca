"""Evaluate backbones and classifiers: probes, linear evaluation, predictions, metrics.

The selection of labelled samples (`splits`, `labels`) is here too, below `finetuning`, because probes, linear
evaluation and fine-tuning all need it.
"""
