"""A shard set behind a URL: its manifest and index are fetched when it is opened, its shards when somebody needs them.

Everything lies in the cache under the SHA-256 of the manifest, so a set that changed never mixes with what it was.
"""

import hashlib
import logging
import os
import random
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from rspretrain.download.cache import Cache, NoRoomError, default_folder
from rspretrain.download.file_locks import Claim, Lease
from rspretrain.download.partial_file import Expected
from rspretrain.download.protocols import child, shown
from rspretrain.download.transfer import LONGEST_BACKOFF_S, Patience, Source, Stopped, TransferError
from rspretrain.shardset.manifest import INDEX_NAME, MANIFEST_NAME, Manifest, load_manifest

POLL_S, LONGEST_POLL_S = 0.02, 0.2  # a look into a cache of ten thousand shards takes 5 to 40 ms
_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class RemoteOptions:
    """How shard sets behind URLs are fetched and kept."""

    folder: Path | None = None  # of the cache; None: see cache.default_folder
    limit: int = 100 * 10**9  # bytes of the cache, over all processes of the node
    patience: Patience = field(default_factory=Patience)


class Remote:
    """One shard set behind a URL, as far as it is in the cache. Threads may share it."""

    def __init__(self, url: str, options: RemoteOptions) -> None:
        self.url, self._patience = url, options.patience
        self.cache = Cache(options.folder or default_folder(), options.limit)
        self._source = Source(url, options.patience)
        self._index_bytes = 0  # to make room for, as far as the server says
        self._renewed: set[int] = set()  # shards whose copy in the cache was damaged
        self._renewing = threading.Lock()
        self._jitter = random.SystemRandom().random()
        self.cache.check(0)
        try:
            data = self._source.read(MANIFEST_NAME)
        except TransferError as error:
            raise ValueError(f"{error} Expected the URL of a folder that `rspretrain build` finished.") from None
        self.cache.check(len(data))
        self.key = hashlib.sha256(data).hexdigest()
        try:
            self._leases = [self._store(MANIFEST_NAME, data)]
            self.manifest = self._manifest()
            self._leases.append(self._index())
        except TransferError as error:
            raise ValueError(f"{error} Upload {INDEX_NAME} of the same build beside {MANIFEST_NAME}.") from None
        except RuntimeError as error:  # of the disk
            raise ValueError(str(error)) from None

    @property
    def folder(self) -> Path:
        """Where the set lies in the cache."""
        return self.cache.folder / self.key

    @property
    def kept_bytes(self) -> int:
        """Of the manifest and the index, which stay in the cache while the set is open."""
        return sum(os.fstat(lease.fileno()).st_size for lease in self._leases)

    def shard(self, number: int, stopped: Callable[[], bool] = lambda: False) -> Lease:
        """A shard, fetched if need be. See `obtain`."""
        entry = self.manifest.shards[number]
        return self.obtain(entry.name, entry.bytes, entry.sha256, stopped)

    def try_shard(self, number: int, stopped: Callable[[], bool] = lambda: False) -> Lease | None:
        """A shard, fetched if need be; None where another process is at it. NoRoomError where there is no room."""
        entry = self.manifest.shards[number]
        return self._try(entry.name, entry.bytes, entry.sha256, stopped)

    def obtain(self, name: str, size: int | None, sha256: str, stopped: Callable[[], bool] = lambda: False) -> Lease:
        """A file of the set, whole and verified, once for all processes that share the cache.

        TransferError where it cannot be had, RuntimeError where it cannot be kept, Stopped when `stopped` says so.
        """
        seen, since, pause_s = None, time.monotonic(), POLL_S
        while True:
            now: object
            try:
                lease = self._try(name, size, sha256, stopped)
                if lease is not None:
                    return lease
                now, longest_s = self.cache.progress(self.key, name), 2 * self._patience.timeout_s + LONGEST_BACKOFF_S
                why = "another process fetches it and does not get on. End that process"
            except NoRoomError as error:
                # Of two jobs that wait for what the other one holds, one ends first, and the other goes on.
                now, longest_s, why = "no room", self._patience.timeout_s * (1 + self._jitter), str(error)
            if now != seen:
                seen, since = now, time.monotonic()
            elif time.monotonic() - since > longest_s:
                raise RuntimeError(f"{self.shown(name)} was waited for {longest_s:.3g} s: {why}.")
            time.sleep(pause_s)
            pause_s = min(1.5 * pause_s, LONGEST_POLL_S)
            if stopped():
                raise Stopped(f"{self.shown(name)}: nobody waits for it any more.")

    def renew(self, number: int, lease: Lease) -> str | None:
        """Discard the leased copy of a shard whose bytes are not the index's: whoever asks next fetches it again.

        None where there is, or will be, another copy to look at; else why there is none: the copy is what lies behind
        the URL, or this process discarded one before. So it ends, however damaged a disk is.
        """
        entry = self.manifest.shards[number]
        url = self.shown(entry.name)
        with self._renewing:
            if not lease.is_current:  # another thread or process was first
                return None
            if _sha256(lease) == entry.sha256:
                return (
                    f"Its shard in the cache is the one behind {url}, so that shard and {INDEX_NAME} are not of one "
                    "build. Build the set again, and upload all of it."
                )
            if number in self._renewed:
                return (
                    f"Its shard in the cache was damaged before and fetched again from {url}. Mind the disk of "
                    f"{self.cache.folder}, or name another in data.cache_dir."
                )
            self._renewed.add(number)
            self._retract(entry.name, lease)
        return None

    def sizes(self) -> dict[str, int] | None:
        """Bytes of the files behind the URL; None where its server cannot or will not list them."""
        return self._source.sizes()

    def shown(self, name: str) -> str:
        """The URL of a file, for messages."""
        return shown(child(self.url, name))

    def _try(self, name: str, size: int | None, sha256: str, stopped: Callable[[], bool]) -> Lease | None:
        while True:
            lease = self.cache.lease(self.key, name, size)
            if lease is not None:
                return lease
            with _storing(self.shown(name), self.cache.folder):
                claim = self.cache.claim(self.key, name, self._index_bytes if size is None else size)
                if claim is None and not (self.folder / name).exists():
                    return None
                if claim is not None:
                    self._fetch(claim, name, Expected(size, sha256, self.cache.limit), stopped)

    def _fetch(self, claim: Claim, name: str, expected: Expected, stopped: Callable[[], bool]) -> None:
        try:
            self.cache.publish(claim, self._source.fetch(name, claim.part, expected, stopped))
        finally:
            self.cache.release(claim)

    def _index(self) -> Lease:
        sha256 = self.manifest.index_sha256
        if not (self.folder / INDEX_NAME).exists():
            self._index_bytes = self._source.size(INDEX_NAME) or 0
        lease = self.obtain(INDEX_NAME, None, sha256)
        if _sha256(lease) != sha256:
            self._retract(INDEX_NAME, lease)
            lease = self.obtain(INDEX_NAME, None, sha256)
        return lease

    def _retract(self, name: str, lease: Lease) -> None:
        _log.warning(
            "%s was damaged in the cache after it came from %s, and is fetched again. Mind that disk.",
            lease.path, self.shown(name),
        )  # fmt: skip
        self.cache.retract(lease)

    def _store(self, name: str, data: bytes) -> Lease:
        num_damaged = 0
        while num_damaged < 2:
            with _storing(self.shown(name), self.cache.folder):
                claim = self.cache.claim(self.key, name, len(data))
                if claim is not None:
                    try:
                        part = claim.part(0)
                        part.write_bytes(data)
                        self.cache.publish(claim, part)
                    finally:
                        self.cache.release(claim)
            lease = self.cache.lease(self.key, name, len(data))
            if lease is None:
                time.sleep(POLL_S)
            elif os.pread(lease.fileno(), len(data), 0) == data:
                return lease
            else:
                self._retract(name, lease)
                num_damaged += 1
        raise RuntimeError(
            f"{self.shown(name)} cannot be kept in the cache folder {self.cache.folder}: twice, other bytes are read "
            "than were written. Mind that disk, or name another in data.cache_dir."
        )

    def _manifest(self) -> Manifest:
        try:
            manifest, _ = load_manifest(self.folder)
            for entry in manifest.shards:
                if os.path.basename(entry.name) != entry.name or not entry.name.endswith(".tar"):
                    raise ValueError(
                        f"{self.folder / MANIFEST_NAME} names a shard {entry.name!r}, expected a plain name"
                    )
        except ValueError as error:
            self.cache.retract(self._leases.pop())
            raise ValueError(f"{self.shown(MANIFEST_NAME)}, in the cache, is not to be used: {error}") from None
        return manifest


def _sha256(lease: Lease) -> str:
    with open(os.dup(lease.fileno()), "rb") as file:
        file.seek(0)
        return hashlib.file_digest(file, "sha256").hexdigest()


@contextmanager
def _storing(url: str, folder: Path) -> Iterator[None]:
    """Errors of the disk in words that name the URL and the folder."""
    try:
        yield
    except OSError as error:
        raise RuntimeError(
            f"{url} cannot be kept in the cache folder {folder}: {error.strerror or error}. Make room on that disk, or "
            "name another folder in data.cache_dir."
        ) from None
