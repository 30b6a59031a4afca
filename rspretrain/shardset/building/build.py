"""Archive to shards: chunk the entries, write one tar and one receipt a chunk, and assemble the set when all are there.

A chunk depends on nothing but its own entries, so it may be built by any process of any node, at any time, twice: the
bytes are the same. Whatever cannot be converted whole is left out, named in build_report.json, and counted.
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
from rspretrain.shardset.building.assemble import BuildReport, assemble, report_on
from rspretrain.shardset.building.plan import Listing, Plan, list_entries, plan_build
from rspretrain.shardset.building.receipt import Census, Receipt, is_finished, read_receipt, write_receipt
from rspretrain.shardset.building.workdir import claim, finished_report, leave, read_listing_faults
from rspretrain.shardset.manifest import BUILD_FOLDER, ShardEntry
from rspretrain.shardset.record import END_OF_TAR, RAW, check_patch, encode, follows
from rspretrain.shardset.rows import Row, index_row, shard_table

Progress = Callable[[int, int], None]


@dataclass(frozen=True)
class Part:
    """The share of a build that one node has: every `of`-th shard, from `number` (counted from 1) on."""

    number: int = 1
    of: int = 1

    def __post_init__(self) -> None:
        if not 1 <= self.number <= self.of:
            raise ValueError(f"part {self.number}/{self.of} does not exist, expected i/n with 1 <= i <= n.")

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
    """Build a shard set from an archive, go on with an unfinished one, or do nothing about a finished one.

    The bytes are a function of the archive, `samples_per_shard`, `shuffle` and `codec`; not of `workers`, parts and
    interruptions. `shuffle` mixes the entries by their keys, so that a shard is a fair sample. A part has shards and
    receipts, but no manifest; `merge_parts` joins parts. `progress` gets the entries done so far and those there are.
    ValueError where `out` holds something else, another process builds there, or nothing could be converted.
    """
    listing = list_entries(archive, shuffle=shuffle, samples_per_shard=samples_per_shard)
    plan = plan_build(archive, listing, samples_per_shard=samples_per_shard, shuffle=shuffle, codec=codec)
    if (report := finished_report(out, plan)) is not None:
        progress(plan.entries, plan.entries)
        return report
    with claim(out, plan, listing.faults, exclusive=part.of == 1):
        _build_missing(_Job(archive, plan, out), listing, part, workers, progress)
        receipts = [read_receipt(out, plan.shard_name(number), archive.groups) for number in part.shards(plan)]
        whole = [receipt for receipt in receipts if receipt is not None]
        assert len(whole) == len(receipts), "every shard of the part has just been finished"
        if part.of > 1:
            return report_on(out, listing.faults if part.number == 1 else [], whole)
        report = assemble(plan, whole, read_listing_faults(out), out)
        leave(out)
    return report


@dataclass(frozen=True)
class _Job:
    """What a worker process has to know."""

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
    """Build shards, yielding the number of entries of each as it gets ready; in processes where there are several."""
    if workers <= 1:
        yield from (_build_shard(job, number, entries) for number, entries in tasks)
        return
    context = _fork_server([__name__, type(job.archive).__module__])
    with ProcessPoolExecutor(min(workers, len(tasks) or 1), context, initializer=_die_with_parent) as pool:
        queue = iter(tasks)
        # Few tasks at a time: a list of millions of entries is not copied into a pipe before it is needed.
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
                "A worker process died; the kernel ends processes when memory runs out. Start the same command again, "
                "perhaps with fewer --workers: finished shards stay."
            ) from None
        except BaseException:
            pool.shutdown(wait=False, cancel_futures=True)
            raise


def _fork_server(modules: list[str]) -> multiprocessing.context.BaseContext:
    """Where workers come from: a process that has imported `modules`, and does nothing else.

    Not fork: GDAL keeps threads and locks that a forked child would inherit in an unknown state; the server never calls
    it. Not spawn: every worker would import everything again, 0.5 s of CPU.
    """
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(modules)
    # Python 3.11 does not tell the server this process's path: it might import another copy of the package.
    before = os.environ.get("PYTHONPATH")
    os.environ["PYTHONPATH"] = os.pathsep.join(sys.path)
    try:
        multiprocessing.forkserver.ensure_running()
    finally:
        del os.environ["PYTHONPATH"]
        if before is not None:
            os.environ["PYTHONPATH"] = before
    return context


def _die_with_parent() -> None:
    """A worker whose parent was killed would wait for ever: end it, whatever it is doing."""
    parent = multiprocessing.parent_process()
    assert parent is not None, "runs in a child only"

    def watch() -> None:
        multiprocessing.connection.wait([parent.sentinel])
        os._exit(1)

    threading.Thread(target=watch, daemon=True).start()


@dataclass
class _Shard:
    """A shard that is being written: what its receipt will say."""

    job: _Job
    number: int
    rows: list[Row] = field(default_factory=list)
    faults: list[Fault] = field(default_factory=list)
    excluded: list[Fault] = field(default_factory=list)
    uniform: bool = True
    size: int = 0

    def __post_init__(self) -> None:
        self.census = Census(self.job.archive.groups)

    def take(self, entry: Entry) -> bytes | memoryview | None:
        """The record to be written next; None, noted by name, where the entry cannot or shall not be converted."""
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
        self.census.add(patch.split, patch.images)
        self.uniform = self.uniform and follows(record, self.job.plan.layout)
        self.size += len(record.data)
        return record.data


def _build_shard(job: _Job, number: int, entries: list[Entry]) -> int:
    """Write one tar and its receipt; returns the number of entries that it took care of."""
    name = job.plan.shard_name(number)
    shard = _Shard(job, number)
    digest = hashlib.sha256()
    with atomic(job.out / name, temporary=job.out / BUILD_FOLDER / f"{name}.{os.getpid()}.tmp") as file:
        for entry in entries:
            if (record := shard.take(entry)) is not None:
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
    table, census = shard_table(shard.rows), shard.census
    write_receipt(job.out, Receipt(line, table, shard.faults, shard.excluded, census.max_shapes, census.tallies))
    return len(entries)
