"""A shard set behind a URL: manifest and index are downloaded when it is opened, shards on demand.

Files are cached under the SHA-256 of the manifest, so different versions of a set never mix.
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
from rspretrain.download.file_locks import Lease, Reservation
from rspretrain.download.partial_file import Expected
from rspretrain.download.protocols import child, display_url
from rspretrain.download.transfer import LONGEST_BACKOFF_S, RetryPolicy, Source, Stopped, TransferError
from rspretrain.shardset.manifest import INDEX_NAME, MANIFEST_NAME, Manifest, load_manifest

POLL_S, LONGEST_POLL_S = 0.02, 0.2  # one check of a cache of ten thousand shards takes 5 to 40 ms
_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class RemoteOptions:
    """Options of downloads and of the cache for shard sets behind URLs."""

    folder: Path | None = None  # of the cache; None: cache.default_folder
    limit: int = 100 * 10**9  # size of the cache in bytes, shared by all processes of the node
    retry_policy: RetryPolicy = field(default_factory=RetryPolicy)


class Remote:
    """One shard set behind a URL, and its files in the cache. Thread-safe."""

    def __init__(self, url: str, options: RemoteOptions) -> None:
        self.url, self._retry_policy = url, options.retry_policy
        self.cache = Cache(options.folder or default_folder(), options.limit)
        self._source = Source(url, options.retry_policy)
        self._index_bytes = 0  # size of the index as reported by the server, 0 if unknown
        self._renewed: set[int] = set()  # shards downloaded again because their copy in the cache was damaged
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
        except RuntimeError as error:  # a disk error
            raise ValueError(str(error)) from None

    @property
    def folder(self) -> Path:
        """The folder of the set in the cache."""
        return self.cache.folder / self.key

    @property
    def kept_bytes(self) -> int:
        """Bytes of the manifest and the index, which stay in the cache while the set is open."""
        return sum(os.fstat(lease.fileno()).st_size for lease in self._leases)

    def shard(self, number: int, stopped: Callable[[], bool] = lambda: False) -> Lease:
        """A shard, downloaded if necessary. See `obtain`."""
        entry = self.manifest.shards[number]
        return self.obtain(entry.name, entry.bytes, entry.sha256, stopped)

    def try_shard(self, number: int, stopped: Callable[[], bool] = lambda: False) -> Lease | None:
        """Like `shard`, but returns None while another process downloads it. NoRoomError if the cache is full."""
        entry = self.manifest.shards[number]
        return self._try(entry.name, entry.bytes, entry.sha256, stopped)

    def obtain(self, name: str, size: int | None, sha256: str, stopped: Callable[[], bool] = lambda: False) -> Lease:
        """A verified file of the set. It is downloaded once for all processes that share the cache.

        TransferError if the download fails, RuntimeError if it cannot be stored, Stopped when `stopped()` is true.
        """
        seen, since, pause_s = None, time.monotonic(), POLL_S
        while True:
            now: object
            try:
                lease = self._try(name, size, sha256, stopped)
                if lease is not None:
                    return lease
                now, longest_s = (
                    self.cache.progress(self.key, name),
                    2 * self._retry_policy.timeout_s + LONGEST_BACKOFF_S,
                )
                why = "the process that downloads it makes no progress. End that process"
            except NoRoomError as error:
                # Jitter: if two jobs wait for room that the other one holds, one gives up first, and the other
                # continues.
                now, longest_s, why = "no room", self._retry_policy.timeout_s * (1 + self._jitter), str(error)
            if now != seen:
                seen, since = now, time.monotonic()
            elif time.monotonic() - since > longest_s:
                raise RuntimeError(f"{self.display_url(name)} did not arrive within {longest_s:.3g} s: {why}.")
            time.sleep(pause_s)
            pause_s = min(1.5 * pause_s, LONGEST_POLL_S)
            if stopped():
                raise Stopped(f"{self.display_url(name)}: the download was cancelled.")

    def renew(self, number: int, lease: Lease) -> str | None:
        """Discard the cached copy of a shard that does not match the index, so that it is downloaded again.

        None if the shard can be read again. Else the reason why not: the copy equals the file behind the URL, or this
        process already discarded one before (which ends the loop on a damaged disk).
        """
        entry = self.manifest.shards[number]
        url = self.display_url(entry.name)
        with self._renewing:
            if not lease.is_current:  # another thread or process did it first
                return None
            if _sha256(lease) == entry.sha256:
                return (
                    f"Its shard in the cache is the one behind {url}, so that shard and {INDEX_NAME} are from "
                    "different builds. Build the set again, and upload all of its files."
                )
            if number in self._renewed:
                return (
                    f"Its shard in the cache was damaged before and downloaded again from {url}. Check the disk of "
                    f"{self.cache.folder}, or set another folder in data.cache_dir."
                )
            self._renewed.add(number)
            self._retract(entry.name, lease)
        return None

    def sizes(self) -> dict[str, int] | None:
        """Sizes of the files behind the URL in bytes; None if the server does not list them."""
        return self._source.sizes()

    def display_url(self, name: str) -> str:
        """The URL of a file without secrets, for messages."""
        return display_url(child(self.url, name))

    def _try(self, name: str, size: int | None, sha256: str, stopped: Callable[[], bool]) -> Lease | None:
        while True:
            lease = self.cache.lease(self.key, name, size)
            if lease is not None:
                return lease
            with _disk_errors(self.display_url(name), self.cache.folder):
                reservation = self.cache.reserve(self.key, name, self._index_bytes if size is None else size)
                if reservation is None and not (self.folder / name).exists():
                    return None
                if reservation is not None:
                    self._fetch(reservation, name, Expected(size, sha256, self.cache.limit), stopped)

    def _fetch(self, reservation: Reservation, name: str, expected: Expected, stopped: Callable[[], bool]) -> None:
        try:
            self.cache.publish(reservation, self._source.fetch(name, reservation.part, expected, stopped))
        finally:
            self.cache.release(reservation)

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
            "%s was damaged in the cache after the download from %s, and is downloaded again. Check that disk.",
            lease.path, self.display_url(name),
        )  # fmt: skip
        self.cache.discard(lease)

    def _store(self, name: str, data: bytes) -> Lease:
        num_damaged = 0
        while num_damaged < 2:
            with _disk_errors(self.display_url(name), self.cache.folder):
                reservation = self.cache.reserve(self.key, name, len(data))
                if reservation is not None:
                    try:
                        part = reservation.part(0)
                        part.write_bytes(data)
                        self.cache.publish(reservation, part)
                    finally:
                        self.cache.release(reservation)
            lease = self.cache.lease(self.key, name, len(data))
            if lease is None:
                time.sleep(POLL_S)
            elif os.pread(lease.fileno(), len(data), 0) == data:
                return lease
            else:
                self._retract(name, lease)
                num_damaged += 1
        raise RuntimeError(
            f"{self.display_url(name)} cannot be stored in the cache folder {self.cache.folder}: twice, the bytes read "
            "differed from those written. Check that disk, or set another folder in data.cache_dir."
        )

    def _manifest(self) -> Manifest:
        try:
            manifest, _ = load_manifest(self.folder)
            for entry in manifest.shards:
                if os.path.basename(entry.name) != entry.name or not entry.name.endswith(".tar"):
                    raise ValueError(
                        f"{self.folder / MANIFEST_NAME} names a shard {entry.name!r}, expected a plain file name"
                    )
        except ValueError as error:
            self.cache.discard(self._leases.pop())
            raise ValueError(f"{self.display_url(MANIFEST_NAME)}, in the cache, cannot be used: {error}") from None
        return manifest


def _sha256(lease: Lease) -> str:
    with open(os.dup(lease.fileno()), "rb") as file:
        file.seek(0)
        return hashlib.file_digest(file, "sha256").hexdigest()


@contextmanager
def _disk_errors(url: str, folder: Path) -> Iterator[None]:
    """Convert disk errors to a RuntimeError that names the URL and the folder."""
    try:
        yield
    except OSError as error:
        raise RuntimeError(
            f"{url} cannot be stored in the cache folder {folder}: {error.strerror or error}. Free space on that disk, "
            "or set another folder in data.cache_dir."
        ) from None
