"""The base of SEN12MS and DFC2020: files found by name in any folders, complete patches on one grid, faults by name."""

import re

import numpy as np
import pytest
import rasterio
from fakes.rois import write_dfc2020, write_kind, write_sen12ms
from laws import check_archive

from rspretrain.archives.dfc2020 import Dfc2020
from rspretrain.archives.sen12ms import Sen12Ms
from rspretrain.patch import PatchError

PATCH = "ROIs1868_summer_19_p30"


def files(archive):
    return lambda entry: {
        group.name: [archive.root / entry.source.files[kind]] for kind, group in archive.group_of.items()
    }


def path_of(archive, kind, name=PATCH):
    return archive.root / next(entry for entry in archive.entries()[0] if entry.name == name).source.files[kind]


@pytest.mark.parametrize(
    "folder",
    ["{season}/{kind}_{scene}", "{season}_{kind}/{kind}_{scene}", "{kind}/{season}_{kind}/{season}/{kind}_{scene}", ""],
)
def test_law_in_every_folder_layout(tmp_path, folder):
    archive = Sen12Ms(write_sen12ms(tmp_path, folder=folder), maps=True)
    check_archive(archive, {}, files(archive))
    assert [entry.name for entry in archive.entries()[0]][::2] == [
        "ROIs1158_spring_1_p30", "ROIs1868_summer_19_p30", "ROIs2017_winter_1_p30",
    ]  # fmt: skip


def test_one_season_is_an_archive(tmp_path):
    root = write_sen12ms(tmp_path)
    assert len(Sen12Ms(root / "ROIs1158_spring").entries()[0]) == 2


def test_both_archives_in_one_folder(tmp_path):
    root = write_dfc2020(write_sen12ms(tmp_path))
    for archive, count in ((Sen12Ms(root), 6), (Dfc2020(root), 8)):
        check_archive(archive, {}, files(archive))
        assert len(archive.entries()[0]) == count


@pytest.mark.parametrize(("kind", "dtype"), [("s1", "float64"), ("s1", "int16"), ("s2", "int16"), ("lc", "uint16")])
def test_other_dtypes_are_kept(tmp_path, kind, dtype):
    write_sen12ms(tmp_path, patches=1)
    for seed, path in enumerate(sorted(tmp_path.rglob(f"*_{kind}_*.tif"))):
        write_kind(path, kind, seed + 1, dtype=dtype)
    archive = Sen12Ms(tmp_path, maps=True)
    assert archive.group_of[kind].dtype == dtype
    check_archive(archive, {}, files(archive))


def test_sizes_that_differ_have_no_shape(tmp_path):
    write_sen12ms(tmp_path, patches=1, size=48)
    archive = Sen12Ms(tmp_path)
    assert [group.shape for group in archive.groups] == [(48, 48), (48, 48)]
    for kind in ("s1", "s2"):
        write_kind(path_of(archive, kind), kind, 2, size=32)
    archive = Sen12Ms(tmp_path)
    assert [group.shape for group in archive.groups] == [None, None]
    check_archive(archive, {}, files(archive))


def test_faults_by_name(tmp_path):
    write_sen12ms(tmp_path, patches=3, kinds=("s1", "s2"))
    archive = Sen12Ms(tmp_path)
    entries = [entry for entry in archive.entries()[0] if "summer" in entry.name]
    lonely, cut, odd = ({kind: archive.root / path for kind, path in entry.source.files.items()} for entry in entries)
    lonely["s2"].unlink()
    cut["s1"].write_bytes(cut["s1"].read_bytes()[:2000])
    write_kind(odd["s2"], "s2", 6, dtype="int32")
    spring = tmp_path / "ROIs1158_spring"
    write_kind(spring / "s1_copy/ROIs1158_spring_s1_1_p30.tif", "s1", 1)
    write_kind(spring / "s2_1/preview.tif", "s2", 1)
    for ignored in ("README.txt", ".hidden.tif", "ROIs1158_spring_s1.tar.gz"):
        (spring / ignored).touch()
    faults = {
        "ROIs1868_summer_19_p30": "has no s2 file, only ROIs1868_summer/s1_19/ROIs1868_summer_s1_19_p30.tif; unpack",
        "ROIs1868_summer_19_p31": "ROIs1868_summer_s1_19_p31.tif: cannot be read (",
        "ROIs1868_summer_19_p32": "ROIs1868_summer_s2_19_p32.tif: int32 (13, 32, 32), expected uint16 (13, 32, 32) as",
        "ROIs1158_spring/s1_copy/ROIs1158_spring_s1_1_p30.tif": "is a second s1 file of "
        "ROIs1158_spring_1_p30, after ROIs1158_spring/s1_1/ROIs1158_spring_s1_1_p30.tif; the first one is used",
        "ROIs1158_spring/s2_1/preview.tif": "the file name is not one of the archive, expected one like ROIs1868",
    }
    check_archive(archive, faults, files(archive))


