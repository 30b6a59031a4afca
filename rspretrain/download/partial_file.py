"""A file while it comes: hashed and flushed to the disk as it grows, so that little is left to do when it is whole.

Eight shards that begin together end together; if all were hashed and flushed only then, the link would idle meanwhile.
"""

import hashlib
import os
from dataclasses import dataclass
from pathlib import Path

PIECE = 1 << 20  # bytes hashed at once, without the interpreter's lock
FLUSH = 1 << 25  # bytes that the disk owes at most


class WrongBytesError(RuntimeError):
    """Everything came, and it is something else."""


@dataclass(frozen=True)
class Expected:
    """What a manifest promises of a file; None where it promises nothing."""

    bytes: int | None = None
    sha256: str | None = None
    limit: int | None = None  # bytes that are too many in any case


class PartialFile:
    """One attempt's file, made empty. Whoever brings it may write it in any order, or put another in its place."""

    def __init__(self, path: Path, expected: Expected) -> None:
        self.path, self._expected = path, expected
        path.touch()
        self._file = path.open("rb", buffering=0)
        self._hash, self._piece = hashlib.sha256(), memoryview(bytearray(PIECE))
        self._hashed = self._flushed = 0

    def close(self) -> None:
        """Follow it no longer; the file stays."""
        self._file.close()

    def look(self) -> tuple[int, int]:
        """Size and blocks by now, of which one grows as long as something comes. Takes in what is new.

        RuntimeError where it is too much.
        """
        stat, expected = self.path.stat(), self._expected
        cap = expected.bytes if expected.bytes is not None else expected.limit
        if cap is not None and stat.st_size > cap:
            raise RuntimeError(f"it brought more than the {cap} bytes that are expected")
        self._follow()
        if self._hashed - self._flushed >= FLUSH:
            os.fdatasync(self._file.fileno())
            self._flushed = self._hashed
        return stat.st_size, stat.st_blocks

    def verify(self) -> None:
        """Whether it is what was promised. RuntimeError where it is not."""
        size, expected = self.path.stat().st_size, self._expected
        if expected.bytes is not None and size != expected.bytes:
            raise RuntimeError(f"{size} bytes came, the manifest says {expected.bytes}")
        self._follow()
        if expected.sha256 in (None, self._hash.hexdigest()):
            return
        with self.path.open("rb") as file:  # once more, in case that it did not grow from its beginning to its end
            found = hashlib.file_digest(file, "sha256").hexdigest()
        if found != expected.sha256:
            raise WrongBytesError(
                f"what came has SHA-256 {found[:12]}…, the manifest says {expected.sha256[:12]}…: damaged under way, "
                "or the file behind the URL is not the manifest's"
            )

    def _follow(self) -> None:
        while count := self._file.readinto(self._piece):
            self._hash.update(self._piece[:count])
            self._hashed += count
