import numpy as np
import pytest
from fakes.memory import memory_shards

from rspretrain.shardset.index import open_shards
from rspretrain.shardset.record import BLOCK
from rspretrain.shardset.verify import verify

SHARD = "memory-000001.tar"


@pytest.fixture
def shards(tmp_path):
    return memory_shards(tmp_path, samples=20)


def change(shards, position, data):
    path = shards.path / SHARD
    content = bytearray(path.read_bytes())
    content[position : position + len(data)] = data
    path.write_bytes(content)


def place(shards, member, record=2):
    row = int(np.flatnonzero(shards.numbers("shard") == 1)[record])
    return shards.keys(np.array([row]))[0], int(shards.numbers(f"offset_{member}")[row])


def told(shards):
    return [f"{fault.name}: {fault.reason}" for fault in verify(open_shards(shards.path))]


def test_whole(shards):
    assert told(shards) == []


@pytest.mark.parametrize(
    ("member", "shift", "data", "expected"),
    [
        ("s2_20m", 200, b"\x01\x02", "s2_20m.npy: has changed pixels"),
        ("s2_20m", 0, b"\x00", "s2_20m.npy: has a damaged array header"),
        ("s1_10m", 128, bytes(BLOCK), "s1_10m.npy: has changed pixels"),
        ("json", 0, b"x", "json: cannot be parsed"),
        ("s2_60m", 30 - BLOCK, b"~", "s2_60m.npy: has a damaged tar header"),
    ],
)
def test_changed_bytes_are_named(shards, member, shift, data, expected):
    key, start = place(shards, member)
    change(shards, start + shift, data)
    (fault,) = told(shards)
    assert fault.startswith(f"{SHARD}:{key}.{expected}")


def test_truncated_missing_extra_and_stale(shards):
    path = shards.path / SHARD
    whole = path.read_bytes()
    path.write_bytes(whole[:-3000])
    assert any("is cut off after" in fault for fault in told(shards))
    path.unlink()
    assert told(shards) == [f"{SHARD}: is missing, and 8 samples with it"]
    path.write_bytes(whole)
    (shards.path / "extra.tar").write_bytes(b"")
    assert told(shards) == ["extra.tar: is not in the manifest"]


def test_swapped_shards(shards):
    one, other = shards.path / SHARD, shards.path / "memory-000000.tar"
    first, second = one.read_bytes(), other.read_bytes()
    one.write_bytes(second)
    other.write_bytes(first)
    assert len([fault for fault in told(shards) if "is the record of another sample" in fault]) == 16


def test_foreign_index(shards):
    index = shards.path / "index.parquet"
    memory_shards(shards.path / "other", samples=20, seed=1)
    index.write_bytes((shards.path / "other/index.parquet").read_bytes())
    assert "index.parquet: does not have the SHA-256 of the manifest" in told(shards)
