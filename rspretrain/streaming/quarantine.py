"""Damaged samples while a run goes on: each is left out by name, and one other sample always stands in for it.

Which one is a function of the sample and of the run's set of samples alone: every rank, in any world and after any
restart, takes the same. A sample is found damaged when its checksum does not hold, or its shard is missing or cut off.
"""

import logging
import threading
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from rspretrain.rng import mix
from rspretrain.shardset.index import ShardSet
from rspretrain.streaming.sources import Sources

Ints = NDArray[np.int64]
ALWAYS_ALLOWED = 10  # samples, however few a set has
_log = logging.getLogger(__name__)


@dataclass
class Quarantine:
    """`pool` are the rows [N] that a run may see; more than `limit` of them damaged end the run (RuntimeError)."""

    shards: ShardSet
    pool: Ints
    limit: float
    stand_ins: dict[int, int] = field(default_factory=dict)  # damaged row -> the row that is taken for it
    _lock: threading.Lock = field(default_factory=threading.Lock)

    def replace(self, rows: Ints, is_sound: Callable[[int], bool]) -> Ints:
        """`rows` with every damaged one replaced. `is_sound` is asked about every candidate."""
        damaged = [place for place, row in enumerate(rows.tolist()) if not is_sound(row)]
        if not damaged:
            return rows
        sound = rows.copy()
        with self._lock:
            for place in damaged:
                sound[place] = self._stand_in(int(rows[place]), is_sound)
        return sound

    def _stand_in(self, row: int, is_sound: Callable[[int], bool]) -> int:
        if row not in self.stand_ins:
            self._count_one_more(row)
            attempt = 0
            while not is_sound(candidate := int(self.pool[mix(row, attempt) % len(self.pool)])):
                attempt += 1
            self.stand_ins[row] = candidate
            _log.warning(
                "Sample %r is damaged and quarantined; %r stands in for it. Run shards/verify.py %s for the extent.",
                *self.shards.keys(np.array([row, candidate])), self.shards.path,
            )  # fmt: skip
        return self.stand_ins[row]

    def _count_one_more(self, row: int) -> None:
        allowed = max(ALWAYS_ALLOWED, int(self.limit * len(self.pool)))
        if len(self.stand_ins) < min(allowed, len(self.pool) - 1):
            return
        raise RuntimeError(
            f"Sample {self.shards.keys(np.array([row]))[0]!r} is damaged, and {len(self.stand_ins)} were before, of "
            f"{len(self.pool)}: more than data.quarantine_limit {self.limit:g}. That is no longer a damaged sample but "
            f"a damaged shard set: run shards/verify.py {self.shards.path}, and restore it from a copy."
        )


def told(sources: Sources, stand_ins: Mapping[int, int]) -> list[dict[str, str]]:
    """Damaged row -> stand-in, in the words of a run's summary."""
    rows = np.array(sorted(stand_ins), dtype=np.int64)
    others = np.array([stand_ins[row] for row in rows.tolist()], dtype=np.int64)
    return [
        {"key": key, "shard": shard, "replaced_by": other}
        for key, shard, other in zip(sources.keys(rows), sources.shard_names(rows), sources.keys(others), strict=True)
    ]
