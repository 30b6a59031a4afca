"""BigEarthNet v1: complete pairs only, every fault by name."""

import bz2
import json
import math
import pickle
import re
import shutil
import warnings
from collections import Counter
from functools import partial
from pathlib import Path

import pytest
import rasterio
from fakes.bigearthnet import LISTS, band_files, write_bigearthnet, write_lists
from laws import check_archive

from rspretrain.archives import open_archive
from rspretrain.archives.bigearthnet import BigEarthNet
from rspretrain.patch import Exclusion
from rspretrain.shardset.building.build import build_shards
from rspretrain.shardset.index import ShardSet


@pytest.fixture(scope="module")
def source(tmp_path_factory):
    return write_bigearthnet(tmp_path_factory.mktemp("bigearthnet") / "archive", pairs=10)


@pytest.fixture
def copy(source, tmp_path):
    return Path(shutil.copytree(source, tmp_path / "archive"))


def check(archive, faults):
    check_archive(archive, faults, partial(band_files, archive))


def folders(root):
    return sorted((root / "BigEarthNet-v1.0").iterdir()), sorted((root / "BigEarthNet-S1-v1.0").iterdir())


def edit(folder, **changes):
    path = folder / f"{folder.name}_labels_metadata.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))


def reason(archive):
    (entry,) = [entry for entry in archive.entries()[0] if entry.name == folders(archive.s2.parent)[0][0].name]
    with pytest.raises(ValueError) as caught:
        archive.read(entry)
    return str(caught.value)


@pytest.mark.parametrize("sensors", [("s2", "s1"), ("s2",), ("s1",)])
def test_law(source, sensors):
    archive = BigEarthNet(**dict.fromkeys(sensors, source), splits=source)
    check(archive, {})
    entries, _ = pickle.loads(pickle.dumps(archive)).entries()
    assert len(entries) == 10
    assert {entry.source.split for entry in entries} == {"train", "val", "test"}
    assert entries == sorted(entries, key=lambda entry: entry.key)


def test_a_patch_has_its_location_and_dates(source):
    archive = BigEarthNet(source, source, source)
    patch = archive.read(archive.entries()[0][0])
    assert re.fullmatch(r"EPSG:326(29|3[1-5])", patch.crs)
    left, bottom, right, top = patch.bounds
    assert (right - left, top - bottom) == (1200, 1200)
    assert patch.attributes["season"] in ("winter", "spring", "summer", "fall")
    assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d", str(patch.attributes["s1_date"]))
    assert {"s1_name", "s2_name", "s2_date", "tile_source", "scene_source"} <= patch.attributes.keys()
    assert patch.labels["43"]


def test_pairs_are_read_from_json_without_a_csv(source):
    with_csv, without = BigEarthNet(source, source, source).entries()[0], BigEarthNet(source, source).entries()[0]
    assert [(entry.key, entry.source.s1) for entry in with_csv] == [(entry.key, entry.source.s1) for entry in without]
    assert {entry.source.split for entry in without} == {None}


def test_split_files_of_one_column_in_bzip2_with_a_mapping(copy):
    pairs = []
    for split in ("train", "val", "test"):
        path = copy / f"{split}.csv"
        rows = path.read_text().split()
        pairs += rows
        path.unlink()
        (copy / f"{split}.csv.bz2").write_bytes(bz2.compress("\r\n".join(row.split(",")[0] for row in rows).encode()))
    lines = ["s1_name,s2_name", *(",".join(reversed(row.split(","))) for row in pairs)]
    (copy / "s1_s2_mapping.csv").write_text("\n".join(lines))
    for folder in folders(copy)[1]:
        edit(folder, corresponding_s2_patch="unused at listing")
    entries, faults = BigEarthNet(copy, copy, copy).entries()
    assert (len(entries), faults) == (10, [])
    assert {entry.source.split for entry in entries} == {"train", "val", "test"}


def test_listed_patches_that_are_not_on_disk_are_ignored(copy):
    s2, s1 = folders(copy)
    gone = json.loads(next(s1[0].glob("*.json")).read_text())["corresponding_s2_patch"]
    shutil.rmtree(s1[0])
    shutil.rmtree(s2[0].parent / gone)
    archive = BigEarthNet(copy, copy, copy)
    check(archive, {})


