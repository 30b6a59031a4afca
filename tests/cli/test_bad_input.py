"""Invalid input: one paragraph with value, expectation and remedy, before anything is written."""

import re
import shutil
import subprocess
import sys

import pytest
from engine.runs import launch, write_config
from fakes.memory import memory_shards
from mounts import small_disk
from servers import object_store, serving

pytestmark = pytest.mark.timeout(60)


@pytest.fixture
def refused(tmp_path, command):
    """Run `rspretrain pretrain`; returns the one paragraph of its error."""
    path = write_config(tmp_path, samples=32)

    def run(*overrides):
        done = command("pretrain", "--config", path, *overrides)
        assert done.returncode == 2
        assert done.stderr.startswith("rspretrain pretrain: error: ")
        assert done.stderr.count("\n") == 1
        assert not (tmp_path / "run").exists()
        return done.stderr

    return run


def test_an_index_of_another_build(tmp_path, refused):
    memory_shards(tmp_path / "other", samples=32, seed=1)
    shutil.copy(tmp_path / "other" / "index.parquet", tmp_path / "shards")
    assert re.search(
        r"shards/index.parquet has SHA-256 \w{12}…, its manifest.json says \w{12}…: it was damaged, or they are from "
        "different builds. Restore both from one copy",
        refused(),
    )


def test_an_index_that_was_cut_off(tmp_path, refused):
    path = tmp_path / "shards" / "index.parquet"
    path.write_bytes(path.read_bytes()[:-100])
    assert re.search(r"shards/index.parquet is damaged \(.*\). Restore it, or build the set again.", refused())


def test_tars_of_another_build_with_the_same_size(tmp_path, refused):
    memory_shards(tmp_path / "other", samples=32, seed=1)
    for path in (tmp_path / "other").glob("*.tar"):
        assert path.stat().st_size == (tmp_path / "shards" / path.name).stat().st_size
        shutil.copy(path, tmp_path / "shards")
    assert re.search(
        r"4 of 4 shards sampled in .*/shards do not begin with the sample that index.parquet lists: memory-000000.tar,"
        r" memory-000001.tar, memory-000002.tar …. They were damaged, or are from another build. Run `rspretrain ver",
        refused(),
    )


def test_tars_that_are_missing_or_cut_off(tmp_path, refused):
    (tmp_path / "shards" / "memory-000001.tar").unlink()
    with (tmp_path / "shards" / "memory-000003.tar").open("r+b") as file:
        file.truncate(2048)
    assert re.search(
        r"2 of 4 shards in .*/shards do not match manifest.json: memory-000001.tar is missing, memory-000003.tar"
        r" has 2048 bytes instead of \d+. Restore them from a copy \(`rspretrain verify .*/shards`\), or set data.on",
        refused(),
    )


def test_shards_that_are_missing_in_an_object_store(tmp_path, refused, monkeypatch):
    for name, value in (("ACCESS_KEY_ID", "k"), ("SECRET_ACCESS_KEY", "s"), ("DEFAULT_REGION", "us-east-1")):
        monkeypatch.setenv(f"AWS_{name}", value)
    (tmp_path / "shards" / "memory-000002.tar").unlink()
    with object_store(tmp_path / "shards", "bad") as endpoint:
        monkeypatch.setenv("AWS_ENDPOINT_URL", endpoint)
        error = refused("data.shards=s3://bad/set", f"data.cache_dir={tmp_path}/cache")
    assert "1 of 4 shards in s3://bad/set/ do not match manifest.json: memory-000002.tar is missing. Upload" in error


def test_an_index_behind_a_url_of_another_build(tmp_path, refused):
    memory_shards(tmp_path / "other", samples=32, seed=1)
    shutil.copy(tmp_path / "other" / "index.parquet", tmp_path / "shards")
    with serving(tmp_path / "shards") as server:
        error = refused(f"data.shards={server.url}", f"data.cache_dir={tmp_path}/cache")
        assert re.search(
            rf"{server.url}/index.parquet is not the file of the manifest, in 3 .*: .* Upload index.parquet of",
            error,
        )


def test_nobody_behind_the_url(tmp_path, refused):
    with serving(tmp_path / "shards") as server:
        pass
    error = refused(f"data.shards={server.url}", f"data.cache_dir={tmp_path}/cache", "data.fetch_retries=1")
    assert re.search(rf"{server.url}/manifest.json could not be downloaded in 2 attempts .* Check network", error)


def test_more_streams_than_shards(refused):
    assert re.search(
        r"data.streams: got 5 for 4 shards with samples, .*\. Set data.streams to 1..4, or", refused("data.streams=5")
    )


@pytest.fixture
def mounted(tmp_path):
    """A mounted file system of 64 KB."""
    with small_disk(tmp_path / "disk", "64k") as folder:
        yield folder


def test_cache_folders_that_cannot_be_written_to(tmp_path, refused):
    with serving(tmp_path / "shards") as server:
        for cache, why in ((tmp_path / "run.yaml", "File exists"), ("/proc/cache", "No such file or directory")):
            error = refused(f"data.shards={server.url}", f"data.cache_dir={cache}")
            assert re.search(
                rf"The cache folder .*{cache} cannot be used \({why}\). Expected a writable folder on a local disk",
                error,
            )
        assert not server.requests


@pytest.mark.parametrize(
    ("prepare", "message"),
    [
        (
            ["mount", "-o", "remount,ro"],
            r"cannot be used \(Read-only file system\). Expected a writable folder on a local",
        ),
        (
            ["sh", "-c", "head -c 65536 /dev/zero > $0/full"],
            r"cannot be used \(No space left on device\). Expected a writable folder on",
        ),
        (
            ["sh", "-c", "head -c 50000 /dev/zero > $0/full"],
            r"has .* GB free and 0 GB of cache, expected .* Free space, or",
        ),
    ],
    ids=["read-only", "full", "nearly full"],
)
def test_cache_folders_on_disks_without_room(tmp_path, mounted, refused, prepare, message):
    subprocess.run([*prepare, mounted], check=False)
    with serving(tmp_path / "shards") as server:
        assert re.search(
            f"{mounted}/cache {message}", refused(f"data.shards={server.url}", f"data.cache_dir={mounted}/cache")
        )


@pytest.mark.slow
def test_a_world_that_the_batch_does_not_divide(tmp_path):
    path = write_config(tmp_path, samples=32)
    torchrun = (sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2", "--no-python")
    done = launch(path, "train.global_batch=9", launcher=(*torchrun, sys.executable))
    assert done.returncode != 0
    assert (
        "pretrain.py: error: train.global_batch: got 9 for 2 ranks, expected a multiple of 2. "
        "Set it to 8 or 10" in done.stderr
    )
    assert not (tmp_path / "run").exists()
