"""A partial download, hashed and flushed to the disk while it grows.

Eight shards that start together also end together. If all were hashed and flushed only then, the network would be idle
meanwhile.
"""

import hashlib
import os
from dataclasses import dataclass
from pathlib import Path

CHUNK_BYTES = 1 << 20  # bytes hashed at once, without the GIL
FLUSH_BYTES = 1 << 25  # largest number of unflushed bytes


class WrongBytesError(RuntimeError):
    """A complete download with the wrong checksum."""


@dataclass(frozen=True)
class Expected:
    """The expected size and checksum of a file; None if unknown."""

    bytes: int | None = None
    sha256: str | None = None
    limit: int | None = None  # upper limit in bytes if the size is unknown


class PartialFile:
    """The file of one download attempt, created empty. The downloader may write it in any order, or replace it."""

    def __init__(self, path: Path, expected: Expected) -> None:
        self.path, self._expected = path, expected
        path.touch()
        self._file = path.open("rb", buffering=0)
        self._hash, self._piece = hashlib.sha256(), memoryview(bytearray(CHUNK_BYTES))
        self._hashed = self._flushed = 0

    def close(self) -> None:
        """Stop reading it; the file stays."""
        self._file.close()

    def poll(self) -> tuple[int, int]:
        """Hash new bytes. Returns size and blocks, of which at least one grows while the download makes progress.

        RuntimeError if the file is larger than expected.
        """
        stat, expected = self.path.stat(), self._expected
        cap = expected.bytes if expected.bytes is not None else expected.limit
        if cap is not None and stat.st_size > cap:
            raise RuntimeError(f"more than the expected {cap} bytes arrived")
        self._follow()
        if self._hashed - self._flushed >= FLUSH_BYTES:
            os.fdatasync(self._file.fileno())
            self._flushed = self._hashed
        return stat.st_size, stat.st_blocks

    def verify(self) -> None:
        """RuntimeError unless size and checksum are as expected."""
        size, expected = self.path.stat().st_size, self._expected
        if expected.bytes is not None and size != expected.bytes:
            raise RuntimeError(f"{size} bytes arrived, the manifest says {expected.bytes}")
        self._follow()
        if expected.sha256 in (None, self._hash.hexdigest()):
            return
        with self.path.open("rb") as file:  # again, because it may not have been written from start to end
            found = hashlib.file_digest(file, "sha256").hexdigest()
        if found != expected.sha256:
            raise WrongBytesError(
                f"the download has SHA-256 {found[:12]}…, the manifest says {expected.sha256[:12]}…: it was damaged in "
                "transit, or the file behind the URL does not belong to the manifest"
            )

    def _follow(self) -> None:
        while count := self._file.readinto(self._piece):
            self._hash.update(self._piece[:count])
            self._hashed += count