def test_missing_bands(tmp_path):
    archive = Sen12Ms(write_sen12ms(tmp_path))
    path = path_of(archive, "s2")
    with rasterio.open(path) as source:
        pixels, profile = source.read(), source.profile
    with rasterio.open(path, "w", **{**profile, "count": 12}) as target:
        target.write(pixels[:12])
    with pytest.raises(PatchError, match=r"uint16 \(12, 32, 32\), expected uint16 \(13, 32, 32\) as in the others"):
        archive.read(next(entry for entry in archive.entries()[0] if entry.name == PATCH))


@pytest.mark.parametrize(
    ("size", "seed", "message"),
    [(16, 3, r"s2_19_p30.tif: \(16, 16\) pixels, expected \(32, 32\) as its partner has"),
     (32, 4, r"s2_19_p30.tif: is at EPSG:32631 \(501280.0, .*\), expected EPSG:32631 \(500960.0, .* Check")],
)  # fmt: skip
def test_files_of_a_patch_have_the_same_location(tmp_path, size, seed, message):
    archive = Sen12Ms(write_sen12ms(tmp_path))
    entry = next(entry for entry in archive.entries()[0] if entry.name == PATCH)
    write_kind(path_of(archive, "s2"), "s2", seed, size)
    with pytest.raises(PatchError, match=message):
        archive.read(entry)


@pytest.mark.filterwarnings("ignore::rasterio.errors.NotGeoreferencedWarning")
def test_files_without_georeference(tmp_path):
    archive = Sen12Ms(write_sen12ms(tmp_path, patches=1))
    for path in tmp_path.rglob("*.tif"):
        with rasterio.open(path) as source:
            pixels = source.read()
        with rasterio.open(path, "w", driver="GTiff", count=len(pixels), height=32, width=32, dtype=pixels.dtype) as t:
            t.write(pixels)
    check_archive(archive, {}, files(archive))
    assert archive.read(archive.entries()[0][0]).bounds is None


def test_folders_that_do_not_exist(tmp_path):
    with pytest.raises(ValueError, match="none is not a folder, expected an archive. Give the path of the unpacked"):
        Sen12Ms(tmp_path / "none")
    write_sen12ms(tmp_path, kinds=("s1",))
    text = "holds no s2 files, expected some named like ROIs1868_summer_s1_19_p30.tif. Give the folder above all scenes"
    with pytest.raises(ValueError, match=re.escape(text)):
        Sen12Ms(tmp_path)
    assert len(Sen12Ms(tmp_path, sensors=("s1",)).entries()[0]) == 6


def test_a_land_cover_of_one_band_is_igbp(tmp_path):
    write_sen12ms(tmp_path, patches=1)
    for path in tmp_path.rglob("*_lc_*.tif"):
        with rasterio.open(path) as source:
            pixels, profile = source.read(), source.profile
        with rasterio.open(path, "w", **{**profile, "count": 1}) as target:
            target.write(pixels[:1])
    archive = Sen12Ms(tmp_path, maps=True)
    assert archive.group_of["lc"].bands == ("igbp",)
    check_archive(archive, {}, files(archive))
    assert archive.read(archive.entries()[0][0]).images["lc_10m"].dtype == np.uint8
