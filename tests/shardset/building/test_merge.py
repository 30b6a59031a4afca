import shutil

import pytest
from fakes.memory import MemoryArchive

from rspretrain.shardset.building.build import Part, build_shards
from rspretrain.shardset.building.merge import merge_parts
from rspretrain.shardset.index import open_shards
from rspretrain.shardset.inspection.verify import verify
from shardset.building.test_build import fingerprints

BROKEN = {4: "nan", 17: "unreadable", 21: "cloudy"}


def parts(tmp_path, of, samples=60, **archive):
    folders = [tmp_path / f"part{number}" for number in range(1, of + 1)]
    for number, folder in enumerate(folders, 1):
        build_shards(MemoryArchive(samples=samples, **archive), folder, samples_per_shard=7, part=Part(number, of))
    return folders


@pytest.mark.parametrize("of", [1, 2, 4, 11])
def test_merged_parts_equal_the_build_of_one_node(tmp_path, of):
    build_shards(MemoryArchive(samples=60, broken=BROKEN), tmp_path / "alone", samples_per_shard=7)
    if of > 1:
        report = merge_parts(parts(tmp_path, of, broken=BROKEN), tmp_path / "joined")
        assert (report.found, report.written, len(report.faults), len(report.excluded)) == (60, 57, 2, 1)
        assert fingerprints(tmp_path / "joined") == fingerprints(tmp_path / "alone")
    assert verify(tmp_path / "alone") == []


def test_parts_in_one_folder_are_merged_in_place(tmp_path):
    for number in (2, 1):
        build_shards(MemoryArchive(), tmp_path / "out", samples_per_shard=7, part=Part(number, 2))
    merge_parts([tmp_path / "out"], tmp_path / "out")
    build_shards(MemoryArchive(), tmp_path / "alone", samples_per_shard=7)
    assert fingerprints(tmp_path / "out") == fingerprints(tmp_path / "alone")


def test_a_part_is_not_a_shard_set(tmp_path):
    parts(tmp_path, 2)
    with pytest.raises(ValueError, match=r"is an unfinished build: .* `rspretrain merge` joins the parts of a build"):
        open_shards(tmp_path / "part1")


def test_missing_parts(tmp_path):
    folders = parts(tmp_path, 3)
    with pytest.raises(ValueError, match="3 of 9 shards are in none of the parts, the first is memory-000001.tar"):
        merge_parts([folders[0], folders[2]], tmp_path / "joined")
    next(folders[1].glob("*.tar")).unlink()
    with pytest.raises(ValueError, match="1 of 9 shards are in none of the parts"):
        merge_parts(folders, tmp_path / "joined")
    (tmp_path / "empty").mkdir()
    with pytest.raises(ValueError, match=r"empty is not a part of a build: it has no .build/plan.json"):
        merge_parts([*folders, tmp_path / "empty"], tmp_path / "joined")


def test_parts_of_different_builds(tmp_path):
    one, _ = parts(tmp_path / "a", 2)
    _, two = parts(tmp_path / "b", 2, samples=61)
    with pytest.raises(ValueError, match="are parts of different builds; they differ in entries: 60 / 61"):
        merge_parts([one, two], tmp_path / "joined")


def test_archives_that_differ_between_nodes(tmp_path):
    one, two = parts(tmp_path, 2)
    build_shards(MemoryArchive(samples=60, seed=1), tmp_path / "other", samples_per_shard=7, part=Part(1, 2))
    with pytest.raises(ValueError, match=r"memory-000000.tar differs between .*part1 and .*other: their archives"):
        merge_parts([one, two, tmp_path / "other"], tmp_path / "joined")


def test_copies_between_file_systems_are_verified(tmp_path, monkeypatch):
    folders = parts(tmp_path, 2)
    monkeypatch.setattr("pathlib.Path.hardlink_to", lambda self, target: (_ for _ in ()).throw(OSError("other disk")))
    merge_parts(folders, tmp_path / "joined")
    assert verify(tmp_path / "joined") == []
    shutil.rmtree(tmp_path / "joined")
    shard = next(folders[0].glob("*.tar"))
    data = bytearray(shard.read_bytes())
    data[1000] ^= 1
    shard.write_bytes(data)
    with pytest.raises(ValueError, match=r"does not have the SHA-256 of its receipt: it was damaged after"):
        merge_parts(folders, tmp_path / "joined")
