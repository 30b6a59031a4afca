"""Partners by footprint, then by date; windows and scenes without a partner are faults."""

import pytest
from fakes.geotiff import write_band_folder, write_s1

from rspretrain.archives.geotiff import GeoTiff
from rspretrain.archives.windows import close_files


@pytest.fixture(autouse=True)
def _closed():
    yield
    close_files()


def pairs(root, **options):
    archive = GeoTiff(root / "s2", root / "s1", window=24, **options)
    entries, faults = archive.entries()
    partners = {entry.name: entry.source.partners[0].name for entry in entries}
    return partners, {fault.name: fault.reason for fault in faults}


def test_the_partner_is_the_nearest_in_time(tmp_path):
    write_band_folder(tmp_path / "s2/S2A_20200610", width=48)
    for day in ("0601", "0612", "0620"):
        write_s1(tmp_path / f"s1/S1A_2020{day}.tif", width=24 if day == "0612" else 48)
    partners, faults = pairs(tmp_path)
    assert faults == {}
    assert partners == {
        "s2/S2A_20200610[0,0]": "s1/S1A_20200612.tif",
        "s2/S2A_20200610[0,24]": "s1/S1A_20200601.tif",  # 9 days, not 10
        "s2/S2A_20200610[24,0]": "s1/S1A_20200612.tif",
        "s2/S2A_20200610[24,24]": "s1/S1A_20200601.tif",
    }


def test_without_dates_the_partner_is_the_first_by_name(tmp_path):
    write_band_folder(tmp_path / "s2/scene", width=48)
    for name in ("b", "a"):
        write_s1(tmp_path / f"s1/{name}.tif")
    assert set(pairs(tmp_path)[0].values()) == {"s1/a.tif"}


def test_windows_without_a_partner(tmp_path):
    write_band_folder(tmp_path / "s2/scene", height=24, width=48)
    write_s1(tmp_path / "s1/a.tif", width=40)
    partners, faults = pairs(tmp_path)
    assert partners == {"s2/scene[0,0]": "s1/a.tif"}
    assert faults == {
        "s2/scene[0,24]": "the nearest s1 pixels (s1/a.tif) are up to 8.00 pixels off, expected at most 0.01. Add a "
        "scene that covers it, or accept it with --option max_offset=8 (nothing is resampled)."
    }


def test_one_fault_for_a_scene_without_any_partner(tmp_path):
    write_band_folder(tmp_path / "s2/far", left=600_000.0)
    write_band_folder(tmp_path / "s2/near")
    write_band_folder(tmp_path / "s2/shifted", left=500_004.0)
    write_s1(tmp_path / "s1/a.tif", width=70)
    write_s1(tmp_path / "s1/lonely.tif", left=700_000.0)
    write_s1(tmp_path / "s1/small.tif", width=20, top=5_000_010.0)
    partners, faults = pairs(tmp_path)
    assert len(partners) == 6
    assert faults == {
        "s2/far": "no s1 scene overlaps it. Add one, or drop the source.",
        "s2/shifted": "none of its 6 windows has a partner; the nearest s1 pixels (s1/a.tif) are up to 0.40 pixels "
        "off, expected at most 0.01. Add a scene that covers it, or accept it with --option max_offset=0.4 (nothing "
        "is resampled).",
        "s1/lonely.tif": "overlaps no scene of s2. Remove it, or add its partner.",
    }
    assert len(pairs(tmp_path, max_offset=0.4)[0]) == 12


def test_scenes_smaller_than_the_window(tmp_path):
    write_band_folder(tmp_path / "s2/scene")
    write_s1(tmp_path / "s1/small.tif", width=20)
    reason = "none of its 6 windows has a partner; no s1 scene is as large as the window. Lower --option window=24."
    assert pairs(tmp_path) == ({}, {"s2/scene": reason})


def test_another_crs_is_named(tmp_path):
    write_band_folder(tmp_path / "s2/scene")
    write_s1(tmp_path / "s1/a.tif", crs="EPSG:32634")
    write_s1(tmp_path / "s1/b.tif", crs="EPSG:4326", left=15.0, top=45.0, gsd=0.00009)
    _, faults = pairs(tmp_path)
    assert faults["s2/scene"] == (
        "no s1 scene has its CRS EPSG:32633, theirs are ['EPSG:32634', 'EPSG:4326']. Nothing is resampled: warp one of "
        "them with gdalwarp first."
    )


def test_no_crs_no_partner(tmp_path):
    write_band_folder(tmp_path / "s2/scene", {"B02": 1}, crs=None)
    write_s1(tmp_path / "s1/a.tif")
    reason = "has no CRS, so it cannot be paired with s1 scenes. Add a CRS, or drop the source."
    assert pairs(tmp_path)[1]["s2/scene"] == reason


def test_only_overlapping_scenes_are_compared(tmp_path):
    for number in range(4):
        write_band_folder(tmp_path / f"s2/{number}", width=24, height=24, left=500_000.0 + 1000 * number)
        write_s1(tmp_path / f"s1/{number}.tif", width=24, height=24, left=500_000.0 + 1000 * number)
    partners, faults = pairs(tmp_path)
    assert faults == {}
    assert partners == {f"s2/{number}[0,0]": f"s1/{number}.tif" for number in range(4)}