def test_unpaired_patches_and_unexpected_folders_are_faults(copy):
    s2, s1 = folders(copy)
    gone = json.loads(next(s1[0].glob("*.json")).read_text())["corresponding_s2_patch"]
    shutil.rmtree(s1[0])
    names = {json.loads(next(folder.glob("*.json")).read_text())["corresponding_s2_patch"]: folder for folder in s1[1:]}
    removed = next(folder for folder in s2 if folder.name in names)
    shutil.rmtree(removed)
    (s2[0].parent / "S2A_strange").mkdir()
    (s2[0].parent / ".hidden").mkdir()
    (s2[0].parent / "README.txt").touch()
    faults = {
        gone: "Sentinel-2 patch without a Sentinel-1 partner",
        names[removed.name].name: f"Sentinel-1 patch without its Sentinel-2 partner {removed.name}",
        "S2A_strange": "the folder name is not a patch name, expected S2[AB]_MSIL2A_",
    }
    check(BigEarthNet(copy, copy, copy), faults)
    check(BigEarthNet(copy, copy), faults)


def test_a_partner_is_used_once(copy):
    s1 = folders(copy)[1]
    partner = json.loads(next(s1[0].glob("*.json")).read_text())["corresponding_s2_patch"]
    lonely = json.loads(next(s1[1].glob("*.json")).read_text())["corresponding_s2_patch"]
    edit(s1[1], corresponding_s2_patch=partner)
    taken = f"its Sentinel-2 partner {partner} is already the partner of {s1[0].name}"
    check(BigEarthNet(copy, copy), {s1[1].name: taken, lonely: "without a Sentinel-1 partner"})


def test_two_names_of_one_key_keep_the_first(copy):
    first = folders(copy)[0][0]
    archive = BigEarthNet(copy)
    twin = first.with_name(first.name + "_twin")
    assert archive.entries()[1] == []
    shutil.copytree(first, twin)
    assert archive.entries()[1][0].name == twin.name


def test_a_missing_band_file(copy):
    first = folders(copy)[0][0]
    (first / f"{first.name}_B8A.tif").unlink()
    check(BigEarthNet(copy), {first.name: f"{first.name}_B8A.tif: the file is missing. Unpack or download"})


def test_a_truncated_file(copy):
    first = folders(copy)[0][0]
    path = first / f"{first.name}_B04.tif"
    path.write_bytes(path.read_bytes()[:20000])
    check(BigEarthNet(copy, copy, copy), {first.name: f"{first.name}_B04.tif: cannot be read ("})


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"labels": ["Pasture"]}, "label 'Pasture' is not one of the 43 CORINE classes (nearest: 'Pastures'). Repair"),
        ({"labels": []}, "labels [], expected a list of CORINE names. Repair its JSON."),
        ({"acquisition_date": "soon"}, "acquired at 'soon', expected YYYY-MM-DD hh:mm:ss. Repair its JSON."),
    ],
    ids=["label", "no labels", "date"],
)
def test_invalid_metadata(copy, changes, message):
    edit(folders(copy)[0][0], **changes)
    assert message in reason(BigEarthNet(copy))


def test_missing_and_damaged_json(copy):
    first = folders(copy)[0][0]
    path = first / f"{first.name}_labels_metadata.json"
    path.write_text("{")
    assert "_labels_metadata.json: not JSON (" in reason(BigEarthNet(copy))
    path.unlink()
    assert "_labels_metadata.json: the file is missing. Unpack" in reason(BigEarthNet(copy))
    path.mkdir()
    assert "_labels_metadata.json: not JSON ([Errno 21] Is a directory" in reason(BigEarthNet(copy))


@pytest.mark.parametrize("corners", [None, [1, 2], {"ulx": 1}, dict.fromkeys(("ulx", "uly", "lrx", "lry"), math.nan)])
def test_a_patch_without_any_georeference(copy, corners):
    """Rasters without a CRS and without coordinates in the JSON are a fault of one patch, not of the build."""
    first = folders(copy)[0][0]
    for path in first.glob("*.tif"):
        with warnings.catch_warnings(action="ignore"), rasterio.open(path) as file:
            pixels = file.read()
            size = {"count": 1, "height": file.height, "width": file.width, "dtype": file.dtypes[0]}
        with warnings.catch_warnings(action="ignore"), rasterio.open(path, "w", "GTiff", **size) as file:
            file.write(pixels)
    archive = BigEarthNet(copy)
    assert archive.read(archive.entries()[0][0]).bounds is not None
    edit(first, coordinates=corners)
    assert "coordinates " in reason(archive)
    assert ", expected ulx, uly, lrx, lry. Repair its JSON." in reason(archive)


