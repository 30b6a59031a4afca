"""Grouping of files into scenes; all other files are faults."""

import os
from datetime import datetime
from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest
from fakes.geotiff import noise, write_band_folder, write_file, write_s1, write_vrt

from rspretrain.archives.scene_files import Source, acquired, band_name, find_scenes
from rspretrain.sensors import BAND_ORDER


def find(sensor, path, **options):
    scenes, faults = find_scenes(Source(sensor, path, **options))
    return {scene.name: scene for scene in scenes}, {fault.name: fault.reason for fault in faults}


def bands(scene):
    return [layer.bands for layer in scene.layers]


def fault(sensor, path, **options):
    """The only fault of a folder without a usable scene."""
    scenes, faults = find(sensor, path, **options)
    assert scenes == {}
    (reason,) = faults.values()
    return reason


def test_a_folder_with_one_file_per_band(tmp_path):
    write_band_folder(tmp_path / "here/S2A_20220706")
    scenes, faults = find("s2", tmp_path)
    scene = scenes["s2/here/S2A_20220706"]
    assert (faults, bands(scene)) == ({}, [("B02", "B04"), ("B8A",), ("B01",)])
    assert [layer.ratio for layer in scene.layers] == [Fraction(1), Fraction(2), Fraction(6)]
    assert [layer.gsd_m for layer in scene.layers] == [10.0, 20.0, 60.0]
    assert [path.name for path, _ in scene.layers[0].files] == ["B02.tif", "B04.tif"]
    assert (scene.when, scene.season) == (datetime(2022, 7, 6), "summer")


def test_scenes_in_one_folder_are_separated_by_prefix(tmp_path):
    for prefix in ("T33_20200101_", "T34_20200101_"):
        write_band_folder(tmp_path / "all", prefix=prefix)
    write_band_folder(tmp_path / "T35", prefix="T35_")
    scenes, faults = find("s2", tmp_path)
    assert (sorted(scenes), faults) == (["s2/T35", "s2/all/T33_20200101", "s2/all/T34_20200101"], {})


@pytest.mark.parametrize("stem", ["B8A", "b8a", "X_B8A", "x-b8a", "x.B8A", "X_B8A_20m"])
def test_a_band_is_known_at_the_end_of_a_stem(tmp_path, stem):
    write_file(tmp_path / f"{stem}.TIFF", noise())
    (scene,) = find("s2", tmp_path)[0].values()
    assert bands(scene) == [("B8A",)]


def test_band_names():
    assert [band_name("s2", name) for name in ("B2", "b02", "B8A", "b08a", "B12")] == [
        "B02",
        "B02",
        "B8A",
        "B8A",
        "B12",
    ]
    assert [band_name("s1", "vv"), band_name("rgb", "red"), band_name("other", "nir")] == ["VV", "R", "nir"]


@pytest.mark.parametrize(
    ("sensor", "count", "options", "expected"),
    [
        ("s1", 2, {"bands": ("VH", "VV")}, ("VV", "VH")),
        ("rgb", 3, {}, ("R", "G", "B")),
        ("rgb", 4, {"bands": ("B", "G", "R", "-")}, ("R", "G", "B")),
        ("other", 3, {}, ("b1", "b2", "b3")),
        ("other", 2, {"bands": ("nir", "red")}, ("nir", "red")),
    ],
)
def test_default_names_of_unnamed_bands(tmp_path, sensor, count, options, expected):
    write_file(tmp_path / "scene.tif", noise(count, 8, 8), photometric="MINISBLACK")
    scenes, faults = find(sensor, tmp_path, **options)
    assert (bands(scenes[f"{sensor}/scene.tif"]), faults) == ([expected], {})


def test_descriptions_are_names_and_an_option_selects_them(tmp_path):
    write_file(tmp_path / "scene.tif", noise(3, 8, 8), names=("B12", "B2", "B8A"))
    (scene,) = find("s2", tmp_path)[0].values()
    assert scene.layers[0].files == ((Path("scene.tif"), (2, 3, 1)),)
    (scene,) = find("s2", tmp_path, bands=("B12", "B02"))[0].values()
    assert (bands(scene), scene.layers[0].files) == ([("B02", "B12")], ((Path("scene.tif"), (2, 1)),))


def test_an_option_selects_band_files(tmp_path):
    write_band_folder(tmp_path / "scene")
    scenes, faults = find("s2", tmp_path, bands=("B02", "B01"))
    assert (bands(scenes["s2/scene"]), faults) == ([("B02",), ("B01",)], {})


def test_unnamed_bands_are_a_fault(tmp_path):
    write_file(tmp_path / "scene.tif", noise(5, 8, 8))
    assert fault("s2", tmp_path) == (
        "has 5 band(s) (?, ?, ?, ?, ?), expected names of s2 in its descriptions or at the end of its file name. Name "
        "them: --option s2_bands=B01,B02,B03,B04,…, in the order of the file (- for an unused band)."
    )
    reason = fault("s2", tmp_path, bands=("B02", "B03"))
    assert reason == "has 5 band(s) (?, ?, ?, ?, ?), expected the 2 of s2_bands. Correct the option."


