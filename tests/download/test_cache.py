import mmap
import multiprocessing
import os
import signal
import subprocess
import sys
import time

import pytest
from mounts import small_disk

from rspretrain.download.cache import Cache, NoRoomError, default_folder

pytestmark = pytest.mark.timeout(60)


def put(cache, name, size=100, key="k"):
    claim = cache.reserve(key, name, size)
    part = claim.part(0)
    part.write_bytes(bytes(size))
    cache.publish(claim, part)
    return cache.folder / key / name


def names(cache):
    return sorted(path.name for path in cache.folder.rglob("*") if path.is_file())


def made(folder, limit=350):
    cache = Cache(folder / "cache", limit)
    cache.check(0)
    return cache


def test_the_least_recently_used_file_is_evicted_first(tmp_path):
    cache = made(tmp_path)
    for age, name in ((30, "a.tar"), (20, "b.tar"), (10, "c.tar")):
        os.utime(put(cache, name), (time.time() - age,) * 2)
    cache.lease("k", "a.tar").close()  # used again
    put(cache, "d.tar")
    assert names(cache) == ["a.tar", "c.tar", "d.tar", "ledger.lock"]
    put(cache, "e.tar", 200)
    assert names(cache) == ["d.tar", "e.tar", "ledger.lock"]


def test_leased_and_mapped_files_stay(tmp_path):
    cache = made(tmp_path)
    put(cache, "a.tar")
    put(cache, "b.tar", 200)
    lease = cache.lease("k", "a.tar")
    mapping = mmap.mmap(lease.fileno(), 0, prot=mmap.PROT_READ)
    lease.close()
    with pytest.raises(
        NoRoomError, match=r"no room for 0.0003 MB more: 5e-05 MB too much is in use.*Raise data.cache_gb"
    ):
        cache.reserve("k", "c.tar", 300)
    assert names(cache) == ["a.tar", "b.tar", "ledger.lock"]  # nothing was evicted needlessly, no reservation is left
    mapping.close()
    put(cache, "c.tar", 300)
    assert names(cache) == ["c.tar", "ledger.lock"]


def test_a_damaged_file_in_use_can_be_discarded(tmp_path):
    cache = made(tmp_path)
    put(cache, "a.tar")
    mine, others = cache.lease("k", "a.tar"), cache.lease("k", "a.tar")
    cache.discard(mine)
    assert cache.lease("k", "a.tar") is None
    assert len(os.pread(others.fileno(), 200, 0)) == 100  # open files stay readable
    put(cache, "a.tar", 300)  # and there is room for another one
    cache.discard(others)  # not the damaged file
    assert cache.lease("k", "a.tar").is_current
    assert not others.is_current


def test_reservations_count_as_used(tmp_path):
    cache = made(tmp_path)
    claim = cache.reserve("k", "a.tar", 300)
    assert cache.reserve("k", "a.tar", 300) is None
    with pytest.raises(NoRoomError):
        cache.reserve("k", "b.tar", 100)
    cache.release(claim)
    put(cache, "b.tar", 100)
    assert cache.reserve("k", "b.tar", 100) is None  # it is already cached
    assert cache.lease("k", "a.tar") is None


def test_jobs_with_different_limits_share_a_folder(tmp_path):
    large, small = made(tmp_path, 1000), made(tmp_path, 350)
    for age, name in ((30, "a.tar"), (20, "b.tar"), (10, "c.tar")):
        os.utime(put(large, name, 200, key="one"), (time.time() - age,) * 2)
    lease = large.lease("one", "a.tar")
    put(small, "x.tar", 100, key="two")  # the oldest is in use, so the others are evicted down to the small limit
    assert names(large) == ["a.tar", "ledger.lock", "x.tar"]
    with pytest.raises(NoRoomError, match="5e-05 MB too much is in use, of 0.000000 GB of data.cache_gb"):
        small.reserve("two", "y.tar", 200)
    put(large, "y.tar", 700, key="two")
    assert names(large) == ["a.tar", "ledger.lock", "x.tar", "y.tar"]  # there is room under the larger limit
    assert lease.is_current