def test_a_pair_that_contradicts_its_json(copy):
    s2, s1 = folders(copy)
    for folder in s1:
        edit(folder, corresponding_s2_patch="S2A_MSIL2A_20170101T101010_1_1")
    message = reason(BigEarthNet(copy, copy, copy))
    assert f"names the partner 'S2A_MSIL2A_20170101T101010_1_1', expected '{s2[0].name}'. Check the CSVs." in message


def test_a_label_outside_the_19_keeps_its_43(copy, tmp_path):
    edit(folders(copy)[0][0], labels=["Burnt areas"])
    archive = BigEarthNet(copy)
    assert archive.read(archive.entries()[0][0]).labels == {"43": ("Burnt areas",), "19": ()}
    assert build_shards(archive, tmp_path / "shards").written == 10
    shards = ShardSet(tmp_path / "shards")
    row = shards.keys().index(archive.entries()[0][0].key)
    assert [shards.column(f"labels_{name}")[row].as_py() for name in ("43", "19")] == [["Burnt areas"], []]


@pytest.mark.parametrize("sensors", [("s2", "s1"), ("s2",), ("s1",)])
def test_flags_and_exclusions_use_the_s2_name(copy, sensors):
    flagged = write_lists(copy, snow=2, cloud=1)
    roots = dict.fromkeys(sensors, copy)
    entries, _ = BigEarthNet(**roots, splits=copy).entries()
    assert Counter((e.source.snow, e.source.cloud, e.source.split is None) for e in entries) == {
        (True, False, True): 2, (False, True, True): 1, (False, False, False): 7,
    }  # fmt: skip
    for exclude, left in ((("snow",), 8), (("cloud",), 9), (("snow", "cloud"), 7)):
        archive = BigEarthNet(**roots, splits=copy, exclude=exclude)
        check(archive, {})
        assert len(archive.entries()[0]) == left
    assert not {entry.source.s2 for entry in archive.entries()[0]} & {*flagged["snow"], *flagged["cloud"]}
    excluded = archive.entries()[1]
    assert Counter(fault.reason for fault in excluded) == {"is in the list of snow": 2, "is in the list of cloud": 1}
    assert all(isinstance(fault, Exclusion) for fault in excluded)


def test_flags_are_attributes_if_their_list_exists(copy):
    flagged = write_lists(copy)
    (copy / LISTS["cloud"]).unlink()
    archive = BigEarthNet(copy, splits=copy)
    first, last = (archive.read(archive.entries()[0][index]).attributes for index in (0, -1))
    assert first["s2_name"] == flagged["snow"][0]
    assert (first["snow"], last["snow"], "cloud" in first) == (1, 0, False)


def test_an_excluded_patch_is_not_unpaired(copy):
    snow = write_lists(copy)["snow"]
    shutil.rmtree(copy / "BigEarthNet-v1.0" / snow[0])
    missing = f"Sentinel-1 patch without its Sentinel-2 partner {snow[0]}"
    assert [fault.reason for fault in BigEarthNet(copy, copy, copy).entries()[1]] == [missing]
    check(BigEarthNet(copy, copy, copy, exclude=("snow",)), {})


@pytest.mark.parametrize("sensors", [("s2", "s1"), ("s2",), ("s1",)])
def test_random_splits_need_no_files_and_are_the_same_for_every_sensor(source, sensors):
    roots = dict.fromkeys(sensors, source)
    entries, faults = BigEarthNet(**roots, split="random").entries()
    assert (Counter(entry.source.split for entry in entries), faults) == ({"train": 6, "val": 2, "test": 2}, [])
    both = {entry.source.s1: entry.source.split for entry in BigEarthNet(source, source, split="random").entries()[0]}
    s2_only = [entry.source.split for entry in BigEarthNet(source, split="random").entries()[0]]
    splits = [entry.source.split for entry in entries]
    assert splits == ([both[entry.source.s1] for entry in entries] if "s1" in sensors else s2_only)
    assert splits != [entry.source.split for entry in BigEarthNet(**roots, split="random", seed=1).entries()[0]]


