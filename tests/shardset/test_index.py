import json

import numpy as np
import pandas
import pytest
from fakes.memory import CLASSES, SCENE_GROUPS, MemoryArchive, memory_shards

from rspretrain.shardset.index import CorruptSampleError, open_shards


def test_reading_by_row(tmp_path):
    shards = memory_shards(tmp_path, samples=9, groups=SCENE_GROUPS)
    for row, key in enumerate(shards.keys()):
        images, metadata = shards.read(row)
        assert metadata["key"] == key
        assert shards.row_of_key[key] == row
        np.testing.assert_array_equal(images["rgb"], MemoryArchive().pixels(int(key[-5:]), SCENE_GROUPS[0]))


def test_labels_and_splits(tmp_path):
    shards = memory_shards(tmp_path, samples=20)
    numbers = [int(key[-5:]) for key in shards.keys()]
    expected = np.array([[c == CLASSES[n % 3] for c in CLASSES] for n in numbers])
    np.testing.assert_array_equal(shards.labels("class"), expected)
    np.testing.assert_array_equal(shards.labels("all"), expected | (np.array(numbers)[:, None] % 2 == 1))
    assert [numbers[row] % 5 == 0 for row in shards.split_rows("test")] == [True] * 4
    assert len(shards.split_rows(None)) == 20


def test_hold_out_is_every_fifth_of_every_class(tmp_path):
    shards = memory_shards(tmp_path, samples=33)
    train, test = (set(shards.split_rows(f"holdout:{part}").tolist()) for part in ("train", "test"))
    assert train | test == set(range(33))
    assert not train & test
    held = sorted(shards.keys(np.array(sorted(test))))
    assert held == [f"patch-{i:05d}" for i in range(33) if i // 3 % 5 == 4]  # classes are i % 3


def test_pandas_opens_the_index(tmp_path):
    memory_shards(tmp_path, samples=20)
    table = pandas.read_parquet(tmp_path / "index.parquet")
    assert set(table.query("country == 'Finland' and split == 'train'").crs) == {"EPSG:32633"}
    assert {"key", "shard", "offset", "bytes", "checksum", "offset_s2_20m", "labels_all", "left", "cloud"} <= {*table}


def test_damage(tmp_path):
    shards = memory_shards(tmp_path, samples=9)
    path = tmp_path / "memory-000000.tar"
    data = bytearray(path.read_bytes())
    data[5000] ^= 4
    path.write_bytes(data)
    with pytest.raises(CorruptSampleError, match="does not have the checksum"):
        for row in range(8):
            shards.read(row)


def test_folders_that_are_not_shard_sets(tmp_path):
    with pytest.raises(ValueError, match="is not a shard set: it has no manifest.json"):
        open_shards(tmp_path)
    memory_shards(tmp_path / "a", samples=9)
    path = tmp_path / "a/manifest.json"
    content = json.loads(path.read_text())
    for change, message in (
        ({"version": 1}, r"has version 1 of the format; this package reads 2. Run `rspretrain upgrade .*/a`\."),
        ({"version": 3}, "has version 3 of the format; .* Use the release of rspretrain that wrote it"),
        ({"samples": 10}, "was changed after the build: its content has the checksum"),
        ({"bands": []}, "does not have the fields of version 2"),
        ({"format": "tar"}, "has format 'tar', expected 'rspretrain-shards'"),
    ):
        path.write_text(json.dumps({**content, **change}))
        with pytest.raises(ValueError, match=message):
            open_shards(tmp_path / "a")
    path.write_text("{")
    with pytest.raises(ValueError, match=r"manifest.json is not JSON. Restore it"):
        open_shards(tmp_path / "a")
    memory_shards(tmp_path / "b", samples=10)
    path.write_bytes((tmp_path / "b/manifest.json").read_bytes())
    with pytest.raises(ValueError, match="has 9 rows, its manifest counts 10 samples"):
        open_shards(tmp_path / "a")


def test_unknown_names(tmp_path):
    shards = memory_shards(tmp_path, samples=4)
    with pytest.raises(ValueError, match=r"has no nomenclature '19'; its nomenclatures are \['all', 'class'\]"):
        shards.labels("19")
    with pytest.raises(ValueError, match=r"has no column 'colour'; its columns are \['key', "):
        shards.column("colour")
