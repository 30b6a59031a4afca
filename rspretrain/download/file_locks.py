"""Leases and claims: locked files, by which processes agree on a folder. The kernel frees all locks of a dead one.

A lease says that a file in the cache is in use, a claim that it is being fetched. The locks are flock's: one belongs to
the open file, of which mmap keeps a duplicate, and falls with the last of them.
"""

import fcntl
import os
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

LOCK, PART = ".lock", ".part"


class Lease:
    """A file that stays in the cache until `close`. A mapping of it made through `fileno` keeps it as well."""

    def __init__(self, path: Path, descriptor: int) -> None:
        self.path, self._descriptor = path, descriptor
        _touch(descriptor)

    def fileno(self) -> int:
        """The open file."""
        return self._descriptor

    @property
    def is_current(self) -> bool:
        """Whether the cache would give the same file again, and not another one or none."""
        return self._descriptor >= 0 and is_still(self.path, self._descriptor)

    def close(self) -> None:
        """Nobody needs it any more; more than once does nothing."""
        if self._descriptor >= 0:
            _touch(self._descriptor)
            os.close(self._descriptor)
            self._descriptor = -1

    def __del__(self) -> None:
        self.close()


@dataclass
class Claim:
    """The right to fetch one file, and the room that is reserved for it. Give it back with `Cache.release`."""

    path: Path
    descriptor: int

    def part(self, attempt: int) -> Path:
        """Where an attempt's bytes go."""
        return self.path.with_name(f"{self.path.name}.{attempt}{PART}")


def is_still(path: Path, descriptor: int) -> bool:
    """Whether a path leads to the file that is open, and not to another or none."""
    try:
        return os.stat(path).st_ino == os.fstat(descriptor).st_ino
    except FileNotFoundError:
        return False


def _touch(descriptor: int) -> None:
    with suppress(PermissionError):  # another user's file: its age is then that of its owner's last need
        os.utime(descriptor)


def try_lock(descriptor: int) -> bool:
    """Lock an open file for oneself alone, where nobody has any lock on it."""
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def is_held(path: Path) -> bool:
    """Whether any process, this one included, has a lock on a file."""
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    except FileNotFoundError:
        return False
    try:
        return not try_lock(descriptor)
    finally:
        os.close(descriptor)


def evict(path: Path) -> bool:
    """Remove a file unless somebody uses it."""
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    except FileNotFoundError:
        return False
    try:
        if try_lock(descriptor):
            remove(path)
            return True
        return False
    finally:
        os.close(descriptor)


def remove(path: Path) -> None:
    """Remove a file, and its folder when it was the last one there."""
    path.unlink(missing_ok=True)
    with suppress(OSError):
        path.parent.rmdir()
