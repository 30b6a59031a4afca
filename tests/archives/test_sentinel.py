"""Band files of one patch: groups by name with unchanged pixels; errors name inconsistent files."""

from datetime import datetime

import numpy as np
import pytest
from affine import Affine
from rasterio.io import MemoryFile

from rspretrain.archives.raster import write_raster
from rspretrain.archives.sentinel import (
    MAP_GROUPS,
    S1_GROUPS,
    S2_GROUPS,
    band_file,
    find_folder,
    folders_in,
    read_patch_folders,
    season_of,
)
from rspretrain.patch import PatchError

LEFT, TOP, EPSG = 390_000, 5_348_400, 32633


def pixels(group, band):
    rng = np.random.default_rng(list(f"{group.name}{band}".encode()))
    return rng.integers(0, 9999, (1, *group.shape)).astype(group.dtype)


@pytest.fixture
def sides(tmp_path):
    sides = [(tmp_path / "S2A_x_1_2", S2_GROUPS), (tmp_path / "S1A_y", S1_GROUPS), (tmp_path / "S2A_z", MAP_GROUPS)]
    for folder, groups in sides:
        folder.mkdir()
        for group in groups:
            for band in group.bands:
                write_raster(band_file(folder, band), pixels(group, band), EPSG, LEFT, TOP, group.gsd_m)
    return sides


def test_groups_hold_their_bands_by_name(sides):
    images, firsts = read_patch_folders(sides)
    for group in (*S2_GROUPS, *S1_GROUPS, *MAP_GROUPS):
        expected = np.concatenate([pixels(group, band) for band in group.bands])
        assert images[group.name].dtype == group.dtype
        np.testing.assert_array_equal(images[group.name], expected)
    location = (f"EPSG:{EPSG}", (LEFT, TOP - 1200, LEFT + 1200, TOP))
    assert [(raster.crs, raster.bounds) for raster in firsts] == [location] * 3


@pytest.mark.parametrize(
    ("dtype", "rows", "shift_m", "epsg", "message"),
    [
        (
            "float32",
            60,
            0,
            EPSG,
            "_B11.tif: float32 (1, 60, 60), expected uint16 (1, 60, 60). Download the file again.",
        ),
        ("uint16", 59, 0, EPSG, "_B11.tif: uint16 (1, 59, 60), expected uint16 (1, 60, 60). Download the file again."),
        ("uint16", 60, 20, EPSG, f"_B11.tif: is at EPSG:{EPSG} ({LEFT + 20}.0, "),
        ("uint16", 60, 0, EPSG + 1, f"_B11.tif: is at EPSG:{EPSG + 1} ({LEFT}.0, "),
    ],
    ids=["dtype", "shape", "place", "crs"],
)
def test_an_inconsistent_file_is_named(sides, dtype, rows, shift_m, epsg, message):
    odd = np.zeros((1, rows, 60), dtype)
    write_raster(band_file(sides[0][0], "B11"), odd, epsg, LEFT + shift_m, TOP, 20.0)
    with pytest.raises(PatchError) as caught:
        read_patch_folders(sides)
    assert message in str(caught.value)


def test_sensors_and_maps_have_the_same_location(sides):
    for (folder, groups), band in zip(sides[1:], ("VH", "clc"), strict=True):
        raster = pixels(groups[0], band)
        write_raster(band_file(folder, band), raster, EPSG, LEFT + 1200, TOP, 10.0)
        with pytest.raises(PatchError, match=rf"{band_file(folder, band).name}: is at .* Check the pair\."):
            read_patch_folders(sides)
        write_raster(band_file(folder, band), raster, EPSG, LEFT + 4, TOP, 10.0)  # less than half a pixel
        read_patch_folders(sides)


def test_a_file_without_georeference_is_accepted(sides):
    with MemoryFile() as memory:
        with memory.open(
            driver="GTiff", width=60, height=60, count=1, dtype="uint16", transform=Affine.scale(2)
        ) as file:
            file.write(pixels(S2_GROUPS[1], "B11"))
        band_file(sides[0][0], "B11").write_bytes(memory.read())
    assert read_patch_folders(sides)[0]["s2_20m"].shape == (6, 60, 60)


def test_a_missing_and_a_truncated_file_are_named(sides):
    path = band_file(sides[2][0], "clc")
    path.write_bytes(path.read_bytes()[:9000])
    with pytest.raises(PatchError, match=r"S2A_z_reference_map\.tif: cannot be read \("):
        read_patch_folders(sides)
    path.unlink()
    with pytest.raises(PatchError, match=r"S2A_z_reference_map\.tif: the file is missing\. Unpack or download"):
        read_patch_folders(sides)


def test_folders(tmp_path):
    for name in ("b", "a", ".hidden", "__MACOSX"):
        (tmp_path / name).mkdir()
    (tmp_path / "file").touch()
    assert folders_in(tmp_path) == ["a", "b"]
    assert (find_folder(tmp_path, "a"), find_folder(tmp_path, "c")) == (tmp_path / "a", tmp_path)
    with pytest.raises(ValueError, match=r"none is not a folder, expected c\. Give the path of the unpacked archive\."):
        find_folder(tmp_path / "none", "c")


def test_seasons():
    months = [season_of(datetime(2017, month, 15)) for month in range(1, 13)]
    assert months == ["winter"] * 2 + ["spring"] * 3 + ["summer"] * 3 + ["fall"] * 3 + ["winter"]