def test_bytes_used_by_other_sets_are_reported_before_training(tmp_path):
    cache = made(tmp_path, 1000)
    put(cache, "a.tar", 300, key="one")
    cache.check(900, "two")  # not in use
    lease = cache.lease("one", "a.tar")
    claim = cache.reserve("one", "b.tar", 100)
    cache.check(900, "one")  # the ranks of a job share its files
    cache.check(600, "two")
    with pytest.raises(
        ValueError,
        match=r"Other shard sets have 0.000000 GB of the cache folder .* in use, expected no more than .*Raise it",
    ):
        cache.check(601, "two")
    cache.release(claim)
    lease.close()
    cache.check(900, "two")


def test_a_file_of_another_size_is_removed(tmp_path):
    cache = made(tmp_path)
    put(cache, "a.tar", 100)
    assert cache.lease("k", "a.tar", 101) is None
    assert names(cache) == ["ledger.lock"]


def claim_and_wait(folder, started):
    cache = Cache(folder, 1000)
    claim = cache.reserve("k", "a.tar", 900)
    claim.part(0).write_bytes(bytes(500))
    started.set()
    time.sleep(60)


def test_leftovers_of_killed_processes_are_removed(tmp_path):
    cache = made(tmp_path, 1000)
    context = multiprocessing.get_context("spawn")
    for next_start in (lambda: cache.check(0), lambda: cache.release(cache.reserve("k", "b.tar", 900))):
        started = context.Event()
        process = context.Process(target=claim_and_wait, args=(cache.folder, started))
        process.start()
        assert started.wait(30)
        assert cache.reserve("k", "a.tar", 900) is None
        assert names(cache) == ["a.tar.0.part", "a.tar.lock", "ledger.lock"]
        os.kill(process.pid, signal.SIGKILL)
        process.join()
        next_start()
        assert names(cache) == ["ledger.lock"]


def test_unusable_folders(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(
        ValueError, match=r"cache folder .*file/cache cannot be used \(Not a directory\). Expected a writable"
    ):
        Cache(tmp_path / "file" / "cache", 1000).check(0)
    with pytest.raises(
        ValueError, match=r"data.cache_gb is 1e-06, expected at least 0.000002 GB: .*Raise data.cache_gb"
    ):
        Cache(tmp_path / "cache", 1000).check(2000)
    with pytest.raises(
        ValueError, match=r"has .* GB free and 0 GB of cache, expected 1e\+09 GB together at least. Free"
    ):
        Cache(tmp_path / "cache", 10**19).check(10**18)


@pytest.fixture
def mounted(tmp_path):
    """A file system of 1 MB."""
    with small_disk(tmp_path / "disk", "1m") as folder:
        yield folder


def test_a_read_only_disk(mounted):
    subprocess.run(["mount", "-o", "remount,ro", mounted], check=True)
    with pytest.raises(
        ValueError, match=r"The cache folder .* cannot be used \(Read-only file system\). Expected a writable"
    ):
        Cache(mounted / "cache", 1000).check(0)


def test_a_disk_smaller_than_its_cache(mounted):
    cache = Cache(mounted / "cache", 10**9)
    with pytest.raises(
        ValueError, match="GB free and 0 GB of cache, expected 0.002000 GB together at least. Free space"
    ):
        cache.check(2_000_000)
    cache.check(500_000)
    for name in ("a.tar", "b.tar", "c.tar"):  # the disk is the limit, not data.cache_gb
        put(cache, name, 400_000)
    assert names(cache) == ["b.tar", "c.tar", "ledger.lock"]


def test_the_folder_follows_xdg(monkeypatch, tmp_path):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert default_folder() == tmp_path / "rspretrain"


def test_needs_no_torch():
    code = "import rspretrain.download.cache, rspretrain.shardset.remote, sys; assert 'torch' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], check=True)
