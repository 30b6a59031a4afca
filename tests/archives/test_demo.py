"""The demo archive has BigEarthNet-MM's layout, keys and coordinates, and the same bytes for any number of workers."""

import json
import subprocess
import sys
from functools import partial
from hashlib import sha256
from pathlib import Path

import pytest
from fakes.bigearthnet import band_files
from laws import check_archive

from rspretrain.archives.bigearthnet import BigEarthNet
from rspretrain.archives.demo import _mgrs, plan_pairs, write_demo

ROOT = Path(__file__).parents[2]
REAL = ROOT.parent / "shared/data/bigearthnet-v1"


def digests(root):
    return {
        str(path.relative_to(root)): sha256(path.read_bytes()).hexdigest()
        for path in root.rglob("*.*")
        if path.is_file()
    }


def test_same_bytes_for_any_number_of_workers(tmp_path):
    write_demo(tmp_path / "one", 10, seed=3)
    command = [sys.executable, "shards/demo.py", "--out", str(tmp_path / "two"), "--pairs", "10", "--seed", "3"]
    subprocess.run([*command, "--workers", "2"], cwd=ROOT, check=True, timeout=120)
    assert digests(tmp_path / "one") == digests(tmp_path / "two")
    write_demo(tmp_path / "other", 10, seed=4)
    assert (
        digests(tmp_path / "one")
        .keys()
        .isdisjoint(digests(tmp_path / "other").keys() - {"train.csv", "val.csv", "test.csv"})
    )
    archive = BigEarthNet(tmp_path / "one", tmp_path / "one", tmp_path / "one")
    check_archive(archive, {}, partial(band_files, archive))


def test_the_plan_of_640():
    plan = plan_pairs(640, 0)
    counts = {split: sum(pair.split == split for pair in plan) for split in ("train", "val", "test")}
    assert counts == {"train": 384, "val": 128, "test": 128}
    assert len({pair.s2_name for pair in plan}) == len({pair.s1_name for pair in plan}) == 640
    assert any("T9" in pair.s2_name for pair in plan)  # one-digit hours
    assert len({pair.zone for pair in plan}) > 3
    splits = {}
    for pair in plan:
        splits.setdefault(pair.mgrs, set()).add((pair.split, pair.scene))
    assert all(len(of_tile) == 1 for of_tile in splits.values())


@pytest.mark.parametrize(("tile", "name"), [((33, 3, 53), "33UUP"), ((29, 6, 58), "29UPU"), ((35, 6, 69), "35VPK")])
def test_names_of_real_tiles(tile, name):
    assert _mgrs(*tile) == name


@pytest.mark.skipif(not REAL.is_dir(), reason="no real archives at ../shared/data")
def test_json_has_the_keys_and_types_of_the_originals(tmp_path):
    write_demo(tmp_path / "demo", 5)

    def shape(root, sensor):
        path = sorted((root / sensor).glob("*/*.json"))[0]
        metadata = json.loads(path.read_text())
        corners = {key: type(value) for key, value in metadata["coordinates"].items()}
        return {key: type(value) for key, value in metadata.items()}, corners, metadata["projection"][:26]

    for sensor in ("BigEarthNet-v1.0", "BigEarthNet-S1-v1.0"):
        assert shape(tmp_path / "demo", sensor) == shape(REAL, sensor)


def test_invalid_arguments(tmp_path):
    with pytest.raises(ValueError, match=r"4 pairs, expected at least 5: one for each landscape\. Raise --pairs\."):
        write_demo(tmp_path / "new", 4)
    (tmp_path / "file").touch()
    with pytest.raises(
        ValueError, match=r"exists and is not empty, expected a new folder\. Remove it or choose another"
    ):
        write_demo(tmp_path, 5)
