"""Shards to batches: the order says which samples, threads gather them ahead into reused buffers, the device gets them.

The state of the loader is the global step; everything else follows from it (`Loader.batches(first_step)`).
"""

from collections.abc import Iterator, Sequence
from itertools import chain

import numpy as np
import torch
from numpy.typing import NDArray

from rspretrain.batch import Batch
from rspretrain.rng import mix, sample_seeds
from rspretrain.shardset.index import ShardSet
from rspretrain.streaming.batch_plan import BatchPlan, EpochPlan, Picks
from rspretrain.streaming.joint_reader import JointReader
from rspretrain.streaming.lookahead import Lookahead, bytes_at_once
from rspretrain.streaming.mixture import Mixture
from rspretrain.streaming.pipeline import Pipeline, Work
from rspretrain.streaming.quarantine import Quarantine
from rspretrain.streaming.reader import Reader
from rspretrain.streaming.sampler import EpochSampler, rank_slice
from rspretrain.streaming.settings import DataSettings
from rspretrain.streaming.sources import Sources
from rspretrain.world import World, local_size

Ints = NDArray[np.int64]
_SOURCE = 5  # a purpose of keys: what is random about a further source of a mixture


class Loader:
    """The endless stream of one rank's batches, a pure function of (shard sets, settings, seed, global batch, step).

    `rows`: what an epoch of a single set goes through, ascending, some perhaps several times; None: what `settings`
    choose. ValueError where a set has too few samples or shards, or the cache of remote sets too little room.
    """

    def __init__(
        self,
        sources: Sources | ShardSet,
        settings: DataSettings,
        groups: Sequence[str],
        *,
        global_batch: int,
        seed: int,
        world: World,
        rows: Ints | None = None,
    ) -> None:
        self.sources = sources if isinstance(sources, Sources) else Sources({sources.path.name: sources})
        self._settings, self._world, self._global_batch = settings, world, global_batch
        self._slice = rank_slice(global_batch, world.rank, world.size)
        sets = list(self.sources.sets.values())
        # Rows of every set are sorted by shard, as those of its index are.
        self._rows = [rows] if rows is not None else [
            shards.select(source.split, source.filter)
            for shards, source in zip(sets, settings.all_sources(), strict=True)
        ]  # fmt: skip
        self._seeds = [mix(seed, _SOURCE, number) if number else seed for number in range(len(sets))]
        self._batches = self._plan_batches(seed)
        self.num_samples = sum(len(rows) for rows in self._rows)
        self.steps_per_epoch, self.dropped = self._batches.steps_per_epoch, self._batches.dropped
        if not self.steps_per_epoch:
            raise ValueError(
                f"{self.sources.name} has {self.num_samples} samples "
                + (f"in split {settings.split!r} with the filter {settings.filter!r}" if rows is None else "chosen")
                + f", fewer than one global batch of {global_batch}. Lower train.global_batch."
            )
        self._check_cache()
        self._reader = JointReader(self.sources, [self._reader_of(number, groups) for number in range(len(sets))])
        self._pipeline = Pipeline(
            self._reader,
            list(groups),
            global_batch // world.size,
            threads=settings.threads,
            prefetch=settings.prefetch,
            device=world.device,
        )

    def _plan_batches(self, seed: int) -> BatchPlan:
        orders = []
        for number, (name, shards) in enumerate(self.sources.sets.items()):
            sizes = np.bincount(shards.numbers("shard")[self._rows[number]], minlength=len(shards.manifest.shards))
            try:
                orders.append(EpochSampler(
                    sizes.astype(np.int64), seed=self._seeds[number], streams=self._settings.streams,
                    window=self._settings.window,
                ))  # fmt: skip
            except ValueError as error:
                raise ValueError(f"{name}: {error}") from None
        if not self._settings.sources:
            return EpochPlan(orders[0], self._global_batch)
        weights = [source.weight or len(rows) for source, rows in zip(self._settings.sources, self._rows, strict=True)]
        return Mixture(orders, weights, self._global_batch, seed)

    def _reader_of(self, number: int, groups: Sequence[str]) -> Reader:
        shards, settings = list(self.sources.sets.values())[number], self._settings
        quarantine = None
        if settings.on_corrupt == "quarantine":
            quarantine = Quarantine(shards, self._rows[number], settings.quarantine_limit)
        fetches = max(1, settings.fetches // (local_size() * len(self.sources.sets)))
        return Reader(shards, groups, verify=settings.verify, quarantine=quarantine, fetches=fetches)

    @property
    def wait_s(self) -> float:
        """Seconds that the consumer has waited for data since the start."""
        return self._pipeline.wait_s

    @property
    def cpu_s(self) -> float:
        """Seconds that this rank's gathering threads have computed since the start."""
        return self._pipeline.cpu_s

    @property
    def num_replaced(self) -> int:
        """How many samples of the batches so far stood in for damaged ones."""
        return self._pipeline.num_replaced

    @property
    def stand_ins(self) -> dict[int, int]:
        """Damaged row -> the row that is taken for it, as far as this rank has found them."""
        return self._reader.stand_ins

    def batches(self, first_step: int = 0) -> Iterator[Batch]:
        """This rank's batches from a global step on, over all epochs; the last, short batch of an epoch is dropped."""
        if not any(shards.remote for shards in self.sources.sets.values()):
            return self._pipeline.run(self._work(first_step))
        horizon = Lookahead(self._batches, self._slice)
        return self._pipeline.run(
            self._work(first_step), lambda first, last: horizon.shards(first_step + first, first_step + last)
        )

    def _work(self, step: int) -> Iterator[Work]:
        while True:
            yield Work(*self._resolve(self._batches.picks(step, self._slice)))
            step += 1

    def _resolve(self, picks: Picks) -> tuple[Ints, Ints]:
        """[B] rows and [B] seeds of some picks."""
        rows, seeds = np.empty_like(picks.position), np.empty_like(picks.position)
        for number, epoch in sorted({*zip(picks.source.tolist(), picks.epoch.tolist(), strict=True)}):
            here = (picks.source == number) & (picks.epoch == epoch)
            positions = picks.position[here]
            samples = self._batches.orders[number].samples(epoch, positions)
            rows[here] = self.sources.first_rows[number] + self._rows[number][samples]
            seeds[here] = sample_seeds(self._seeds[number], epoch, positions)
        return rows, seeds

    def global_batch(self, step: int) -> tuple[list[str], Ints]:
        """Keys and seeds [G] of the whole global batch of a step, in order, without reading a pixel."""
        rows, seeds = self._resolve(self._batches.picks(step))
        return self.sources.keys(rows), seeds

    def samples_of(self, step: int) -> dict[str, int]:
        """Source -> how many of its samples the first `step` steps have."""
        return dict(zip(self.sources.sets, self._batches.counts(step).tolist(), strict=True))

    def epochs_of(self, step: int) -> dict[str, float]:
        """Source -> how often the first `step` steps went through it."""
        counts = self.samples_of(step)
        return {name: counts[name] / len(rows) for name, rows in zip(counts, self._rows, strict=True)}

    def _check_cache(self) -> None:
        """Remote sets of one run lie in one cache: it must hold what all of them need at once."""
        remotes = [shards.remote for shards in self.sources.sets.values() if shards.remote]
        if remotes:
            need = sum(remote.kept_bytes for remote in remotes) + self.bytes_at_once()
            remotes[0].cache.check(need, *(remote.key for remote in remotes))

    def bytes_at_once(self) -> int:
        """An upper bound of what this node must hold of the shards of remote sets at once."""
        node = self._world.rank - self._world.local_rank
        ranks = range(node, min(node + local_size(), self._world.size))
        total = 0
        for order, shards in zip(self._batches.orders, self.sources.sets.values(), strict=True):
            if shards.remote:
                shard_bytes = np.array([entry.bytes for entry in shards.manifest.shards], dtype=np.int64)
                total += bytes_at_once(
                    order, shard_bytes, self._global_batch, self._settings.prefetch, ranks, self._world.size
                )
        return total

    @property
    def shards_needed(self) -> list[Ints]:
        """For every source the numbers of the shards that have samples of this run, ascending."""
        return [np.flatnonzero(order.sizes) for order in self._batches.orders]

    def plan(self) -> dict[str, int]:
        """Numbers for a person who wants to know before the run starts."""
        record_bytes = sum(
            int(shards.numbers("bytes")[rows].sum())
            for shards, rows in zip(self.sources.sets.values(), self._rows, strict=True)
        )
        return {
            "samples": self.num_samples,
            "steps_per_epoch": self.steps_per_epoch,
            "dropped_per_epoch": self.dropped,
            "shards": sum(int(np.count_nonzero(order.sizes)) for order in self._batches.orders),
            "bytes_per_epoch": record_bytes,
            "bytes_per_epoch_and_rank": record_bytes // self._world.size,
        }


def evaluation_batches(
    shards: ShardSet,
    groups: Sequence[str],
    rows: Ints,
    batch_size: int,
    device: torch.device | None = None,
) -> Iterator[Batch]:
    """The samples of `rows` once, in that order; the last batch is short, nothing is padded or repeated."""
    reader = JointReader(Sources({shards.path.name: shards}), [Reader(shards, groups)])
    pipeline = Pipeline(
        reader, list(groups), batch_size, threads=2, prefetch=2, device=device or torch.device("cpu")
    )  # fmt: skip
    cuts = [rows[start : start + batch_size] for start in range(0, len(rows), batch_size)]
    work = (Work(cut, sample_seeds(0, 0, cut)) for cut in cuts)
    if not shards.remote:
        return pipeline.run(work)
    needs = [np.unique(shards.numbers("shard")[cut]).tolist() for cut in cuts]
    return pipeline.run(work, lambda first, last: [list(dict.fromkeys(chain(*needs[first : last + 2])))])
