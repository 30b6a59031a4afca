"""Launchers are scripts that share `launchers/common.py`; this package of the same name must not hide it from them."""

from pathlib import Path

__path__.append(str(Path(__file__).parents[2] / "launchers"))
