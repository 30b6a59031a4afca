"""Build shards from an archive: one tar and one receipt per chunk of entries, then index and manifest.

A shard depends on its entries alone, so any process on any node may build it at any time, even twice: the bytes are the
same. Patches that cannot be converted without loss are left out, and listed in build_report.json.
"""

import hashlib
import itertools
import multiprocessing
import multiprocessing.connection
import multiprocessing.context
import multiprocessing.forkserver
import os
import sys
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass, field
from pathlib import Path

from rspretrain.archives.base import Archive, Entry
from rspretrain.files import atomic
from rspretrain.patch import Fault, PatchError, PatchExcluded
from rspretrain.shardset.building.assemble import BuildReport, assemble, make_report
from rspretrain.shardset.building.plan import Listing, Plan, list_entries, plan_build
from rspretrain.shardset.building.receipt import Receipt, ShardStatistics, is_finished, read_receipt, write_receipt
from rspretrain.shardset.building.workdir import finished_report, lock_build, read_listing_faults, remove_workdir
from rspretrain.shardset.manifest import BUILD_FOLDER, ShardEntry
from rspretrain.shardset.record import END_OF_TAR, RAW, check_patch, encode, matches_layout
from rspretrain.shardset.rows import Row, index_row, shard_table

Progress = Callable[[int, int], None]


@dataclass(frozen=True)
class Part:
    """The part of a build that one node does: every `of`-th shard, starting at `number` (counted from 1)."""

    number: int = 1
    of: int = 1

    def __post_init__(self) -> None:
        if not 1 <= self.number <= self.of:
            raise ValueError(
                f"part {self.number}/{self.of} does not exist, expected i/n with 1 <= i <= n. Correct --part."
            )

    def shards(self, plan: Plan) -> range:
        """The numbers of this part's shards."""
        return range(self.number - 1, plan.num_shards, self.of)


def build_shards(
    archive: Archive,
    out: Path,
    *,
    samples_per_shard: int = 1024,
    shuffle: bool = True,
    codec: str = RAW,
    workers: int = 1,
    part: Part = Part(),
    progress: Progress = lambda done, total: None,
) -> BuildReport:
    """Build a shard set from an archive, or continue an unfinished build. Does nothing if it is finished.

    The bytes depend on the archive, `samples_per_shard`, `shuffle` and `codec`, but not on `workers`, parts and
    interruptions. `shuffle` distributes the entries by a hash of their keys, so that every shard is a random sample. A
    part has shards and receipts, but no manifest; `merge_parts` joins parts. `progress` gets the numbers of finished
    and of all entries. ValueError if `out` holds something else, another process builds there, or no patch was
    converted.
    """
    listing = list_entries(archive, shuffle=shuffle, samples_per_shard=samples_per_shard)
    plan = plan_build(archive, listing, samples_per_shard=samples_per_shard, shuffle=shuffle, codec=codec)
    if (report := finished_report(out, plan)) is not None:
        progress(plan.entries, plan.entries)
        return report
    with lock_build(out, plan, listing.faults, exclusive=part.of == 1):
        _build_missing(_Job(archive, plan, out), listing, part, workers, progress)
        receipts = [read_receipt(out, plan.shard_name(number), archive.groups) for number in part.shards(plan)]
        finished = [receipt for receipt in receipts if receipt is not None]
        assert len(finished) == len(receipts), "all shards of the part were just built"
        if part.of > 1:
            return make_report(out, listing.faults if part.number == 1 else [], finished)
        report = assemble(plan, finished, read_listing_faults(out), out)
        remove_workdir(out)
    return report


@dataclass(frozen=True)
class _Job:
    """The input of a worker process."""

    archive: Archive
    plan: Plan
    out: Path


def _build_missing(job: _Job, listing: Listing, part: Part, workers: int, progress: Progress) -> None:
    size = job.plan.samples_per_shard
    chunks = {number: listing.entries[number * size : (number + 1) * size] for number in part.shards(job.plan)}
    missing = [number for number in chunks if not is_finished(job.out, job.plan.shard_name(number))]
    total = sum(map(len, chunks.values()))
    done = total - sum(len(chunks[number]) for number in missing)
    progress(done, total)
    for count in _run(job, [(number, chunks[number]) for number in missing], workers):
        done += count
        progress(done, total)


