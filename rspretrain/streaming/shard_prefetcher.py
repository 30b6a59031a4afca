"""Shards of a remote set, fetched before somebody needs them, by a few threads, in the order of need.

What is wanted is leased from the moment it is here until it is wanted no more, so nobody evicts it in between.
"""

import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

from rspretrain.download.cache import NoRoomError
from rspretrain.download.file_locks import Lease
from rspretrain.download.transfer import Stopped
from rspretrain.shardset.remote import Remote

AGAIN_S = 0.05  # until a thread looks again whether another process is done, or room was made


class ShardPrefetcher:
    """Leases of shards. Threads may share it."""

    def __init__(self, remote: Remote, fetches: int) -> None:
        self._remote, self._fetches = remote, fetches
        self._wanted: Sequence[int] = ()
        self._leases: dict[int, Lease] = {}
        self._failed: dict[int, RuntimeError] = {}
        self._under_way: set[int] = set()
        self._not_before: dict[int, float] = {}  # of those that another process is at, or that find no room
        self._crowded: set[int] = set()  # those that find no room: nothing that is needed later may overtake them
        self._changed = threading.Condition()
        self._stop = threading.Event()

    @contextmanager
    def running(self) -> Iterator[None]:
        """Fetch ahead while the block runs; afterwards nothing is leased."""
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
            self.want(())

    def stop(self) -> None:
        """Give up whatever is being fetched or waited for."""
        self._stop.set()
        with self._changed:
            self._changed.notify_all()

    def want(self, numbers: Sequence[int]) -> None:
        """What is needed from now on, in order; everything else may be evicted."""
        with self._changed:
            self._wanted = numbers
            for number in self._leases.keys() - set(numbers):
                self._leases.pop(number).close()
            self._changed.notify_all()

    def lease(self, number: int) -> Lease:
        """A shard, at once where it was fetched ahead. RuntimeError where it cannot be had or kept."""
        with self._changed:
            # While a thread of ours is at it, wait for that one: its error is ours.
            while number in self._under_way and not self._stop.is_set():
                self._changed.wait(AGAIN_S)
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
        """Have a damaged shard fetched again; None once `lease` gives another copy, else why not. See Remote.renew."""
        why = self._remote.renew(number, stale)
        with self._changed:
            if why is None and self._leases.get(number) is stale:
                del self._leases[number]  # not closed: another thread may be about to map it
                self._changed.notify_all()
        return why

    def _keep(self, number: int, lease: Lease) -> Lease:
        with self._changed:
            return self._leases.setdefault(number, lease)

    def _run(self) -> None:
        while (number := self._next()) is not None:
            lease, crowded = None, False
            try:
                lease = self._remote.try_shard(number, self._stop.is_set)
            except NoRoomError:
                crowded = True  # whoever needs it at last waits for room, or says that there is none
            except Stopped:
                pass
            except RuntimeError as error:
                self._failed[number] = error
            with self._changed:
                self._settle(number, lease, crowded)

    def _settle(self, number: int, lease: Lease | None, crowded: bool) -> None:
        self._under_way.discard(number)
        (self._crowded.add if crowded else self._crowded.discard)(number)
        if lease is None:
            self._not_before[number] = time.monotonic() + AGAIN_S
        elif number in self._wanted:
            self._leases.setdefault(number, lease)
        else:
            lease.close()
        self._changed.notify_all()

    def _next(self) -> int | None:
        """The next shard to look for; waits until there is one. None when it is time to stop."""
        with self._changed:
            while not self._stop.is_set():
                settled = self._leases.keys() | self._failed.keys()
                missing = [number for number in self._wanted if number not in settled]
                now = time.monotonic()
                for number in missing:
                    if number not in self._under_way and self._not_before.get(number, 0.0) <= now:
                        self._under_way.add(number)
                        return number
                    if number in self._crowded:
                        break
                self._changed.wait(AGAIN_S if missing else None)
            return None
