"""A bounded folder of fetched files that processes of a node share, without a server and without races.

    <folder>/ledger.lock                 held for a moment by whoever counts, makes room, claims or publishes
    <folder>/<set>/<name>                a whole, verified file; a shared lock on it says that somebody uses it
    <folder>/<set>/<name>.lock           claim of the one process that fetches the file; its length is the reservation
    <folder>/<set>/<name>.<n>.part       what attempt n has brought so far

All locks are flock's: the kernel frees them when their process ends, however it ends. A claim that nobody holds is a
dead process's, and the next one that counts removes it with its parts. Claims are made and removed only under the
ledger's lock, so a lock file never changes its inode under somebody's feet. What nobody uses is evicted when room is
needed, whatever was needed longest ago first (mtime, touched when a lease begins and ends).

Jobs that share a folder, with one shard set or several: each makes room for what it fetches within its own limit, which
counts all that lies in the folder; what another one leases or fetches stays. So the folder never outgrows the largest
limit, and a job with a smaller one leaves less of it unused. Who finds no room evicts nothing, and waits or ends.
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

from rspretrain.download.file_locks import LOCK, PART, Claim, Lease, evict, is_held, is_still, remove, try_lock

LEDGER = "ledger.lock"
LEDGER_TIMEOUT_S = 60.0  # a moment's work for everybody; longer, and somebody is stopped while holding it
KEPT_FREE = 0.01  # share of the disk that the cache leaves to others


class NoRoomError(RuntimeError):
    """Everything in the cache is in use."""


def default_folder() -> Path:
    """Where the cache lies unless a configuration says otherwise."""
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "rspretrain"


@dataclass
class _Count:
    used: int = 0  # bytes of files, and reserved ones
    outstanding: int = 0  # reserved, not yet on the disk
    claimed: Counter[str] = field(default_factory=Counter)  # set -> bytes of what is being fetched
    files: list[tuple[float, int, str]] = field(default_factory=list)  # (last need, bytes, path)

    def busy(self, but: Collection[str]) -> int:
        """Bytes of all sets but some that are in use: leased, or being fetched."""
        others = [(size, Path(path)) for _, size, path in self.files]
        held = sum(size for size, path in others if path.parent.name not in but and is_held(path))
        return held + self.claimed.total() - sum(self.claimed[key] for key in but)


class Cache:
    """One folder, bounded to `limit` bytes over all processes that use it."""

    def __init__(self, folder: Path, limit: int) -> None:
        self.folder, self.limit = folder, limit

    def check(self, need: int, *keys: str) -> None:
        """Whether `need` bytes can be kept here at once, those of the sets `keys` beside what is in use of others.

        ValueError says what stands against it. Also removes what dead processes left behind.
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
                free, busy = _free(self.folder), count.busy(but=keys) if keys else 0
        except OSError as error:
            raise ValueError(
                f"The cache folder {self.folder} cannot be used ({error.strerror or error}). Expected one on a local "
                "disk that this process may write to, with room; name another in data.cache_dir."
            ) from None
        if self.limit < need + busy:
            raise ValueError(
                f"Other shard sets have {_gb(busy)} of the cache folder {self.folder} in use, expected no more than "
                f"{_gb(self.limit - need)}: this one needs {_gb(need)} at once of {_gb(self.limit)} of data.cache_gb. "
                "Raise it, name another folder in data.cache_dir, or wait for the other jobs."
            )
        if free + count.used - count.outstanding - busy < need:
            raise ValueError(
                f"The disk of the cache folder {self.folder} has {free / 1e9:.3g} GB free and "
                f"{(count.used - busy) / 1e9:.3g} GB of cache, expected {_gb(need)} together at least. Make room, or "
                "name another in data.cache_dir."
            )

    def lease(self, key: str, name: str, size: int | None = None) -> Lease | None:
        """A file, if it is there. One of another size than `size` is thrown away."""
        path = self.folder / key / name
        while True:
            try:
                descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
            except FileNotFoundError:
                return None
            fcntl.flock(descriptor, fcntl.LOCK_SH)  # waits only while somebody evicts or publishes it
            if not is_still(path, descriptor):
                os.close(descriptor)
                continue
            if size is not None and os.fstat(descriptor).st_size != size:
                path.unlink(missing_ok=True)
                os.close(descriptor)
                return None
            return Lease(path, descriptor)

    def claim(self, key: str, name: str, size: int) -> Claim | None:
        """The right to fetch a file of `size` bytes; None where another process has it, or the file is there by now.

        NoRoomError where too much is in use.
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
            claim = Claim(path, descriptor)
            try:
                os.ftruncate(descriptor, 0)
                for part in self._parts(path):
                    part.unlink(missing_ok=True)  # of a process that died
                self._make_room(size)
                os.ftruncate(descriptor, size)
            except BaseException:
                self._drop(claim)
                raise
            return claim

    def publish(self, claim: Claim, part: Path) -> None:
        """A verified part becomes the file. Survives a loss of power."""
        descriptor = os.open(part, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
        with self._ledger():
            part.rename(claim.path)
            self._drop(claim)

    def release(self, claim: Claim) -> None:
        """Give a claim back, used or not."""
        if claim.descriptor >= 0:
            with self._ledger():
                self._drop(claim)

    def retract(self, lease: Lease) -> None:
        """Take a damaged file out, also where others use it: they keep it until they close it, nobody else gets it."""
        with self._ledger():
            if lease.is_current:
                remove(lease.path)

    def progress(self, key: str, name: str) -> int:
        """Something that changes while any process fetches a file."""
        return hash(tuple(sorted((part.name, *_grown(part)) for part in self._parts(self.folder / key / name))))

    def used(self) -> int:
        """Bytes of all files, whole or not, on the disk."""
        return sum(_size(path) for path in self.folder.rglob("*") if path.suffix != LOCK)

    @staticmethod
    def _parts(path: Path) -> list[Path]:
        return list(path.parent.glob(f"{glob.escape(path.name)}.*{PART}"))

    def _drop(self, claim: Claim) -> None:
        for part in self._parts(claim.path):
            part.unlink(missing_ok=True)
        claim.path.with_name(claim.path.name + LOCK).unlink(missing_ok=True)
        os.close(claim.descriptor)
        claim.descriptor = -1

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
        # Only where it is enough: two jobs that find no room must not take from each other what both will need.
        if missing <= 0:
            missing += sum(_size(path) for path in idle if not evict(path))  # leased in this moment
        if missing > 0:
            raise NoRoomError(
                f"the cache folder {self.folder} has no room for {need / 1e6:.3g} MB more: "
                f"{missing / 1e6:.3g} MB too much is in use, of {_gb(self.limit)} of data.cache_gb and "
                f"{free / 1e9:.3g} GB free on its disk. Raise data.cache_gb, make room, or name another data.cache_dir"
            )

    def _count(self) -> _Count:
        """Sizes of everything; what dead processes left is removed on the way. Call with the ledger's lock."""
        count = _Count()
        for folder in [entry.path for entry in os.scandir(self.folder) if entry.is_dir()]:
            parts: dict[str, list[Path]] = {}
            claims: dict[str, int] = {}
            for entry in os.scandir(folder):  # of ten thousand shards: 25 ms, a third of what Path would take
                try:
                    stat = entry.stat()
                except FileNotFoundError:  # parts come and go without the ledger
                    continue
                if entry.name.endswith(PART):
                    parts.setdefault(entry.name.rsplit(".", 2)[0], []).append(Path(entry.path))
                elif entry.name.endswith(LOCK):
                    claims[entry.name.removesuffix(LOCK)] = stat.st_size
                else:
                    count.files.append((stat.st_mtime, stat.st_size, entry.path))
                    count.used += stat.st_size
            for name in {*parts, *claims}:
                if name in claims and is_held(Path(folder, name + LOCK)):
                    written = sum(_size(part) for part in parts.get(name, ()))
                    count.used += max(claims[name], written)
                    count.outstanding += max(0, claims[name] - written)
                    count.claimed[os.path.basename(folder)] += max(claims[name], written)
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
                        "expected a moment. Find the stopped process (lsof) and end it, or name another data.cache_dir."
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
    """Size and blocks: a part may have its full length from the start."""
    try:
        stat = path.stat()
    except FileNotFoundError:
        return 0, 0
    return stat.st_size, stat.st_blocks


def _size(path: Path) -> int:
    return _grown(path)[0]
