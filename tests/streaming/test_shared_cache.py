"""Jobs that share a cache folder: real processes, one or two shard sets, a size limit per job, some jobs killed."""

import itertools
import re
import sys
import threading
from contextlib import contextmanager

import numpy as np
import pytest
import torch
from fakes.memory import memory_shards
from processes import CONTEXT, join, start
from servers import serving, total_bytes

from rspretrain.download.cache import Cache
from streaming.test_remote_stream import loader, same, seen, settings

pytestmark = pytest.mark.timeout(120)
STEPS = 12  # two epochs


@pytest.fixture
def servers(tmp_path):
    for name, seed in (("one", 0), ("two", 1)):
        memory_shards(tmp_path / name, samples=48, seed=seed)
    with serving(tmp_path / "one") as one, serving(tmp_path / "two") as two:
        yield {"one": one, "two": two}


def data_of(server, folder, shards, **more):
    """Settings of a job whose cache limit is `shards` shards, beside manifest and index of two sets."""
    files = {path.name: path.stat().st_size for path in server.folder.iterdir() if path.is_file()}
    room = 1000 + 2 * (files["manifest.json"] + files["index.parquet"]) + shards * files["memory-000000.tar"]
    return settings(
        server.url, folder, streams=1, cache_gb=room / 1e9, **{"fetch_timeout_s": 10, "prefetch": 1, **more}
    )


def job(data, out, ready):
    """Write the batches of a job, with all leases current, or its error."""
    stream = loader(data)
    ready.wait(60)
    batches = []
    try:
        for batch in itertools.islice(stream.batches(), STEPS):
            batches.append((batch.rows.tolist(), batch.seeds.tolist(), {k: v.clone() for k, v in batch.images.items()}))
            assert all(lease.is_current for lease in list(stream._reader._readers[0]._prefetcher._leases.values()))
    except RuntimeError as error:
        out.with_suffix(".error").write_text(str(error))
        sys.exit(1)
    torch.save(batches, out)


def until_killed(data):
    while True:
        seen(loader(data), STEPS)


@contextmanager
def most_bytes(folder):
    """The largest size of the folder in bytes, as a list with one entry."""
    most, stop = [0], threading.Event()

    def watch():
        while not stop.wait(0.002):
            most[0] = max(most[0], total_bytes(folder))

    watcher = threading.Thread(target=watch)
    watcher.start()
    try:
        yield most
    finally:
        stop.set()
        watcher.join()


@pytest.mark.parametrize("sets", [("one", "two"), ("one", "one")], ids=["two-sets", "one-set"])
def test_two_jobs_while_other_jobs_are_killed(tmp_path, servers, sets):
    alone = [seen(loader(settings(tmp_path / name, tmp_path, streams=1)), STEPS) for name in sets]
    data = [data_of(servers[name], tmp_path, shards) for name, shards in zip(sets, (8, 12), strict=True)]
    for server in servers.values():
        server.faults = {f"memory-00000{n}.tar": ["slow forever"] for n in range(6)}
    rng, ready = np.random.default_rng(0), CONTEXT.Barrier(2)
    with most_bytes(tmp_path / "cache") as most:
        jobs = [start(job, each, tmp_path / f"{number}.pt", ready) for number, each in enumerate(data)]
        while any(process.is_alive() for process in jobs):
            victim = start(until_killed, data[int(rng.integers(2))])
            victim.join(rng.uniform(0.1, 1))
            victim.kill()
            victim.join()
    assert join(jobs) == [0, 0]
    for number, expected in enumerate(alone):
        assert same(torch.load(tmp_path / f"{number}.pt"), expected)
    assert most[0] <= round(data[1].cache_gb * 1e9)
    Cache(tmp_path / "cache", 10**9).check(0)
    assert not [path for path in (tmp_path / "cache").rglob("*") if path.suffix in (".part", ".lock")][1:]


def test_one_of_two_jobs_that_do_not_fit_together_continues(tmp_path, servers):
    ready, patience_s = CONTEXT.Barrier(2), {"one": 20, "two": 0.5}
    jobs = [
        start(
            job,
            data_of(servers[name], tmp_path, 6, window=3, fetch_timeout_s=seconds),
            tmp_path / f"{name}.pt",
            ready,
        )
        for name, seconds in patience_s.items()
    ]
    codes = dict(zip(patience_s, join(jobs), strict=True))
    assert codes["one"] == 0
    for name, code in codes.items():
        if code == 0:
            alone = seen(loader(settings(tmp_path / name, tmp_path, streams=1, window=3)), STEPS)
            assert same(torch.load(tmp_path / f"{name}.pt"), alone)
        else:
            error = (tmp_path / f"{name}.error").read_text()
            assert re.search(r"/memory-00000\d.tar did not arrive within [\d.]+ s: the cache .* no room for", error)


def test_a_job_without_cache_space_is_refused_before_training(tmp_path, servers):
    stream = loader(data_of(servers["one"], tmp_path, 6, window=3))
    batches = stream.batches()
    next(batches)
    with pytest.raises(ValueError, match=r"Other shard sets have .* in use, expected no more than .* or wait for the"):
        loader(data_of(servers["two"], tmp_path, 6, window=3))
    loader(data_of(servers["two"], tmp_path, 12, window=3))
    batches.close()
    loader(data_of(servers["two"], tmp_path, 6, window=3))
