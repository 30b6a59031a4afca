import hashlib
import json
import os
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from fakes.memory import memory_shards
from processes import CONTEXT, join, start
from servers import object_store, serving, total_bytes

from rspretrain.download.cache import Cache
from rspretrain.download.transfer import RetryPolicy, TransferError
from rspretrain.shardset.index import CorruptSampleError, open_shards
from rspretrain.shardset.manifest import Manifest, dump_manifest
from rspretrain.shardset.remote import RemoteOptions

pytestmark = pytest.mark.timeout(90)


@pytest.fixture
def server(tmp_path):
    memory_shards(tmp_path / "set", samples=40)
    with serving(tmp_path / "set") as running:
        yield running


def options(folder, limit=10**9, timeout_s=1.0, retries=3):
    return RemoteOptions(folder / "cache", limit, RetryPolicy(timeout_s, retries))


def left(folder):
    return sorted(
        path.name for path in (folder / "cache").rglob("*") if path.suffix not in (".tar", ".json", ".parquet")
    )


def test_a_remote_set_is_the_local_one(tmp_path, server):
    local, remote = open_shards(tmp_path / "set"), open_shards(server.url, options(tmp_path))
    assert remote.manifest_sha256 == local.manifest_sha256 == remote.path.name
    assert remote.keys() == local.keys()
    assert server.requests == {"manifest.json": 1, "index.parquet": 1}
    for row in (0, 17, 39):
        images, metadata = remote.read(row)
        expected, same = local.read(row)
        assert metadata == same
        assert all(np.array_equal(images[name], expected[name]) for name in expected)
    assert set(server.shards().values()) == {1}
    again = open_shards(server.url, options(tmp_path))
    again.read(39)
    assert server.requests["index.parquet"] == server.requests["memory-000004.tar"] == 1
    assert left(tmp_path) in ([remote.path.name, "ledger.lock"], ["ledger.lock", remote.path.name])


def test_another_version_of_a_set_is_another_folder(tmp_path, server):
    before = open_shards(server.url, options(tmp_path))
    before.read(0)
    for path in (tmp_path / "set").iterdir():
        path.unlink() if path.is_file() else None
    subprocess.run(["rm", "-rf", tmp_path / "set"], check=True)
    memory_shards(tmp_path / "set", samples=40, seed=1)
    after = open_shards(server.url, options(tmp_path))
    assert after.path != before.path
    assert not np.array_equal(after.read(0)[0]["s2_10m"], before.read(0)[0]["s2_10m"])
    assert server.requests["memory-000000.tar"] == 2


def test_no_set_behind_the_url(tmp_path, server):
    with pytest.raises(
        ValueError, match=r"/nowhere/manifest.json cannot be downloaded: there is no such file. .* that `rspr"
    ):
        open_shards(f"{server.url}/nowhere", options(tmp_path))
    (tmp_path / "set" / "manifest.json").write_text("<html>Sign in</html>")
    with pytest.raises(ValueError, match=r"127.0.0.1:\d+/manifest.json, in the cache, cannot be used: .* is not JSON"):
        open_shards(server.url, options(tmp_path))
    assert left(tmp_path) == ["ledger.lock"]


def test_an_index_that_does_not_match_the_manifest(tmp_path, server):
    (tmp_path / "set" / "index.parquet").write_bytes(b"PAR1")
    with pytest.raises(
        ValueError,
        match=r"/index.parquet is not the file of the manifest, in 3 identical downloads: .*SHA-256.*Upload index.par",
    ):
        open_shards(server.url, options(tmp_path))


def test_names_outside_the_cache_are_refused(tmp_path, server):
    path = tmp_path / "set" / "manifest.json"
    content = json.loads(path.read_text())
    content["shards"][0]["name"] = "../../evil.tar"
    path.write_bytes(dump_manifest(Manifest.model_validate(content)))
    with pytest.raises(ValueError, match=r"names a shard '../../evil.tar', expected a plain file name"):
        open_shards(server.url, options(tmp_path))


