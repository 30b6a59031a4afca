"""The common structure of scenes, and faults of scenes that differ."""

import pytest
from fakes.geotiff import noise, write_band_folder, write_file, write_s1

from rspretrain.archives.geotiff import GeoTiff
from rspretrain.archives.scene_files import Source, find_scenes
from rspretrain.archives.scene_groups import consistent_scenes, groups_of, ratios_to, scene_ids


def scenes_of(sensor, path, **options):
    return find_scenes(Source(sensor, path, **options))[0]


def uneven(path, max_offset=0.01):
    scenes, faults = consistent_scenes(scenes_of("s2", path), max_offset)
    return [scene.name for scene in scenes], {fault.name: fault.reason for fault in faults}


def test_the_most_common_structure_wins(tmp_path):
    write_band_folder(tmp_path / "a", {"B02": 1})
    write_band_folder(tmp_path / "b", {"B02": 1, "B03": 1})
    write_band_folder(tmp_path / "c", {"B02": 1, "B03": 1})
    write_band_folder(tmp_path / "d", {"B02": 1, "B03": 1, "B04": 1})
    write_band_folder(tmp_path / "e", {"B02": 1, "B04": 1})
    names, faults = uneven(tmp_path)
    assert names == ["s2/b", "s2/c"]
    remedy = "unlike most (s2/b). Complete it, or select bands that all scenes have: --option s2_bands=…"
    assert faults == {
        "s2/a": f"lacks the bands ['B03'], {remedy}",
        "s2/d": f"has the bands ['B04'], {remedy}",
        "s2/e": f"lacks the bands ['B03'] and has the bands ['B04'], {remedy}",
    }


def test_structure_includes_dtype_nodata_and_metres(tmp_path):
    for name in ("a", "b"):
        write_file(tmp_path / name / "B02.tif", noise())
    write_file(tmp_path / "c/B02.tif", noise(dtype="int16"))
    write_file(tmp_path / "d/B02.tif", noise(), nodata=0)
    write_file(tmp_path / "e/B02.tif", noise(), 20.0)
    names, faults = uneven(tmp_path)
    assert (names, list(faults)) == (["s2/a", "s2/b"], ["s2/c", "s2/d", "s2/e"])
    assert faults["s2/d"] == (
        "differs from most scenes: B02: uint16, 10.0 m, nodata 0.0; expected B02: uint16, 10.0 m, nodata None "
        "(s2/a). Convert it, or exclude it."
    )


@pytest.mark.parametrize(
    ("pixels", "options", "off"),
    [(noise(1, 8, 11), {}, "1.00"), (noise(1, 8, 10), {"left": 499_975.0}, "0.42"), (noise(1, 7, 10), {}, "1.00")],
    ids=["too wide", "shifted", "too low"],
)
def test_coarse_grids_that_do_not_cover_exactly(tmp_path, pixels, options, off):
    write_band_folder(tmp_path / "a", {"B02": 1, "B8A": 2})
    write_file(tmp_path / "a/B01.tif", pixels, 60.0, **options)
    assert uneven(tmp_path) == (
        [],
        {
            "s2/a": f"B01.tif: the edges of its grid are up to {off} of its pixels off those of B02.tif, expected at "
            f"most 0.01. Accept it with --option max_offset={float(off):g} (nothing is resampled), or warp the file."
        },
    )
    assert uneven(tmp_path, 1.0) == (["s2/a"], {})


def test_groups_are_named_by_sensor_and_metres(tmp_path):
    write_s1(tmp_path / "s1.tif")
    write_file(tmp_path / "rgb.tif", noise(3, 8, 8, "uint8"), 0.3)
    write_file(tmp_path / "other.tif", noise(2, 8, 8), 1.5)
    found = {
        sensor: groups_of(scenes_of(sensor, tmp_path / f"{sensor}.tif")[0], (4,), -50.0)[0]
        for sensor in ("s1", "rgb", "other")
    }
    assert {group.name: (group.units, group.nodata, group.gsd_m) for group in found.values()} == {
        "s1_10m": ("db", -50.0, 10.0), "rgb_30cm": ("grey", None, 0.3), "other_150cm": ("dn", None, 1.5),
    }  # fmt: skip


def test_windows_of_partners_have_equal_size_in_metres(tmp_path):
    write_band_folder(tmp_path / "s2", {"B02": 1, "B01": 6})
    write_file(tmp_path / "other.tif", noise(1, 240, 300), 2.5)
    write_s1(tmp_path / "s1.tif", 24, 30, gsd=20.0)
    archive = GeoTiff(tmp_path / "s2", tmp_path / "s1.tif", other=tmp_path / "other.tif", window=12)
    assert [(group.name, group.shape) for group in archive.groups] == [
        ("s1_20m", (6, 6)), ("s2_10m", (12, 12)), ("s2_60m", (2, 2)), ("other_250cm", (48, 48)),
    ]  # fmt: skip


def test_pixel_sizes_without_an_integer_ratio(tmp_path):
    write_band_folder(tmp_path / "s2", {"B02": 1})
    write_s1(tmp_path / "s1.tif", gsd=15.0)
    with pytest.raises(
        ValueError, match=r"s1/s1\.tif has pixels of 15 x 15, expected a multiple of 10 x 10 of s2/s2\."
    ):
        ratios_to(scenes_of("s2", tmp_path / "s2")[0], scenes_of("s1", tmp_path / "s1.tif"))


def test_ids_are_short_and_unique(tmp_path):
    for name in ("A b", "a-b", "c"):
        write_band_folder(tmp_path / name, {"B02": 1})
    ids = scene_ids(scenes_of("s2", tmp_path))
    assert ids["s2/c"] == "c"
    assert len(set(ids.values())) == 3
    assert all(each.startswith("a-b-") and len(each) == 14 for name, each in ids.items() if name != "s2/c")
