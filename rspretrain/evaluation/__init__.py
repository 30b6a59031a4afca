"""Measure backbones and classifiers: probes, linear evaluation, predictions and metrics."""