@pytest.mark.parametrize(("sensor", "count"), [("s2", 13), ("s2", 12), ("s1", 2)])
def test_bands_of_sentinels_are_not_guessed_from_their_number(tmp_path, sensor, count):
    """B8A is last in EuroSAT and after B08 in SEN12MS: a guess would be silently wrong for one of them."""
    write_file(tmp_path / "scene.tif", noise(count, 8, 8))
    assert f"Name them: --option {sensor}_bands={BAND_ORDER[sensor][0]}," in fault(sensor, tmp_path)


@pytest.mark.parametrize("option", [(), ("B02",)])
def test_files_that_are_not_bands(tmp_path, option):
    write_band_folder(tmp_path / "scene")
    write_file(tmp_path / "scene/SCL.tif", noise(dtype="uint8"))
    scenes, faults = find("s2", tmp_path, bands=option)
    assert list(scenes) == ["s2/scene"]
    assert faults == {
        "s2/scene/SCL.tif": "has 1 band(s) (?), expected a file name that ends with a band of s2, like the others. "
        "Rename it, or exclude it with a pattern: --source s2='<folder>/*B*.tif'."
    }
    assert find("s2", tmp_path / "*B*.tif", bands=option)[1] == {}


def test_other_instruments_take_any_names(tmp_path):
    write_file(tmp_path / "a/nir.tif", noise(1, 8, 8))
    write_file(tmp_path / "b/scene_nir.tif", noise(1, 8, 8))
    write_file(tmp_path / "b/scene_swir.tif", noise(1, 4, 4), 20.0)
    scenes, _ = find("other", tmp_path)
    assert {name: bands(scene) for name, scene in scenes.items()} == {
        "other/a/nir.tif": [("b1",)], "other/b/scene_nir.tif": [("b1",)], "other/b/scene_swir.tif": [("b1",)],
    }  # fmt: skip
    scenes, _ = find("other", tmp_path / "b", bands=("nir", "swir"))
    assert {name: bands(scene) for name, scene in scenes.items()} == {"other/scene": [("nir",), ("swir",)]}


def test_patterns_and_single_files(tmp_path):
    write_s1(tmp_path / "x/s1_1/p_s1_1.tif")
    write_band_folder(tmp_path / "x/s2_1")
    assert sorted(find("s1", tmp_path / "*" / "*_s1_*")[0]) == ["s1/x/s1_1/p_s1_1.tif"]
    assert sorted(find("s1", tmp_path / "x/s1_1/p_s1_1.tif")[0]) == ["s1/p_s1_1.tif"]
    assert sorted(find("s2", tmp_path / "x" / "s2_?" / "B*")[0]) == ["s2/s2_1"]


def test_a_name_that_is_not_utf8(tmp_path):
    write_band_folder(tmp_path / "scene")
    (tmp_path / "scene" / os.fsdecode(b"B\xe9.tif")).touch()
    scenes, faults = find("s2", tmp_path)
    assert (list(scenes), faults) == (["s2/scene"], {r"s2/scene/B\udce9.tif": "its name is not UTF-8; rename it"})


def test_a_folder_whose_name_looks_like_a_pattern(tmp_path):
    write_band_folder(tmp_path / "[2020] *")
    assert list(find("s2", tmp_path / "[2020] *")[0]) == ["s2/[2020] *"]
    assert list(find("s2", tmp_path / "[2020] *" / "B02.tif")[0]) == ["s2/[2020] *"]


def test_hidden_files_are_ignored(tmp_path):
    write_band_folder(tmp_path / "scene")
    write_band_folder(tmp_path / ".trash")
    (tmp_path / "scene/._B02.tif").write_text("of a Macintosh")
    assert (list(find("s2", tmp_path)[0]), find("s2", tmp_path)[1]) == (["s2/scene"], {})


def test_links_are_followed_once(tmp_path):
    write_band_folder(tmp_path / "elsewhere/scene")
    (tmp_path / "here").mkdir()
    (tmp_path / "here/link").symlink_to(tmp_path / "elsewhere")
    (tmp_path / "elsewhere/circle").symlink_to(tmp_path / "here")
    assert list(find("s2", tmp_path / "here")[0]) == ["s2/link/scene"]


def test_the_parts_of_a_vrt_are_not_scenes(tmp_path):
    parts = [write_file(tmp_path / "parts" / f"{band}.tif", noise()) for band in ("B02", "B03")]
    write_vrt(tmp_path / "scene.vrt", parts)
    scenes, faults = find("s2", tmp_path)
    assert ({name: bands(scene) for name, scene in scenes.items()}, faults) == ({"s2/scene.vrt": [("B02", "B03")]}, {})


