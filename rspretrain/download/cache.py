"""A bounded cache folder shared by the processes of a node, without a server and without races.

    <folder>/ledger.lock                 locked briefly while counting, evicting, reserving and publishing
    <folder>/<set>/<name>                a complete, verified file; a shared lock on it means that it is in use
    <folder>/<set>/<name>.lock           locked by the process that downloads the file; its size is the reservation
    <folder>/<set>/<name>.<n>.part       partial download of attempt n

All locks are flock's: the kernel frees them when their process ends in any way. An unlocked .lock file belongs to a
dead process; the next process that counts removes it with its partial downloads. Lock files are created and removed
only under the ledger's lock, so their inodes never change while in use. When room is needed, unused files are evicted,
the least recently used first (by mtime, set when a lease begins and ends).

Jobs may share a folder, for one shard set or several. Each makes room for its downloads within its own limit, which
counts all files in the folder; files that other jobs lease or download stay. So the folder never exceeds the largest
limit, and a job with a smaller limit keeps less unused data. A job that finds no room evicts nothing, and waits or
ends.
"""

import fcntl
import glob
import os
import time
from collections import Counter
from collections.abc import Collection, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from rspretrain.download.file_locks import (
    LOCK,
    PART,
    Lease,
    Reservation,
    evict,
    is_held,
    is_same_file,
    remove,
    try_lock,
)

LEDGER = "ledger.lock"
LEDGER_TIMEOUT_S = 60.0  # the lock is held for milliseconds; if longer, its process was probably suspended
KEPT_FREE = 0.01  # share of the disk that the cache leaves free


class NoRoomError(RuntimeError):
    """Everything in the cache is in use."""


def default_folder() -> Path:
    """The default folder of the cache."""
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "rspretrain"


@dataclass
class _Count:
    used: int = 0  # bytes of files and reservations
    outstanding: int = 0  # reserved bytes not yet on the disk
    reserved: Counter[str] = field(default_factory=Counter)  # set -> bytes of running downloads
    files: list[tuple[float, int, str]] = field(default_factory=list)  # (last use, bytes, path)

    def in_use(self, excluding: Collection[str]) -> int:
        """Bytes in use, leased or being downloaded, of all sets but those in `excluding`."""
        others = [(size, Path(path)) for _, size, path in self.files]
        held = sum(size for size, path in others if path.parent.name not in excluding and is_held(path))
        return held + self.reserved.total() - sum(self.reserved[key] for key in excluding)


