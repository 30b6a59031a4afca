"""Leases and reservations: file locks that coordinate processes on a folder. The kernel frees the locks of dead ones.

A lease marks a cached file as in use, a reservation marks it as being downloaded. The locks are flock's: a lock belongs
to the open file description, which mmap duplicates, and is freed when the last duplicate is closed.
"""

import fcntl
import os
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

LOCK, PART = ".lock", ".part"


class Lease:
    """A file that stays in the cache until `close`. A mapping made through `fileno` also keeps it."""

    def __init__(self, path: Path, descriptor: int) -> None:
        self.path, self._descriptor = path, descriptor
        _touch(descriptor)

    def fileno(self) -> int:
        """The descriptor of the open file."""
        return self._descriptor

    @property
    def is_current(self) -> bool:
        """Whether the cache still holds this file, and not another one or none."""
        return self._descriptor >= 0 and is_same_file(self.path, self._descriptor)

    def close(self) -> None:
        """End the lease. Further calls do nothing."""
        if self._descriptor >= 0:
            _touch(self._descriptor)
            os.close(self._descriptor)
            self._descriptor = -1

    def __del__(self) -> None:
        self.close()


@dataclass
class Reservation:
    """The right to download one file, with reserved room. Release it with `Cache.release`."""

    path: Path
    descriptor: int

    def part(self, attempt: int) -> Path:
        """The path of the partial download of an attempt."""
        return self.path.with_name(f"{self.path.name}.{attempt}{PART}")


def is_same_file(path: Path, descriptor: int) -> bool:
    """Whether a path refers to the open file, and not to another one or none."""
    try:
        return os.stat(path).st_ino == os.fstat(descriptor).st_ino
    except FileNotFoundError:
        return False


def _touch(descriptor: int) -> None:
    with suppress(PermissionError):  # a file of another user: its mtime is then that of the owner's last use
        os.utime(descriptor)


def try_lock(descriptor: int) -> bool:
    """Try to lock an open file exclusively. False if it is locked by anyone."""
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def is_held(path: Path) -> bool:
    """Whether any process, including this one, has a lock on a file."""
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    except FileNotFoundError:
        return False
    try:
        return not try_lock(descriptor)
    finally:
        os.close(descriptor)


def evict(path: Path) -> bool:
    """Remove a file unless it is in use. Returns whether it was removed."""
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
    """Remove a file, and its folder if it is empty then."""
    path.unlink(missing_ok=True)
    with suppress(OSError):
        path.parent.rmdir()