def test_duplicate_bands(tmp_path):
    write_band_folder(tmp_path / "scene")
    write_file(tmp_path / "scene/B2.tif", noise())
    scenes, faults = find("s2", tmp_path)
    assert list(scenes) == ["s2/scene"]
    assert faults == {"s2/scene/B2.tif": "band B02 of s2/scene is already in B02.tif; remove one of the files"}


@pytest.mark.parametrize(
    ("pixels", "options", "message"),
    [
        (
            noise(1, 48, 59),
            {},
            "B03.tif: its size is (48, 59), expected (48, 60) as in B02.tif. Nothing is resampled or ",
        ),
        (
            noise(),
            {"left": 500_010.0},
            "B03.tif: its upper left corner is (1.0, 0.0), expected (0, 0) as in B02.tif.",
        ),
        (noise(), {"crs": "EPSG:32634"}, "B03.tif: its CRS is EPSG:32634, expected EPSG:32633 as in B02.tif."),
        (noise(dtype="uint8"), {}, "B03.tif: its dtype is uint8, expected uint16 as in B02.tif."),
        (noise(), {"nodata": 0}, "B03.tif: its nodata is 0.0, expected None as in B02.tif."),
        (noise(1, 32, 40), {"gsd": 15.0}, "B03.tif: pixels of 15 x 15, expected a multiple of 10 x 10 (B02.tif). Warp"),
    ],
    ids=["size", "corner", "crs", "dtype", "nodata", "pixels"],
)
def test_inconsistent_files_of_a_scene(tmp_path, pixels, options, message):
    write_file(tmp_path / "scene/B02.tif", noise())
    write_file(tmp_path / "scene/B03.tif", pixels, **options)
    assert message in fault("s2", tmp_path)


def test_complex_pixels_are_refused(tmp_path):
    write_file(tmp_path / "VV.tif", np.ones((1, 8, 8), np.complex64))
    assert fault("s1", tmp_path) == "VV.tif: complex64 pixels, expected integers or floats. Convert them first."


def test_nodata_is_the_tag_else_the_option(tmp_path):
    write_file(tmp_path / "a/B02.tif", noise(), nodata=7)
    write_file(tmp_path / "b/B02.tif", noise())
    write_file(tmp_path / "c/B02.tif", noise(1, dtype="float32"), nodata=np.nan)
    numbers = {
        option: [scene.layers[0].nodata for scene in find("s2", tmp_path, nodata=option)[0].values()]
        for option in (None, 0, -9999)
    }
    assert numbers == {None: [7, None, None], 0: [7, 0, None], -9999: [7, None, None]}


def test_cloud_masks_belong_to_their_scenes(tmp_path):
    for name in ("a", "ab"):
        write_file(tmp_path / f"many/{name}.tif", noise(2), names=("B02", "B03"))
        write_file(tmp_path / f"many/{name}_cloud_mask.tif", noise(dtype="uint8"))
    write_file(tmp_path / "many/c.tif", noise(2), names=("B02", "B03"))
    write_band_folder(tmp_path / "alone")
    write_file(tmp_path / "alone/cloud_mask.tif", noise(dtype="uint8"))
    scenes, faults = find("s2", tmp_path, cloud_mask="*cloud_mask*")
    assert faults == {}
    assert {name: scene.mask and scene.mask[0].name for name, scene in scenes.items()} == {
        "s2/alone": "cloud_mask.tif", "s2/many/a.tif": "a_cloud_mask.tif", "s2/many/ab.tif": "ab_cloud_mask.tif",
        "s2/many/c.tif": None,
    }  # fmt: skip
    write_file(tmp_path / "alone/cloud_mask2.tif", noise(dtype="uint8"))
    reason = find("s2", tmp_path, cloud_mask="*cloud_mask*")[1]["s2/alone"]
    assert reason == "has the cloud masks ['cloud_mask.tif', 'cloud_mask2.tif'], expected one. Narrow cloud_mask."


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("s2/0U/S2A_MSIL2A_20220706T085611_N0400_R007_T33NZA_20220706T153419", datetime(2022, 7, 6, 8, 56, 11)),
        ("s2/S2B_MSIL2A_20170924T93020_69_24", datetime(2017, 9, 24, 9, 30, 20)),
        ("s1/2020-06-07/scene", datetime(2020, 6, 7)),
        ("s2/20209901/x_20200101_y.tif", datetime(2020, 1, 1)),
        ("s2/Spain_7370579_S2Hand.tif", None),
        ("s2/20201332/12345678", None),
    ],
)
def test_dates_are_read_from_names(name, expected):
    assert acquired(name) == expected


def test_seasons_depend_on_the_hemisphere(tmp_path):
    write_s1(tmp_path / "north_20200105.tif")
    write_s1(tmp_path / "south_20200105.tif", crs="EPSG:32733", top=7_000_000.0)
    write_s1(tmp_path / "whenever.tif")
    assert [scene.season for scene in find("s1", tmp_path)[0].values()] == ["winter", "summer", None]
