"""Atomic files and folders, and JSON without NaN. A reader sees the old content or the new content, never a part."""

import json
import math
import os
import shutil
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, BinaryIO

NONFINITE = "nonfinite"  # key of the record of NaN and infinite values: dotted path -> "nan", "inf" or "-inf"


@contextmanager
def atomic(path: Path, *, temporary: Path | None = None) -> Iterator[BinaryIO]:
    """Open a temporary file for writing. When the block ends without an error it is flushed and renamed to `path`.

    `temporary` must be on the file system of `path` and used by no other process; default: a hidden file beside it.
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


@contextmanager
def atomic_folder(path: Path) -> Iterator[Path]:
    """Create a temporary folder of files. When the block ends without an error it is flushed and renamed to `path`.

    An older folder at `path` is replaced. One process at a time may write `path`: the temporary name is always the
    same, so that the next writer removes what a killed one left (checkpoints are large).
    """
    temporary, old = path.with_name(f".{path.name}.tmp"), path.with_name(f".{path.name}.old")
    for leftover in (temporary, old):
        shutil.rmtree(leftover, ignore_errors=True)
    temporary.mkdir(parents=True)
    try:
        yield temporary
        for file in temporary.iterdir():
            sync(file)
        sync(temporary)
        if path.exists():  # rename does not replace a folder that has files; `path` is absent between the two calls
            path.rename(old)
        temporary.rename(path)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
    sync(path.parent)
    shutil.rmtree(old, ignore_errors=True)


def write_atomically(path: Path, data: bytes) -> None:
    """Write `data` to the file `path`."""
    with atomic(path) as file:
        file.write(data)


def write_json(path: Path, content: Mapping[str, Any], *, indent: int | None = 2) -> None:
    """Write `content` as JSON, see `encode_json`. Missing parent folders are created."""
    path.parent.mkdir(parents=True, exist_ok=True)
    write_atomically(path, encode_json(content, indent=indent).encode() + b"\n")


def read_json(path: Path) -> dict[str, Any]:
    """Read a file of `write_json`, with its NaN and infinite values."""
    return decode_json(path.read_text())


def encode_json(content: Mapping[str, Any], *, indent: int | None = None) -> str:
    """JSON text, see `replace_nonfinite`."""
    return json.dumps(replace_nonfinite(content), indent=indent, allow_nan=False)


def decode_json(text: str) -> dict[str, Any]:
    """The content of `encode_json`, with its NaN and infinite values."""
    content = json.loads(text)
    nonfinite = content.pop(NONFINITE, {})
    restored: dict[str, Any] = _map_values(
        content, lambda path, value: float(nonfinite[path]) if path in nonfinite else value
    )
    return restored


def replace_nonfinite(content: Mapping[str, Any]) -> dict[str, Any]:
    """A copy for JSON, which has no NaN: each such value is None, and the key "nonfinite" records it.

    {"last": {"loss": nan}} becomes {"last": {"loss": None}, "nonfinite": {"last.loss": "nan"}}. Tuples become lists.
    """
    nonfinite: dict[str, str] = {}

    def replace(path: str, value: Any) -> Any:
        if not isinstance(value, float) or math.isfinite(value):
            return value
        nonfinite[path] = repr(float(value))
        return None

    plain: dict[str, Any] = _map_values(content, replace)
    return {**plain, NONFINITE: nonfinite} if nonfinite else plain


def _map_values(content: Any, change: Callable[[str, Any], Any], path: str = "") -> Any:
    """A copy in which `change(dotted path, value)` replaces each value that is not a mapping or sequence."""
    prefix = f"{path}." if path else ""
    if isinstance(content, Mapping):
        return {key: _map_values(value, change, f"{prefix}{key}") for key, value in content.items()}
    if isinstance(content, list | tuple):
        return [_map_values(value, change, f"{prefix}{index}") for index, value in enumerate(content)]
    return change(path, content)


def sync(path: Path) -> None:
    """Flush a file to the disk, or the names in a folder, so that a rename survives a power loss."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