class Cache:
    """A cache folder with at most `limit` bytes, shared by several processes."""

    def __init__(self, folder: Path, limit: int) -> None:
        self.folder, self.limit = folder, limit

    def check(self, need: int, *keys: str) -> None:
        """Check that `need` bytes of the sets `keys` fit at once, besides the bytes that other sets use.

        ValueError gives the reason if not. Also removes leftovers of dead processes.
        """
        if self.limit < need:
            raise ValueError(
                f"data.cache_gb is {self.limit / 1e9:.3g}, expected at least {_gb(need)}: that much of the shard "
                "set is in use at once on this node. Raise data.cache_gb, or lower data.window or data.streams."
            )
        probe = self.folder / f"probe{PART}"
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            with self._ledger():
                count = self._count()
                try:
                    probe.write_bytes(b"\0" * 4096)
                finally:
                    probe.unlink(missing_ok=True)
                free, in_use = _free(self.folder), count.in_use(excluding=keys) if keys else 0
        except OSError as error:
            raise ValueError(
                f"The cache folder {self.folder} cannot be used ({error.strerror or error}). Expected a "
                "writable folder on a local disk with free space; set another in data.cache_dir."
            ) from None
        if self.limit < need + in_use:
            raise ValueError(
                f"Other shard sets have {_gb(in_use)} of the cache folder {self.folder} in use, expected no more than "
                f"{_gb(self.limit - need)}: this one needs {_gb(need)} at once of {_gb(self.limit)} of data.cache_gb. "
                "Raise it, set another folder in data.cache_dir, or wait for the other jobs."
            )
        if free + count.used - count.outstanding - in_use < need:
            raise ValueError(
                f"The disk of the cache folder {self.folder} has {free / 1e9:.3g} GB free and "
                f"{(count.used - in_use) / 1e9:.3g} GB of cache, expected {_gb(need)} together at least. Free space, "
                "or set another folder in data.cache_dir."
            )

    def lease(self, key: str, name: str, size: int | None = None) -> Lease | None:
        """A lease of a cached file; None if it is not in the cache. A file of another size than `size` is removed."""
        path = self.folder / key / name
        while True:
            try:
                descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
            except FileNotFoundError:
                return None
            fcntl.flock(descriptor, fcntl.LOCK_SH)  # waits only while another process evicts or publishes it
            if not is_same_file(path, descriptor):
                os.close(descriptor)
                continue
            if size is not None and os.fstat(descriptor).st_size != size:
                path.unlink(missing_ok=True)
                os.close(descriptor)
                return None
            return Lease(path, descriptor)

    def reserve(self, key: str, name: str, size: int) -> Reservation | None:
        """Reserve room to download a file of `size` bytes.

        None if another process downloads it, or it is already there.

        NoRoomError if too much is in use.
        """
        path = self.folder / key / name
        with self._ledger():
            path.parent.mkdir(parents=True, exist_ok=True)
            if path.exists():
                return None
            lock = path.with_name(name + LOCK)
            descriptor = os.open(lock, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
            if not try_lock(descriptor):
                os.close(descriptor)
                return None
            reservation = Reservation(path, descriptor)
            try:
                os.ftruncate(descriptor, 0)
                for part in self._parts(path):
                    part.unlink(missing_ok=True)  # of a dead process
                self._make_room(size)
                os.ftruncate(descriptor, size)
            except BaseException:
                self._drop(reservation)
                raise
            return reservation

    def publish(self, reservation: Reservation, part: Path) -> None:
        """Move a verified download to its final name. Survives a power loss."""
        descriptor = os.open(part, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
        with self._ledger():
            part.rename(reservation.path)
            self._drop(reservation)

    def release(self, reservation: Reservation) -> None:
        """Release a reservation, used or not."""
        if reservation.descriptor >= 0:
            with self._ledger():
                self._drop(reservation)

    def discard(self, lease: Lease) -> None:
        """Remove a damaged file. Processes that use it keep it open until they close it."""
        with self._ledger():
            if lease.is_current:
                remove(lease.path)

    def progress(self, key: str, name: str) -> int:
        """A value that changes while any process downloads a file."""
        return hash(tuple(sorted((part.name, *_grown(part)) for part in self._parts(self.folder / key / name))))

    def used(self) -> int:
        """Bytes of all files on the disk, partial downloads included."""
        return sum(_size(path) for path in self.folder.rglob("*") if path.suffix != LOCK)

    @staticmethod
    def _parts(path: Path) -> list[Path]:
        return list(path.parent.glob(f"{glob.escape(path.name)}.*{PART}"))

    def _drop(self, reservation: Reservation) -> None:
        for part in self._parts(reservation.path):
            part.unlink(missing_ok=True)
        reservation.path.with_name(reservation.path.name + LOCK).unlink(missing_ok=True)
        os.close(reservation.descriptor)
        reservation.descriptor = -1

    def _make_room(self, need: int) -> None:
        count = self._count()
        free = _free(self.folder) - count.outstanding
        missing = need - min(self.limit - count.used, free)
        idle = []
        for _, size, path in sorted(count.files) if missing > 0 else ():
            if not is_held(Path(path)):
                idle.append(Path(path))
                missing -= size
            if missing <= 0:
                break
        # Evict only if that is enough: two jobs without room must not evict files that both will need.
        if missing <= 0:
            missing += sum(_size(path) for path in idle if not evict(path))  # leased just now
        if missing > 0:
            raise NoRoomError(
                f"the cache folder {self.folder} has no room for {need / 1e6:.3g} MB more: "
                f"{missing / 1e6:.3g} MB too much is in use, of {_gb(self.limit)} of data.cache_gb and "
                f"{free / 1e9:.3g} GB free on its disk. Raise data.cache_gb, free space, or set another data.cache_dir"
            )

    def _count(self) -> _Count:
        """Count all files, and remove leftovers of dead processes. Call with the ledger's lock held."""
        count = _Count()
        for folder in [entry.path for entry in os.scandir(self.folder) if entry.is_dir()]:
            parts: dict[str, list[Path]] = {}
            reservations: dict[str, int] = {}
            for entry in os.scandir(folder):  # 25 ms for ten thousand shards, a third of the time with Path
                try:
                    stat = entry.stat()
                except FileNotFoundError:  # partial downloads appear and vanish without the ledger's lock
                    continue
                if entry.name.endswith(PART):
                    parts.setdefault(entry.name.rsplit(".", 2)[0], []).append(Path(entry.path))
                elif entry.name.endswith(LOCK):
                    reservations[entry.name.removesuffix(LOCK)] = stat.st_size
                else:
                    count.files.append((stat.st_mtime, stat.st_size, entry.path))
                    count.used += stat.st_size
            for name in {*parts, *reservations}:
                if name in reservations and is_held(Path(folder, name + LOCK)):
                    written = sum(_size(part) for part in parts.get(name, ()))
                    count.used += max(reservations[name], written)
                    count.outstanding += max(0, reservations[name] - written)
                    count.reserved[os.path.basename(folder)] += max(reservations[name], written)
                    continue
                for path in (*parts.get(name, ()), Path(folder, name + LOCK)):
                    path.unlink(missing_ok=True)
        return count

    @contextmanager
    def _ledger(self) -> Iterator[None]:
        descriptor = os.open(self.folder / LEDGER, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
        try:
            until = time.monotonic() + LEDGER_TIMEOUT_S
            while not try_lock(descriptor):
                if time.monotonic() > until:
                    raise RuntimeError(
                        f"{self.folder / LEDGER} has been locked by another process for {LEDGER_TIMEOUT_S:g} s, "
                        "expected milliseconds. Find the suspended process (lsof) and end it, or set another "
                        "data.cache_dir."
                    )
                time.sleep(0.002)
            yield
        finally:
            os.close(descriptor)


def _gb(size: int) -> str:
    return f"{size / 1e9:.3g} GB" if size >= 10**7 else f"{size / 1e9:.6f} GB"


def _free(folder: Path) -> int:
    found = os.statvfs(folder)
    return found.f_bavail * found.f_frsize - int(KEPT_FREE * found.f_blocks * found.f_frsize)


def _grown(path: Path) -> tuple[int, int]:
    """Size and blocks; both, because a partial download may have its full length from the start."""
    try:
        stat = path.stat()
    except FileNotFoundError:
        return 0, 0
    return stat.st_size, stat.st_blocks


def _size(path: Path) -> int:
    return _grown(path)[0]
