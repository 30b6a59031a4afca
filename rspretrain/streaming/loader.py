"""The data loader of a run: the sampler orders samples, threads gather them into reused buffers, a device gets batches.

The state of the loader is the global step; everything else is derived from it (`Loader.batches(first_step)`).
"""

from collections.abc import Iterator, Sequence
from itertools import chain

import numpy as np
import torch

from rspretrain.arrays import Ints
from rspretrain.batch import Batch
from rspretrain.rng import mix, sample_seeds
from rspretrain.shardset.index import ShardSet
from rspretrain.streaming.batch_plan import BatchPlan, EpochPlan, SampleIndices
from rspretrain.streaming.lookahead import Lookahead, cache_bytes_needed
from rspretrain.streaming.mixture import Mixture
from rspretrain.streaming.pipeline import Pipeline, WorkItem
from rspretrain.streaming.quarantine import Quarantine
from rspretrain.streaming.reader import JointReader, Reader
from rspretrain.streaming.sampler import EpochSampler, rank_slice
from rspretrain.streaming.settings import DataSettings
from rspretrain.streaming.sources import Sources
from rspretrain.world import World, local_size

_SOURCE = 5  # purpose of the seeds of a mixture's second and later sources, see sampler.py


class Loader:
    """The endless stream of one rank's batches, a pure function of (shard sets, settings, seed, global batch, step).

    `rows`: the samples of an epoch of a single set, ascending, repeats allowed; None: the split and filter in
    `settings` select them. ValueError if a set has too few samples or shards, or the cache of remote sets is too small.
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
        # Rows of a set are sorted by shard, because its index is.
        self._rows = [rows] if rows is not None else [
            shards.select(source.split, source.filter)
            for shards, source in zip(sets, settings.all_sources(), strict=True)
        ]  # fmt: skip
        self._seeds = [mix(seed, _SOURCE, number) if number else seed for number in range(len(sets))]
        self._plan = self._plan_batches(seed)
        self.num_samples = sum(len(rows) for rows in self._rows)
        self.steps_per_epoch, self.dropped = self._plan.steps_per_epoch, self._plan.dropped
        if not self.steps_per_epoch:
            raise ValueError(
                f"{self.sources.name} has {self.num_samples} samples "
                + (f"in split {settings.split!r} with filter {settings.filter!r}" if rows is None else "selected")
                + f", expected at least one global batch of {global_batch}. Lower train.global_batch."
            )
        self._check_cache()
        self._reader = JointReader(self.sources, [self._make_reader(number, groups) for number in range(len(sets))])
        self._pipeline = Pipeline(
            self._reader,
            list(groups),
            global_batch // world.size,
            threads=settings.threads,
            prefetch=settings.prefetch,
            device=world.device,
        )

    def _plan_batches(self, seed: int) -> BatchPlan:
        samplers = []
        for number, (name, shards) in enumerate(self.sources.sets.items()):
            sizes = np.bincount(shards.numbers("shard")[self._rows[number]], minlength=len(shards.manifest.shards))
            try:
                samplers.append(EpochSampler(
                    sizes.astype(np.int64), seed=self._seeds[number], streams=self._settings.streams,
                    window=self._settings.window,
                ))  # fmt: skip
            except ValueError as error:
                raise ValueError(f"{name}: {error}") from None
        if not self._settings.sources:
            return EpochPlan(samplers[0], self._global_batch)
        weights = [source.weight or len(rows) for source, rows in zip(self._settings.sources, self._rows, strict=True)]
        return Mixture(samplers, weights, self._global_batch, seed)

    def _make_reader(self, number: int, groups: Sequence[str]) -> Reader:
        shards, settings = list(self.sources.sets.values())[number], self._settings
        quarantine = None
        if settings.on_corrupt == "quarantine":
            quarantine = Quarantine(shards, self._rows[number], settings.quarantine_limit)
        fetches = max(1, settings.fetches // (local_size() * len(self.sources.sets)))
        return Reader(shards, groups, verify=settings.verify, quarantine=quarantine, fetches=fetches)

    @property
    def wait_s(self) -> float:
        """Seconds that the consumer has waited for data since the start of the process."""
        return self._pipeline.wait_s

    @property
    def cpu_s(self) -> float:
        """CPU seconds that this rank's gathering threads have used since the start of the process."""
        return self._pipeline.cpu_s

    @property
    def num_replaced(self) -> int:
        """The number of samples so far that replaced damaged ones."""
        return self._pipeline.num_replaced

    @property
    def replacements(self) -> dict[int, int]:
        """Damaged row -> the row that replaces it, of the damaged rows that this rank has found."""
        return self._reader.replacements

    def batches(self, first_step: int = 0) -> Iterator[Batch]:
        """This rank's batches from step `first_step` on, without end; the short last batch of an epoch is dropped."""
        if not any(shards.remote for shards in self.sources.sets.values()):
            return self._pipeline.run(self._work(first_step))
        lookahead = Lookahead(self._plan, self._slice)
        return self._pipeline.run(
            self._work(first_step), lambda first, last: lookahead.shards(first_step + first, first_step + last)
        )

    def _work(self, step: int) -> Iterator[WorkItem]:
        while True:
            yield WorkItem(*self._rows_and_seeds(self._plan.indices(step, self._slice)))
            step += 1

    def _rows_and_seeds(self, indices: SampleIndices) -> tuple[Ints, Ints]:
        """[B] rows and [B] seeds of the samples of a batch."""
        rows, seeds = np.empty_like(indices.position), np.empty_like(indices.position)
        for number, epoch in sorted({*zip(indices.source.tolist(), indices.epoch.tolist(), strict=True)}):
            selected = (indices.source == number) & (indices.epoch == epoch)
            positions = indices.position[selected]
            samples = self._plan.samplers[number].samples(epoch, positions)
            rows[selected] = self.sources.first_rows[number] + self._rows[number][samples]
            seeds[selected] = sample_seeds(self._seeds[number], epoch, positions)
        return rows, seeds

    def global_batch(self, step: int) -> tuple[list[str], Ints]:
        """Keys and seeds [G] of the whole global batch of a step, in order. Reads no pixels."""
        rows, seeds = self._rows_and_seeds(self._plan.indices(step))
        return self.sources.keys(rows), seeds

    def samples_seen(self, step: int) -> dict[str, int]:
        """Source -> the number of its samples in the first `step` steps."""
        return dict(zip(self.sources.sets, self._plan.counts(step).tolist(), strict=True))

    def epochs_seen(self, step: int) -> dict[str, float]:
        """Source -> the number of its epochs in the first `step` steps."""
        counts = self.samples_seen(step)
        return {name: counts[name] / len(rows) for name, rows in zip(counts, self._rows, strict=True)}

    def _check_cache(self) -> None:
        """The remote sets of a run share one cache, which must hold what all of them need at the same time."""
        remotes = [shards.remote for shards in self.sources.sets.values() if shards.remote]
        if remotes:
            need = sum(remote.kept_bytes for remote in remotes) + self.cache_bytes_needed()
            remotes[0].cache.check(need, *(remote.key for remote in remotes))

    def cache_bytes_needed(self) -> int:
        """An upper bound of the bytes of remote shards that this node needs in its cache at the same time."""
        node = self._world.rank - self._world.local_rank
        ranks = range(node, min(node + local_size(), self._world.size))
        total = 0
        for sampler, shards in zip(self._plan.samplers, self.sources.sets.values(), strict=True):
            if shards.remote:
                shard_bytes = np.array([entry.bytes for entry in shards.manifest.shards], dtype=np.int64)
                total += cache_bytes_needed(
                    sampler, shard_bytes, self._global_batch, self._settings.prefetch, ranks, self._world.size
                )
        return total

    @property
    def shards_needed(self) -> list[Ints]:
        """The numbers of the shards of each source that this run reads, ascending."""
        return [np.flatnonzero(sampler.sizes) for sampler in self._plan.samplers]

    def plan(self) -> dict[str, int]:
        """Numbers of samples, steps, shards and bytes, for display before the run starts."""
        record_bytes = sum(
            int(shards.numbers("bytes")[rows].sum())
            for shards, rows in zip(self.sources.sets.values(), self._rows, strict=True)
        )
        return {
            "samples": self.num_samples,
            "steps_per_epoch": self.steps_per_epoch,
            "dropped_per_epoch": self.dropped,
            "shards": sum(int(np.count_nonzero(sampler.sizes)) for sampler in self._plan.samplers),
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
    """Batches of the samples of `rows`, in that order. The last batch may be short; nothing is padded or repeated."""
    reader = JointReader(Sources({shards.path.name: shards}), [Reader(shards, groups)])
    pipeline = Pipeline(
        reader, list(groups), batch_size, threads=2, prefetch=2, device=device or torch.device("cpu")
    )  # fmt: skip
    cuts = [rows[start : start + batch_size] for start in range(0, len(rows), batch_size)]
    work = (WorkItem(cut, sample_seeds(0, 0, cut)) for cut in cuts)
    if not shards.remote:
        return pipeline.run(work)
    needs = [np.unique(shards.numbers("shard")[cut]).tolist() for cut in cuts]
    return pipeline.run(work, lambda first, last: [list(dict.fromkeys(chain(*needs[first : last + 2])))])
