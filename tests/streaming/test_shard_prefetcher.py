import os
import threading
import time

import pytest
from fakes.memory import memory_shards
from servers import serving

from rspretrain.download.transfer import RetryPolicy, TransferError
from rspretrain.shardset.index import open_shards
from rspretrain.shardset.remote import RemoteOptions
from rspretrain.streaming.shard_prefetcher import ShardPrefetcher

pytestmark = pytest.mark.timeout(30)


@pytest.fixture
def server(tmp_path):
    memory_shards(tmp_path / "set", samples=48)
    with serving(tmp_path / "set") as running:
        yield running


def remote(server, tmp_path, limit=10**9, timeout_s=0.5, retries=1):
    options = RemoteOptions(tmp_path / "cache", limit, RetryPolicy(timeout_s, retries))
    return open_shards(server.url, options).remote


def wait_until(condition, seconds=10):
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.01)


def test_downloads_in_the_order_of_need_with_the_given_number_of_threads(tmp_path, server):
    server.faults = {f"memory-00000{n}.tar": ["slow"] for n in range(6)}
    prefetcher = ShardPrefetcher(remote(server, tmp_path), fetches=2)
    with prefetcher.running():
        prefetcher.request([4, 0, 5, 2, 1, 3])
        wait_until(lambda: len(server.shards()) == 6)
        asked = [int(name[-5]) for name in server.shards()]
        assert [set(asked[:2]), set(asked[2:4]), set(asked[4:])] == [{4, 0}, {5, 2}, {1, 3}]
        assert server.most_at_once == 2
        prefetcher.lease(3)
    assert set(server.shards().values()) == {1}


def test_shards_that_are_no_longer_requested_free_space(tmp_path, server):
    far = remote(server, tmp_path)
    far.cache.limit = far.kept_bytes + 2 * far.manifest.shards[0].bytes + 100
    prefetcher = ShardPrefetcher(far, fetches=3)
    with prefetcher.running():
        prefetcher.request([0, 1, 2])
        wait_until(lambda: len(server.shards()) == 2)
        time.sleep(0.2)  # the third has no space, which is no error until `lease` needs it
        prefetcher.request([1, 2, 3])
        assert [prefetcher.lease(number).path.name[-5] for number in (1, 2)] == ["1", "2"]
        with pytest.raises(
            RuntimeError, match=r"memory-000003.tar did not arrive within [\d.]+ s: the cache folder .* has no room"
        ):
            prefetcher.lease(3)
    assert far.cache.reserve("other", "x", 2 * far.manifest.shards[0].bytes) is not None  # all leases are released


def test_errors_are_raised_by_lease(tmp_path, server):
    server.faults["memory-000001.tar"] = ["500 forever"]
    prefetcher = ShardPrefetcher(remote(server, tmp_path), fetches=1)
    with prefetcher.running():
        prefetcher.request([1, 0])
        assert prefetcher.lease(0)
        for _ in range(3):
            with pytest.raises(TransferError, match=r"memory-000001.tar could not be downloaded in 2 attempts"):
                prefetcher.lease(1)
    assert server.requests["memory-000001.tar"] == 2  # a failed shard is not tried again


def test_stops_at_once(tmp_path, server):
    server.faults = {f"memory-00000{n}.tar": ["stall"] for n in range(6)}
    prefetcher = ShardPrefetcher(remote(server, tmp_path, timeout_s=60), fetches=3)
    started = time.monotonic()
    with prefetcher.running():
        prefetcher.request(range(6))
        wait_until(lambda: len(server.shards()) == 3)
    assert time.monotonic() - started < 5
    assert not [thread for thread in threading.enumerate() if thread.name == "fetch"]
    assert not list((tmp_path / "cache").rglob("*.part"))


def test_a_damaged_shard_gets_a_new_lease_and_the_old_one_stays_open(tmp_path, server):
    prefetcher = ShardPrefetcher(remote(server, tmp_path), fetches=1)
    with prefetcher.running():
        prefetcher.request([0])
        old = prefetcher.lease(0)
        with old.path.open("r+b") as file:
            file.write(b"damage")
        assert prefetcher.renew(0, old) is None
        new = prefetcher.lease(0)
        assert new is not old
        assert os.pread(new.fileno(), 6, 0) != os.pread(old.fileno(), 6, 0) == b"damage"  # another thread may map it
        assert prefetcher.renew(0, old) is None
        assert prefetcher.lease(0) is new
        assert "is the one behind http" in prefetcher.renew(0, new)
    assert server.shards() == {"memory-000000.tar": 2}