def _run(job: _Job, tasks: list[tuple[int, list[Entry]]], workers: int) -> Iterator[int]:
    """Build shards, in processes for several workers. Yields the number of entries of each finished shard."""
    if workers <= 1:
        yield from (_build_shard(job, number, entries) for number, entries in tasks)
        return
    context = _fork_server([__name__, type(job.archive).__module__])
    with ProcessPoolExecutor(min(workers, len(tasks) or 1), context, initializer=_exit_with_parent) as pool:
        queue = iter(tasks)
        # Submit few tasks at a time, so that millions of entries are not pickled before they are needed.
        running: set[Future[int]] = set()
        try:
            while True:
                ahead = itertools.islice(queue, 2 * workers - len(running))
                running |= {pool.submit(_build_shard, job, number, entries) for number, entries in ahead}
                if not running:
                    return
                ready, running = wait(running, return_when=FIRST_COMPLETED)
                yield from (future.result() for future in ready)
        except BrokenProcessPool:
            raise RuntimeError(
                "A worker process died, possibly because memory ran out. Start the same command again, if necessary "
                "with fewer --workers: finished shards are kept."
            ) from None
        except BaseException:
            pool.shutdown(wait=False, cancel_futures=True)
            raise


def _fork_server(modules: list[str]) -> multiprocessing.context.BaseContext:
    """A fork server that has imported `modules`.

    Not fork: a child would inherit threads and locks of GDAL in an unknown state; the server never calls GDAL. Not
    spawn: every worker would import all modules again, which takes 0.5 s of CPU.
    """
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(modules)
    # Python 3.11 does not pass sys.path to the server, which might import another copy of the package.
    before = os.environ.get("PYTHONPATH")
    os.environ["PYTHONPATH"] = os.pathsep.join(sys.path)
    try:
        multiprocessing.forkserver.ensure_running()
    finally:
        del os.environ["PYTHONPATH"]
        if before is not None:
            os.environ["PYTHONPATH"] = before
    return context


def _exit_with_parent() -> None:
    """Exit this worker when its parent dies; it would wait forever."""
    parent = multiprocessing.parent_process()
    assert parent is not None, "runs in a child only"

    def watch() -> None:
        multiprocessing.connection.wait([parent.sentinel])
        os._exit(1)

    threading.Thread(target=watch, daemon=True).start()


@dataclass
class _Shard:
    """A shard that is being written, with the content of its receipt."""

    job: _Job
    number: int
    rows: list[Row] = field(default_factory=list)
    faults: list[Fault] = field(default_factory=list)
    excluded: list[Fault] = field(default_factory=list)
    uniform: bool = True
    size: int = 0

    def __post_init__(self) -> None:
        self.statistics = ShardStatistics(self.job.archive.groups)

    def add(self, entry: Entry) -> bytes | memoryview | None:
        """Convert an entry to its record. None, with a recorded reason, if it cannot be converted or is excluded."""
        archive = self.job.archive
        try:
            patch = archive.read(entry)
            check_patch(patch, archive.groups, archive.nomenclatures)
            record = encode(patch, archive.groups, archive.nomenclatures, archive.metadata_bytes, self.job.plan.codec)
            row = index_row(patch, record, shard=self.number, record_number=len(self.rows), offset=self.size)
        except PatchExcluded as reason:
            self.excluded.append(Fault(entry.name, str(reason)))
            return None
        except PatchError as reason:
            self.faults.append(Fault(entry.name, str(reason)))
            return None
        self.rows.append(row)
        self.statistics.add(patch.split, patch.images)
        self.uniform = self.uniform and matches_layout(record, self.job.plan.layout)
        self.size += len(record.data)
        return record.data


def _build_shard(job: _Job, number: int, entries: list[Entry]) -> int:
    """Write one tar and its receipt. Returns the number of entries."""
    name = job.plan.shard_name(number)
    shard = _Shard(job, number)
    digest = hashlib.sha256()
    with atomic(job.out / name, temporary=job.out / BUILD_FOLDER / f"{name}.{os.getpid()}.tmp") as file:
        for entry in entries:
            if (record := shard.add(entry)) is not None:
                file.write(record)
                digest.update(record)
        file.write(END_OF_TAR)
        digest.update(END_OF_TAR)
    line = ShardEntry(
        name=name,
        samples=len(shard.rows),
        bytes=shard.size + len(END_OF_TAR),
        sha256=digest.hexdigest(),
        uniform=shard.uniform,
    )
    table, statistics = shard_table(shard.rows), shard.statistics
    write_receipt(
        job.out, Receipt(line, table, shard.faults, shard.excluded, statistics.max_shapes, statistics.tallies)
    )
    return len(entries)