def test_permanently_wrong_bytes_name_the_url(tmp_path, server):
    shards = open_shards(server.url, options(tmp_path))
    server.faults["memory-000002.tar"] = ["wrong forever"]
    with pytest.raises(
        TransferError,
        match=rf"{server.url}/memory-000002.tar is not the file of the manifest, in 3 identical downloads: .*SHA",
    ):
        shards.read(16)
    assert server.requests["memory-000002.tar"] == 3
    assert left(tmp_path) == sorted([shards.path.name, "ledger.lock"])


def damage(path, offset=700):
    """Change a byte in place, like a faulty disk, while processes may map the file."""
    with path.open("r+b") as file:
        file.seek(offset)
        byte = file.read(1)[0]
        file.seek(offset)
        file.write(bytes([byte ^ 1]))


def test_a_cached_shard_damaged_on_disk_is_downloaded_again_once(tmp_path, server, caplog):
    shards, near = open_shards(server.url, options(tmp_path)), open_shards(tmp_path / "set")
    shards.read(0)
    damage(shards.path / "memory-000000.tar")
    assert np.array_equal(shards.read(0)[0]["s1_10m"], near.read(0)[0]["s1_10m"])
    assert server.requests["memory-000000.tar"] == 2
    assert (
        f"memory-000000.tar was damaged in the cache after the download from {server.url}/memory-000000" in caplog.text
    )
    damage(shards.path / "memory-000000.tar")
    with pytest.raises(
        CorruptSampleError, match=r"was damaged before and downloaded again from http.*/memory-000000.tar. Check the"
    ):
        shards.read(0)
    assert server.requests["memory-000000.tar"] == 2


def test_a_process_that_maps_a_damaged_copy_keeps_it_until_it_reopens(tmp_path, server):
    one, other = (open_shards(server.url, options(tmp_path)) for _ in range(2))
    lease = other.remote.shard(0)
    damage(lease.path)
    one.read(0)
    assert os.pread(lease.fileno(), 1, 700) != (lease.path).read_bytes()[700:701]
    assert other.remote.renew(0, lease) is None  # the path already refers to a new file
    assert other.remote.shard(0).is_current
    assert server.requests["memory-000000.tar"] == 2


@pytest.mark.parametrize("name", ["manifest.json", "index.parquet"])
def test_a_manifest_and_an_index_damaged_on_disk(tmp_path, server, name, caplog):
    cached = open_shards(server.url, options(tmp_path)).path / name
    damage(cached, 50)
    assert open_shards(server.url, options(tmp_path)).read(9)
    assert cached.read_bytes() == (tmp_path / "set" / name).read_bytes()
    assert f"{name} was damaged in the cache" in caplog.text


def test_a_disk_that_stores_nothing_is_an_error(tmp_path, server, monkeypatch):
    monkeypatch.setattr(os, "pread", lambda descriptor, size, offset: bytes(size))
    with pytest.raises(
        ValueError, match=r"cannot be stored in .*: twice, the bytes read differed from those written. Check"
    ):
        open_shards(server.url, options(tmp_path))


def test_a_shard_and_an_index_of_different_builds(tmp_path, server):
    path = tmp_path / "set" / "manifest.json"
    damage(tmp_path / "set" / "memory-000001.tar")
    content = json.loads(path.read_text())
    content["shards"][1]["sha256"] = hashlib.sha256((tmp_path / "set" / "memory-000001.tar").read_bytes()).hexdigest()
    path.write_bytes(dump_manifest(Manifest.model_validate(content)))
    shards = open_shards(server.url, options(tmp_path))
    with pytest.raises(
        CorruptSampleError, match=r"is the one behind http.*/memory-000001.tar, so that shard and index.parquet are fr"
    ):
        shards.read(8)
    assert server.requests["memory-000001.tar"] == 1  # another download would give the same bytes


