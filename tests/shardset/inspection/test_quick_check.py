import numpy as np
import pytest
from fakes.memory import memory_shards
from servers import serving

from rspretrain.shardset.index import open_shards
from rspretrain.shardset.inspection.quick_check import quick_check
from rspretrain.shardset.remote import RemoteOptions

ALL = np.arange(5)


@pytest.fixture
def shards(tmp_path):
    return memory_shards(tmp_path / "set", samples=40)


def change(path, offset, data):
    with path.open("r+b") as file:
        file.seek(offset)
        file.write(data)


def test_an_intact_set_passes(shards):
    quick_check(shards, ALL)


def test_only_needed_shards_are_checked(shards):
    (shards.path / "memory-000001.tar").unlink()
    quick_check(shards, np.array([0, 2, 3, 4]))
    with pytest.raises(
        ValueError, match=r"1 of 2 shards in .* do not match manifest.json: memory-000001.tar is missing"
    ):
        quick_check(shards, np.array([0, 1]))


def test_quarantine_accepts_damaged_shards_but_no_foreign_index(shards):
    (shards.path / "memory-000001.tar").unlink()
    change(shards.path / "memory-000000.tar", 700, b"damage")
    quick_check(shards, ALL, index_only=True)
    change(shards.path / "index.parquet", 50, b"damage")
    with pytest.raises(ValueError, match=r"has SHA-256 .*, its manifest.json says .* Restore both from one copy, or"):
        quick_check(shards, ALL, index_only=True)


def test_a_first_record_that_does_not_match_the_index(shards):
    change(shards.path / "memory-000003.tar", 700, b"damage")
    with pytest.raises(ValueError, match=r"1 of 5 shards sampled in .* do not begin with .*: memory-000003.tar. They"):
        quick_check(shards, ALL)


def test_a_few_of_many_shards_are_read(tmp_path, monkeypatch):
    shards, read = memory_shards(tmp_path / "set", samples=40, samples_per_shard=1), []
    monkeypatch.setattr(type(shards), "read", lambda self, row: read.append(row))
    quick_check(shards, np.arange(40))
    assert len(read) == 16
    assert (read[0], read[-1]) == (0, 39)


def test_a_web_server_is_not_asked(tmp_path, shards):
    (shards.path / "memory-000001.tar").unlink()
    with serving(shards.path) as server:
        quick_check(open_shards(server.url, RemoteOptions(tmp_path / "cache")), ALL)
        assert not server.shards()
