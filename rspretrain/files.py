"""Files that are whole or absent: written under another name, flushed to the disk, renamed."""

import json
import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, BinaryIO


@contextmanager
def atomic(path: Path, *, temporary: Path | None = None) -> Iterator[BinaryIO]:
    """A file to write `path` with. It appears under that name, whole, when the block ends without an error.

    `temporary` is where the bytes lie until then: a name on the same file system that no other process uses.
    """
    temporary = temporary or path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        with temporary.open("wb") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        temporary.rename(path)
    finally:
        temporary.unlink(missing_ok=True)
    sync(path.parent)


def write_atomically(path: Path, data: bytes) -> None:
    """`data` as the file `path`."""
    with atomic(path) as file:
        file.write(data)


def write_json(path: Path, content: Mapping[str, Any]) -> None:
    """`content` as JSON without NaN, in a folder that is made if need be. ValueError where there is a NaN."""
    path.parent.mkdir(parents=True, exist_ok=True)
    write_atomically(path, (json.dumps(content, indent=1, allow_nan=False) + "\n").encode())


def sync(path: Path) -> None:
    """Onto the disk: the content of a file, or the names in a folder, which makes renames survive a loss of power."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
