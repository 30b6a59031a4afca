"""Replaces damaged samples during a run. Each damaged sample is logged and always replaced by the same other sample.

The replacement is a function of the damaged row and of the run's rows, so it is the same on every rank, for any world
size and after a restart. A sample is damaged if its checksum does not match, or if its shard is missing or truncated.
"""

import logging
import threading
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

import numpy as np

from rspretrain.arrays import Ints
from rspretrain.rng import mix
from rspretrain.shardset.index import ShardSet
from rspretrain.streaming.sources import Sources

ALWAYS_ALLOWED = 10  # damaged samples, also in small sets where `limit` would allow fewer
_log = logging.getLogger(__name__)


@dataclass
class Quarantine:
    """`pool` [N] are the rows that a run may read. RuntimeError if a larger share than `limit` of them is damaged."""

    shards: ShardSet
    pool: Ints
    limit: float
    replacements: dict[int, int] = field(default_factory=dict)  # damaged row -> the row that replaces it
    _lock: threading.Lock = field(default_factory=threading.Lock)

    def replace(self, rows: Ints, is_intact: Callable[[int], bool]) -> Ints:
        """`rows` with every damaged row replaced. `is_intact(row)` checks one row."""
        damaged = [index for index, row in enumerate(rows.tolist()) if not is_intact(row)]
        if not damaged:
            return rows
        replaced = rows.copy()
        with self._lock:
            for index in damaged:
                replaced[index] = self._replacement(int(rows[index]), is_intact)
        return replaced

    def _replacement(self, row: int, is_intact: Callable[[int], bool]) -> int:
        if row not in self.replacements:
            self._check_limit(row)
            attempt = 0
            while not is_intact(candidate := int(self.pool[mix(row, attempt) % len(self.pool)])):
                attempt += 1
            self.replacements[row] = candidate
            _log.warning(
                "Sample %r is damaged; %r replaces it. Run `rspretrain verify %s` to list all damage.",
                *self.shards.keys(np.array([row, candidate])), self.shards.path,
            )  # fmt: skip
        return self.replacements[row]

    def _check_limit(self, row: int) -> None:
        allowed = max(ALWAYS_ALLOWED, int(self.limit * len(self.pool)))
        if len(self.replacements) < min(allowed, len(self.pool) - 1):
            return
        raise RuntimeError(
            f"Sample {self.shards.keys(np.array([row]))[0]!r} is damaged, in addition to {len(self.replacements)} of "
            f"{len(self.pool)} samples; expected a share of at most data.quarantine_limit={self.limit:g}. Run "
            f"`rspretrain verify {self.shards.path}` and restore the shard set from a copy, or raise the limit."
        )


def replacement_report(sources: Sources, replacements: Mapping[int, int]) -> list[dict[str, str]]:
    """Damaged and replacement samples by key, for the summary of a run."""
    rows = np.array(sorted(replacements), dtype=np.int64)
    others = np.array([replacements[row] for row in rows.tolist()], dtype=np.int64)
    return [
        {"key": key, "shard": shard, "replaced_by": other}
        for key, shard, other in zip(sources.keys(rows), sources.shard_names(rows), sources.keys(others), strict=True)
    ]
