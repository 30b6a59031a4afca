"""Golden shard sets of every format version, written by the release that introduced it."""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
from fakes.memory import PAIR_GROUPS, SCENE_GROUPS, MemoryArchive, memory_shards
from torture import times

from rspretrain.shardset.building import upgrade as module
from rspretrain.shardset.building.upgrade import upgrade
from rspretrain.shardset.index import open_shards
from rspretrain.shardset.inspection.verify import verify
from rspretrain.shardset.manifest import VERSION
from rspretrain.streaming.loader import evaluation_batches

GOLDEN = Path(__file__).parents[2] / "golden"
SETS = sorted(path.parent for path in GOLDEN.rglob("manifest.json"))
assert len(SETS) >= 6, f"golden shard sets are missing in {GOLDEN}"


def archive_of(folder):
    scenes = [entry["name"] for entry in json.loads((folder / "manifest.json").read_text())["groups"]] == ["rgb"]
    return MemoryArchive(groups=SCENE_GROUPS if scenes else PAIR_GROUPS)


def check(folder, archive):
    """All pixels, labels and coordinates equal those of the archive, in `read` and in the stream."""
    shards = open_shards(folder)
    assert verify(folder) == []
    patches = {entry.key: archive.read(entry) for entry in archive.entries()[0]}
    for row, key in enumerate(shards.keys()):
        images, metadata = shards.read(row)
        assert metadata["labels"] == {name: list(labels) for name, labels in patches[key].labels.items()}
        for name, image in images.items():
            np.testing.assert_array_equal(image, patches[key].images[name])
    for batch in evaluation_batches(shards, list(shards.groups), np.arange(len(shards)), 2):
        for index, key in enumerate(shards.keys(batch.rows)):
            for name, image in patches[key].images.items():
                _, height, width = image.shape
                np.testing.assert_array_equal(batch.images[name][index, :, :height, :width].numpy(), image)


@pytest.mark.parametrize("golden", SETS, ids=lambda path: str(path.relative_to(GOLDEN)))
def test_sets_of_every_version_are_read_after_an_upgrade(golden, tmp_path):
    shutil.copytree(golden, tmp_path / "set")
    version = json.loads((golden / "manifest.json").read_text())["version"]
    tars = {path.name: path.read_bytes() for path in golden.glob("*.tar")}
    if version != VERSION:
        with pytest.raises(ValueError, match=r"has version 1 of the format; .* Run `rspretrain upgrade .*/set`\."):
            open_shards(tmp_path / "set")
    assert upgrade(tmp_path / "set") == version
    assert upgrade(tmp_path / "set") == VERSION
    assert {path.name: path.read_bytes() for path in (tmp_path / "set").glob("*.tar")} == tars
    check(tmp_path / "set", archive_of(golden))


def test_an_upgraded_set_equals_a_new_one(tmp_path):
    shutil.copytree(GOLDEN / "v1/pairs", tmp_path / "old")
    upgrade(tmp_path / "old")
    old, new = open_shards(tmp_path / "old"), memory_shards(tmp_path / "new", samples=5, samples_per_shard=3)
    assert old.manifest.statistics == new.manifest.statistics
    for name in ("groups", "layout", "nomenclatures", "splits", "codec", "samples"):
        assert getattr(old.manifest, name) == getattr(new.manifest, name)
    for name in ("lon", "lat", "geometry", "country", "labels_all"):
        metadata = [dict(zip(s.keys(), s.column(name).to_pylist(), strict=True)) for s in (old, new)]
        assert metadata[0] == metadata[1]


def test_todays_builder_writes_the_golden_bytes(tmp_path):
    for name, archive in (("pairs", {"samples": 5}), ("scenes", {"samples": 4, "groups": SCENE_GROUPS})):
        memory_shards(tmp_path / name, samples_per_shard=3, **archive)
        for tar in (GOLDEN / f"v{VERSION}" / name).glob("*.tar"):
            assert (tmp_path / name / tar.name).read_bytes() == tar.read_bytes()


def test_a_damaged_set_is_not_changed(tmp_path):
    for trial in range(times(5, 50)):
        folder = tmp_path / f"set{trial}"
        shutil.copytree(GOLDEN / "v1/pairs", folder)
        rng = np.random.default_rng(trial)
        tar = sorted(folder.glob("*.tar"))[rng.integers(2)]
        data = bytearray(tar.read_bytes())
        data[rng.integers(len(data))] ^= 1 << int(rng.integers(8))
        tar.write_bytes(data)
        before = {path.name: path.read_bytes() for path in folder.iterdir()}
        with pytest.raises(ValueError, match=r"is damaged \(.*\). Restore it from a copy, then upgrade."):
            upgrade(folder)
        assert {path.name: path.read_bytes() for path in folder.iterdir()} == before


def test_a_killed_upgrade_can_be_started_again(tmp_path, monkeypatch):
    shutil.copytree(GOLDEN / "v1/scenes", tmp_path / "set")
    from rspretrain.shardset.building import assemble

    whole = assemble.write_atomically

    def killed(path, data):
        if path.name == "manifest.json":
            raise KeyboardInterrupt
        whole(path, data)

    with monkeypatch.context() as patched, pytest.raises(KeyboardInterrupt):
        patched.setattr(assemble, "write_atomically", killed)
        upgrade(tmp_path / "set")
    assert upgrade(tmp_path / "set") == 1
    assert verify(tmp_path / "set") == []


def test_unknown_versions(tmp_path):
    shutil.copytree(GOLDEN / "v1/pairs", tmp_path / "set")
    path = tmp_path / "set/manifest.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), "version": 99}))
    with pytest.raises(ValueError, match=r"has version 99 of the format, expected one of \(1, 2\). Use the release"):
        upgrade(tmp_path / "set")
    path.write_text(json.dumps({"format": "rspretrain-shards", "version": 1}))
    with pytest.raises(ValueError, match="does not have the fields of version 1"):
        upgrade(tmp_path / "set")
    assert tuple(range(1, VERSION)) == module.UPGRADABLE