def test_random_splits_divide_the_remaining_patches(copy):
    write_lists(copy, snow=3, cloud=2)
    for split in ("train", "val", "test"):
        (copy / f"{split}.csv").unlink()
    entries, _ = BigEarthNet(copy, splits=copy, exclude=("snow", "cloud"), split="random").entries()
    assert Counter(entry.source.split for entry in entries) == {"train": 3, "val": 1, "test": 1}


def test_official_only_excludes_patches_without_a_split(copy):
    write_lists(copy)
    archive = BigEarthNet(copy, copy, copy, split="official-only")
    check(archive, {})
    assert [fault.reason for fault in archive.entries()[1]] == ["is in no official split"] * 3
    assert len(archive.entries()[0]) == 7
    assert None not in {entry.source.split for entry in archive.entries()[0]}


def test_an_s1_patch_without_a_named_partner_is_a_fault_if_lists_need_it(copy):
    first = folders(copy)[1][0]
    partner = json.loads(next(first.glob("*.json")).read_text())["corresponding_s2_patch"]
    edit(first, corresponding_s2_patch=None)
    fault = {first.name: "Sentinel-1 patch without its Sentinel-2 partner (none named)"}
    check(BigEarthNet(s1=copy), {})
    check(BigEarthNet(s1=copy, split="random"), fault)
    check(BigEarthNet(copy, copy), fault | {partner: "Sentinel-2 patch without a Sentinel-1 partner"})


def test_options_from_the_command_line(copy):
    write_lists(copy)
    options = ["exclude=snow,cloud", "split=random", "seed=7"]
    archive = open_archive("bigearthnet", [f"S2={copy}", f"splits={copy}"], options)
    assert (archive.exclude, archive.split, archive.seed) == (("snow", "cloud"), "random", 7)
    assert len(archive.entries()[0]) == 7
    with pytest.raises(ValueError, match=r"exclude='mist', expected snow or cloud .several separated"):
        open_archive("bigearthnet", [f"S2={copy}"], ["exclude=mist"])


def test_options_without_their_lists(source):
    with pytest.raises(ValueError, match=r"exclude=snow got no lists, expected their folder\. Give splits="):
        BigEarthNet(source, exclude=("snow",))
    with pytest.raises(ValueError, match=r"split=official-only got no lists, expected their folder\. Give"):
        BigEarthNet(source, split="official-only")
    with pytest.raises(ValueError, match=r"seed=3 has no effect on split=official, expected none\. Drop it, or set"):
        BigEarthNet(source, splits=source, seed=3)
    with pytest.raises(ValueError, match=r"exclude=cloud got no list: \S+ holds no patches_with_cloud_and_shadow\.csv"):
        BigEarthNet(source, splits=source, exclude=("cloud",)).entries()


def test_missing_sources(source, tmp_path):
    with pytest.raises(ValueError, match=r"got no source, expected S2, S1 or both\. Give S2=<folder>"):
        BigEarthNet()
    with pytest.raises(ValueError, match=r"none is not a folder, expected BigEarthNet-v1\.0\. Give the path"):
        BigEarthNet(tmp_path / "none")
    with pytest.raises(ValueError, match=r"holds no train\.csv \(or \.csv\.bz2\), expected a file for each of"):
        BigEarthNet(source, splits=tmp_path).entries()


def test_contradicting_and_invalid_split_files(copy):
    row = (copy / "train.csv").read_text().split()[0]
    (copy / "val.csv").write_text(row)
    with pytest.raises(ValueError, match=r"val\.csv: S2._\w+ is in train too, expected disjoint splits\. Repair"):
        BigEarthNet(copy, splits=copy).entries()
    (copy / "val.csv").write_text("header\nnonsense\n")
    with pytest.raises(ValueError, match=r"val\.csv, line 2: 'nonsense', expected s2_name,s1_name\. Repair"):
        BigEarthNet(copy, splits=copy).entries()
