"""Supervised use of exported backbones: probes and metrics."""
