"""Downloads shards of a remote set in advance, with several threads, in the order in which they are needed.

A requested shard is leased from the end of its download until it is no longer requested, so that no process evicts it.
"""

import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

from rspretrain.download.cache import NoRoomError
from rspretrain.download.file_locks import Lease
from rspretrain.download.transfer import Stopped
from rspretrain.shardset.remote import Remote

POLL_S = 0.05  # interval between checks for the end of another process's download, or for free space


class ShardPrefetcher:
    """Leases of requested shards. Thread-safe."""

    def __init__(self, remote: Remote, fetches: int) -> None:
        self._remote, self._fetches = remote, fetches
        self._requested: Sequence[int] = ()
        self._leases: dict[int, Lease] = {}
        self._failed: dict[int, RuntimeError] = {}
        self._in_progress: set[int] = set()
        # Time of the next attempt, for shards that another process downloads or that have no space in the cache.
        self._retry_at: dict[int, float] = {}
        self._no_space: set[int] = set()  # no shard that is needed later may be downloaded before these
        self._changed = threading.Condition()
        self._stop = threading.Event()

    @contextmanager
    def running(self) -> Iterator[None]:
        """Download requested shards while the block runs. All leases are released at its end."""
        self._stop.clear()
        threads = [threading.Thread(target=self._run, name="fetch", daemon=True) for _ in range(self._fetches)]
        for thread in threads:
            thread.start()
        try:
            yield
        finally:
            self.stop()
            for thread in threads:
                thread.join()
            self.request(())

    def stop(self) -> None:
        """Cancel all downloads and waits."""
        self._stop.set()
        with self._changed:
            self._changed.notify_all()

    def request(self, numbers: Sequence[int]) -> None:
        """Set the shards that are needed from now on, in order. All other leases are released."""
        with self._changed:
            self._requested = numbers
            for number in self._leases.keys() - set(numbers):
                self._leases.pop(number).close()
            self._changed.notify_all()

    def lease(self, number: int) -> Lease:
        """The lease of a shard; waits for the download if needed. RuntimeError if it fails or has no space."""
        with self._changed:
            # If a thread of this prefetcher downloads it, wait for its result or error.
            while number in self._in_progress and not self._stop.is_set():
                self._changed.wait(POLL_S)
            if number in self._failed:
                raise self._failed[number]
            if number in self._leases:
                return self._leases[number]
        try:
            return self._keep(number, self._remote.shard(number, self._stop.is_set))
        except Stopped:
            raise
        except RuntimeError as error:
            self._failed[number] = error
            raise

    def renew(self, number: int, stale: Lease) -> str | None:
        """Download a damaged shard again; None if `lease` now returns a new copy, else the reason. See Remote.renew."""
        reason = self._remote.renew(number, stale)
        with self._changed:
            if reason is None and self._leases.get(number) is stale:
                del self._leases[number]  # not closed: another thread may be about to map it
                self._changed.notify_all()
        return reason

    def _keep(self, number: int, lease: Lease) -> Lease:
        with self._changed:
            return self._leases.setdefault(number, lease)

    def _run(self) -> None:
        while (number := self._next()) is not None:
            lease, no_space = None, False
            try:
                lease = self._remote.try_shard(number, self._stop.is_set)
            except NoRoomError:
                no_space = True  # no error yet: `lease` waits for space, and fails if there is none
            except Stopped:
                pass
            except RuntimeError as error:
                self._failed[number] = error
            with self._changed:
                self._record(number, lease, no_space)

    def _record(self, number: int, lease: Lease | None, no_space: bool) -> None:
        self._in_progress.discard(number)
        (self._no_space.add if no_space else self._no_space.discard)(number)
        if lease is None:
            self._retry_at[number] = time.monotonic() + POLL_S
        elif number in self._requested:
            self._leases.setdefault(number, lease)
        else:
            lease.close()
        self._changed.notify_all()

    def _next(self) -> int | None:
        """Wait for the next shard to download. None after `stop`."""
        with self._changed:
            while not self._stop.is_set():
                done = self._leases.keys() | self._failed.keys()
                missing = [number for number in self._requested if number not in done]
                now = time.monotonic()
                for number in missing:
                    if number not in self._in_progress and self._retry_at.get(number, 0.0) <= now:
                        self._in_progress.add(number)
                        return number
                    if number in self._no_space:
                        break
                self._changed.wait(POLL_S if missing else None)
            return None
