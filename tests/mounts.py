"""Small file systems for tests: really full, really read-only."""

import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest


@contextmanager
def small_disk(folder: Path, size: str) -> Iterator[Path]:
    """A file system of its own of so many bytes ("64k", "1m") in a new folder; skips the test where none can be had."""
    folder.mkdir()
    command = ["mount", "-t", "tmpfs", "-o", f"size={size}", "tmpfs", folder]
    if subprocess.run(command, capture_output=True, check=False).returncode:
        pytest.skip("only root can mount a file system of its own")
    try:
        yield folder
    finally:
        subprocess.run(["umount", "-l", folder], check=True)