def read_all(url, folder, order, failures):
    """A process that reads a sample of every shard, in its own order."""
    try:
        shards = open_shards(url, options(Path(folder), timeout_s=10))
        for number in order:
            images, _ = shards.read(8 * number)
            assert images["s1_10m"].shape == (2, 12, 12)
    except BaseException as error:
        failures.put(repr(error))
        raise


def test_four_processes_download_every_shard_once(tmp_path, server):
    server.faults = {f"memory-00000{n}.tar": ["slow"] for n in range(5)}
    failures = CONTEXT.Queue()
    orders = ([0, 1, 2, 3, 4], [0, 1, 2, 3, 4], [4, 3, 2, 1, 0], [2, 3, 4, 0, 1])
    processes = [start(read_all, server.url, str(tmp_path), order, failures) for order in orders]
    assert join(processes) == [0] * 4
    assert failures.empty()
    assert server.requests == {"manifest.json": 4, "index.parquet": 1, **{f"memory-00000{n}.tar": 1 for n in range(5)}}


def read_without_end(url, folder, limit, seed):
    shards = open_shards(url, options(Path(folder), limit=limit, timeout_s=10))
    rng = np.random.default_rng(seed)
    while True:
        shards.read(int(rng.integers(len(shards))))


def test_random_kills_leave_nothing_and_keep_the_limit(tmp_path, server):
    shards = open_shards(server.url, options(tmp_path))
    limit = shards.remote.kept_bytes + 3 * shards.manifest.shards[0].bytes + 1000
    server.faults = {f"memory-00000{n}.tar": ["slow forever"] for n in range(5)}
    cache, rng, left_behind, processes = tmp_path / "cache", np.random.default_rng(0), 0, []
    for victims in (2, 1, 2, 1, 2):
        while len(processes) < 2:
            processes.append(start(read_without_end, server.url, str(tmp_path), limit, int(rng.integers(99))))
        fetched, pause_s = sum(server.shards().values()), rng.uniform(0, 0.1)
        while sum(server.shards().values()) < fetched + 3 or not list(cache.rglob("*.part")):
            assert total_bytes(cache) <= limit
            time.sleep(0.002)
        time.sleep(pause_s)
        for _ in range(victims):
            victim = processes.pop(0)
            assert victim.is_alive()
            victim.kill()
            victim.join()
        left_behind += len(list(cache.rglob("*.part")))
    for process in processes:
        process.kill()
        process.join()
    assert left_behind, "no process was killed in mid-download"
    Cache(tmp_path / "cache", limit).check(0)
    assert left(tmp_path) == sorted([shards.path.name, "ledger.lock"])
    for entry in shards.manifest.shards:  # cached files are complete
        path = shards.path / entry.name
        assert not path.exists() or hashlib.sha256(path.read_bytes()).hexdigest() == entry.sha256


def test_from_an_object_store(tmp_path, monkeypatch):
    local = memory_shards(tmp_path / "set", samples=16)
    with object_store(tmp_path / "set", "bucket") as endpoint:
        for name, value in (("KEY", "k"), ("SECRET", "s"), ("ENDPOINT_URL", endpoint)):
            monkeypatch.setitem(__import__("fsspec").config.conf.setdefault("s3", {}), name.lower(), value)
        remote = open_shards("s3://bucket/set", options(tmp_path, timeout_s=10))
        assert remote.manifest_sha256 == local.manifest_sha256
        assert np.array_equal(remote.read(9)[0]["s2_10m"], local.read(9)[0]["s2_10m"])
        with pytest.raises(
            ValueError, match=r"s3://bucket/other/manifest.json cannot be downloaded: there is no such file."
        ):
            open_shards("s3://bucket/other", options(tmp_path))


def test_inspect_opens_urls(tmp_path, server):
    command = [sys.executable, "shards/inspect.py", server.url]
    environment = {**os.environ, "XDG_CACHE_HOME": str(tmp_path)}
    root = Path(__file__).parents[2]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, cwd=root, env=environment, check=False)
    assert done.returncode == 0, done.stderr
    assert "40" in done.stdout
