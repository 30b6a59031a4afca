"""GeoTiff: the archive law for tiles, exact cover, filters."""

import re
import shutil

import numpy as np
import pytest
import rasterio
from fakes.geotiff import noise, write_band_folder, write_file, write_s1, write_vrt
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from archives.tiles import check_tiles
from rspretrain.archives import open_archive
from rspretrain.archives.geotiff import GeoTiff
from rspretrain.archives.windows import close_files
from rspretrain.patch import PatchError, PatchExcluded
from rspretrain.shardset.building.build import build_shards


@pytest.fixture(autouse=True)
def _closed():
    yield
    close_files()


def test_law_of_band_folders(tmp_path):
    for number in range(3):
        write_band_folder(tmp_path / f"S2A_MSIL2A_2022070{number + 1}T085611", height=48, width=60, seed=10 * number)
    archive = GeoTiff(tmp_path, window=24)
    assert [(group.name, group.bands, group.shape, group.gsd_m) for group in archive.groups] == [
        ("s2_10m", ("B02", "B04"), (24, 24), 10.0),
        ("s2_20m", ("B8A",), (12, 12), 20.0),
        ("s2_60m", ("B01",), (4, 4), 60.0),
    ]
    patches = check_tiles(archive, {})
    assert len(patches) == 3 * 2 * 3
    first = patches[0]
    assert (first.key, first.crs) == ("s2a_msil2a_20220701t085611_0_0", "EPSG:32633")
    assert first.bounds == (500_000.0, 4_999_760.0, 500_240.0, 5_000_000.0)
    assert first.attributes == {
        "scene": "s2/S2A_MSIL2A_20220701T085611", "row": 0, "col": 0, "s2_date": "2022-07-01T08:56:11",
        "season": "summer", "cloud": None, "nodata": 0.0,
    }  # fmt: skip


def test_law_of_pairs(tmp_path):
    write_band_folder(tmp_path / "s2/scene")
    write_s1(tmp_path / "s1/deep/S1A_20220701.TIF", height=100, width=100, left=499_900.0, top=5_000_300.0)
    archive = GeoTiff(tmp_path / "s2", tmp_path / "s1", window=24)
    assert [group.name for group in archive.groups] == ["s1_10m", "s2_10m", "s2_20m", "s2_60m"]
    (patch, *_), count = check_tiles(archive, {}), len(archive.entries()[0])
    assert (count, patch.attributes["s1_scene"]) == (6, "s1/deep/S1A_20220701.TIF")
    assert patch.attributes["s1_date"] == "2022-07-01T00:00:00"
    assert archive.groups[0].units == "db"


@pytest.mark.parametrize("driver", ["GTiff", "COG"])
def test_law_of_one_file_with_many_bands(tmp_path, driver):
    names = ("B12", "B2", "B8a")
    write_file(tmp_path / "a/scene.tif", noise(3, 300, 280), names=names, driver=driver, compress="deflate")
    write_file(tmp_path / "b/scene.tif", noise(3, 130, 128, seed=1), names=names, driver=driver)
    archive = GeoTiff(tmp_path, window=128)
    assert archive.groups[0].bands == ("B02", "B8A", "B12")
    assert len(check_tiles(archive, {})) == 9 + 2
    assert np.array_equal(
        archive.read(archive.entries()[0][0]).images["s2_10m"], noise(3, 300, 280)[[1, 2, 0], :128, :128]
    )


def test_law_of_a_vrt(tmp_path):
    folder = write_band_folder(tmp_path / "scene", {"B02": 1, "B03": 1})
    write_vrt(folder / "stack.vrt", [folder / "B02.tif", folder / "B03.tif"])
    archive = GeoTiff(tmp_path, window=24)
    assert [entry.name for entry in archive.entries()[0]][:2] == ["s2/scene/stack.vrt[0,0]", "s2/scene/stack.vrt[0,24]"]
    assert len(check_tiles(archive, {})) == 6


@pytest.mark.filterwarnings("ignore::rasterio.errors.NotGeoreferencedWarning")  # from the reading in the test
def test_law_of_scenes_without_georeference(tmp_path):
    write_file(tmp_path / "x.tif", noise(3, 40, 40, "uint8"), crs=None)
    archive = GeoTiff(rgb=tmp_path, window=20)
    (group,) = archive.groups
    assert (group.name, group.bands, group.units, group.gsd_m) == ("rgb", ("R", "G", "B"), "grey", None)
    assert {patch.bounds for patch in check_tiles(archive, {})} == {None}


@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.integers(4, 12), st.integers(4, 12), st.integers(1, 4), st.floats(0, 0.8), st.sampled_from(["shift", "drop"]))
def test_tiles_cover_the_scene(tmp_path, height, width, window, overlap, edge):
    shutil.rmtree(tmp_path / "scene", ignore_errors=True)
    close_files()
    write_band_folder(tmp_path / "scene", height=6 * height, width=6 * width)
    archive = GeoTiff(tmp_path, window=6 * window, overlap=overlap, edge=edge)
    for group, times in zip(archive.groups, (1, 2, 6), strict=True):
        whole = np.zeros((len(group.bands), 6 * height // times, 6 * width // times), np.uint16)
        seen = np.zeros(whole.shape[1:], int)
        for entry in archive.entries()[0]:
            row, col = entry.source.row // times, entry.source.col // times
            window = np.s_[..., row : row + group.shape[0], col : col + group.shape[1]]
            whole[window] = archive.read(entry).images[group.name]
            seen[window] += 1
        expected = np.concatenate([rasterio.open(tmp_path / f"scene/{band}.tif").read() for band in group.bands])
        assert np.array_equal(whole, np.where(seen > 0, expected, 0))
        assert edge == "drop" or seen.min() > 0
        assert edge == "shift" or overlap > 0 or seen.max() <= 1


def test_tiles_with_too_little_data_are_excluded(tmp_path):
    pixels = noise(2, 40, 40)
    pixels[1, :5, :20] = 0  # a quarter of the first window of 20, in one of two bands
    write_file(tmp_path / "scene.tif", pixels, names=("B02", "B03"), nodata=0)
    reason = "has 0.2500 of the pixels of s2_10m without data, more than max_nodata=0"
    check_tiles(GeoTiff(tmp_path, window=20), {"s2/scene.tif[0,0]": reason})
    with pytest.raises(PatchExcluded, match=r"more than max_nodata=0\.2$"):
        GeoTiff(tmp_path, window=20, max_nodata=0.2).read(GeoTiff(tmp_path, window=20).entries()[0][0])
    patches = check_tiles(GeoTiff(tmp_path, window=20, max_nodata=0.25), {})
    assert [patch.attributes["nodata"] for patch in patches] == [0.25, 0, 0, 0]
    assert GeoTiff(tmp_path, window=20).groups[0].nodata == 0.0


def test_nodata_of_files_without_a_tag(tmp_path):
    pixels = noise(1, 20, 20)
    pixels[0, 0, 0] = 0
    write_file(tmp_path / "B02.tif", pixels)
    assert len(check_tiles(GeoTiff(tmp_path, window=20), {})) == 1
    archive = GeoTiff(tmp_path, window=20, nodata=0)
    check_tiles(archive, {f"s2/{tmp_path.name}[0,0]": "has 0.0025 of the pixels of s2_10m without data"})
    assert archive.groups[0].nodata == 0.0


def test_nan_is_left_out_or_filled_but_never_stored(tmp_path):
    pixels = noise(2, 20, 40, "float32")
    pixels[1, 0, :2], pixels[0, 0, 39] = np.nan, -np.inf
    write_file(tmp_path / "scene.tif", pixels, names=("VV", "VH"), nodata=np.nan)
    excluded = "has 0.0050 of the pixels of s1_10m without data, more than max_nodata=0"
    names = {"s1/scene.tif[0,0]": excluded, "s1/scene.tif[0,20]": excluded.replace("50", "25")}
    check_tiles(GeoTiff(s1=tmp_path, window=20), names)
    broken = (
        "group s1_10m has NaN or infinite pixels (below max_nodata=0.1), which cannot be stored. Give --option fill="
    )
    archive = GeoTiff(s1=tmp_path, window=20, max_nodata=0.1)
    check_tiles(archive, dict.fromkeys(names, broken))
    with pytest.raises(PatchError) as caught:
        archive.read(archive.entries()[0][0])
    assert not isinstance(caught.value, PatchExcluded)
    filling = GeoTiff(s1=tmp_path, window=20, max_nodata=0.1, fill=-50)
    assert filling.groups[0].nodata == -50
    image = filling.read(filling.entries()[0][0]).images["s1_10m"]
    assert np.array_equal(image[0], pixels[0, :, :20])  # valid pixels stay, even if the other band has none
    assert (image[1, 0, :2] == -50).all()
    assert np.array_equal(image[1, 1:], pixels[1, 1:, :20])


def test_a_mask_of_the_files_own_is_missing_data(tmp_path):
    path = write_file(tmp_path / "scene.tif", noise(3, 20, 40, "uint8"))
    with rasterio.Env(GDAL_TIFF_INTERNAL_MASK=True), rasterio.open(path, "r+") as target:
        target.write_mask(np.arange(40)[None].repeat(20, 0) < 30)
    check_tiles(
        GeoTiff(rgb=tmp_path, window=20), {"rgb/scene.tif[0,20]": "has 0.5000 of the pixels of rgb_10m without"}
    )


def test_an_alpha_band_is_a_mask(tmp_path):
    pixels = noise(4, 20, 40, "uint8")
    pixels[3] = np.where(np.arange(40) < 30, 255, 0)
    write_file(tmp_path / "scene.tif", pixels, photometric="RGB", alpha="YES")
    with pytest.raises(
        ValueError, match=r"has 4 band\(s\) \(R, G, B, \?\), expected names of rgb.*rgb_bands=R,G,B,…, in"
    ):
        GeoTiff(rgb=tmp_path, window=20)
    archive = GeoTiff(rgb=tmp_path, window=20, rgb_bands=("R", "G", "B", "-"))
    check_tiles(archive, {"rgb/scene.tif[0,20]": "has 0.5000 of the pixels of rgb_10m without"})


def test_clouds(tmp_path):
    write_band_folder(tmp_path / "scene")
    mask = np.zeros((1, 48, 60), np.uint8)
    mask[0, :12, :24], mask[0, 12:24, :24] = 1, 3  # half of the first window each
    write_file(tmp_path / "scene/cloud_mask.tif", mask)
    assert [patch.attributes["cloud"] for patch in check_tiles(GeoTiff(tmp_path, window=24), {})] == [1, 0, 0, 0, 0, 0]
    over = "has 1.0000 of its pixels under clouds, more than max_cloud=0.6"
    check_tiles(GeoTiff(tmp_path, window=24, max_cloud=0.6), {"s2/scene[0,0]": over})
    archive = GeoTiff(tmp_path, window=24, max_cloud=0.6, cloud_values=(1, 2))
    assert check_tiles(archive, {})[0].attributes["cloud"] == 0.5
    with pytest.raises(PatchExcluded):
        GeoTiff(tmp_path, window=24, max_cloud=0.6).read(archive.entries()[0][0])


def test_a_coarse_cloud_mask(tmp_path):
    write_band_folder(tmp_path / "scene")
    mask = np.zeros((1, 8, 10), np.uint8)
    mask[0, 0, 0] = 1
    write_file(tmp_path / "scene/cloud_mask.tif", mask, 60.0)
    assert check_tiles(GeoTiff(tmp_path, window=24), {})[0].attributes["cloud"] == 1 / 16


def test_missing_and_misplaced_cloud_masks(tmp_path):
    write_band_folder(tmp_path / "a")
    missing = "has no cloud mask for max_cloud. Add it, or correct --option cloud_mask."
    check_tiles(GeoTiff(tmp_path, window=24, max_cloud=0.5), {"s2/a": missing})
    write_file(tmp_path / "a/cloud_mask.tif", noise(1, 48, 60, "uint8"), left=600_000.0)
    archive = GeoTiff(tmp_path, window=48, edge="drop")
    check_tiles(
        archive, {"s2/a[0,0]": "cloud_mask.tif: the cloud mask does not cover the window. Repair or remove it."}
    )
    write_file(tmp_path / "a/cloud_mask.tif", noise(1, 48, 60, "uint8"), 15.0)
    with pytest.raises(
        PatchError, match=r"the cloud mask has pixels of 15 x 15, expected a multiple of 10 x 10\. Warp"
    ):
        archive.read(GeoTiff(tmp_path, window=48).entries()[0][0])


def test_small_and_broken_scenes_are_named(tmp_path):
    write_band_folder(tmp_path / "a")
    write_band_folder(tmp_path / "b", height=12, width=60)
    write_band_folder(tmp_path / "c")
    path = tmp_path / "c/B04.tif"
    path.write_bytes(path.read_bytes()[:3000])
    broken = {f"s2/c[{row},{col}]": "B04.tif: cannot be read (" for row in (0, 24) for col in (0, 24, 36)}
    small = {"s2/b": "is 12 x 60 pixels, smaller than window=24. Lower --option window."}
    check_tiles(GeoTiff(tmp_path, window=24), small | broken)


def test_the_bytes_do_not_depend_on_the_path_of_the_scenes(tmp_path):
    """Nodes that build parts may mount the archive at different paths."""
    for node in ("a", "mnt/b [2] c"):
        write_band_folder(tmp_path / node / "s2/S2A_20220701", height=48, width=60)
        write_file(tmp_path / node / "s2/S2A_20220701/cloud_mask.tif", noise(1, 48, 60, "uint8"))
        write_s1(tmp_path / node / "s1/S1A_20220701.tif")
        archive = GeoTiff(tmp_path / node / "s2", tmp_path / node / "s1", window=24)
        build_shards(archive, tmp_path / f"{node[0]}.shards", samples_per_shard=2)
    one, other = ({path.name: path.read_bytes() for path in (tmp_path / f"{node}.shards").iterdir()} for node in "am")
    assert len(one) == 6
    assert one == other


def test_a_changed_scene_changes_the_checksum_of_the_entries(tmp_path):
    write_band_folder(tmp_path / "a", height=48, width=60)
    first = GeoTiff(tmp_path, window=24).entries()[0]
    assert repr(first) == repr(GeoTiff(tmp_path, window=24).entries()[0])
    (tmp_path / "a/B02.tif").rename(tmp_path / "a/B2.tif")
    assert repr(first) != repr(GeoTiff(tmp_path, window=24).entries()[0])


def test_two_scenes_of_one_key_and_long_names(tmp_path):
    for name in ("A b", "a-b", "c", "x" * 90 + "/y"):
        write_file(tmp_path / name / "B02.tif", noise(1, 20, 20))
    keys = [entry.key for entry in GeoTiff(tmp_path, window=20).entries()[0]]
    assert [re.sub(r"[0-9a-f]{10}", "#", key) for key in keys] == [
        "a-b-#_0_0",
        "a-b-#_0_0",
        "c_0_0",
        "x" * 47 + "-y-#_0_0",
    ]
    check_tiles(GeoTiff(tmp_path, window=20), {})


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["window=256"], r"geotiff got window=256, expected a multiple of 6: the coarsest pixel is 6 times as "
         r"wide as the finest\. Set --option window=252 or 258\."),
        (["window=4"], r"Set --option window=6\."),
        (["overlap=1"], r"geotiff got overlap=1, expected 0 to 0\.99\. Correct --option overlap\."),
        (["max_cloud=2"], r"geotiff got max_cloud=2, expected 0 to 1\. Correct"),
        (["edge=cut"], r"geotiff got the option edge='cut', expected shift or drop \(default shift\)"),
        (["s2_bands=B2,B99"], r"geotiff got s2_bands=B2,B99, expected each of B01,.*B12 at most once \(- for an "
         r"unused band\)\. Correct 'B99'\."),
        (["s2_bands=B02,b2"], r"expected each of B01,.* at most once .*\. Correct 'B02'\."),
        (["cloud_values=1,x"], r"geotiff got the option cloud_values='1,x', expected a whole number \(several "
         r"separated by commas"),
    ],
)  # fmt: skip
def test_options_out_of_range(tmp_path, options, message):
    write_band_folder(tmp_path / "scene")
    with pytest.raises(ValueError, match=message):
        open_archive("geotiff", [f"s2={tmp_path}"], options)


def test_options_from_the_command_line(tmp_path):
    write_band_folder(tmp_path / "scene")
    options = ["window=24", "overlap=0.5", "s2_bands=b2,B04", "cloud_values=1,2", "nodata=0", "max_offset=0.5"]
    archive = open_archive("geotiff", [f"s2={tmp_path}"], options)
    assert (archive.groups[0].bands, archive.groups[0].nodata, len(archive.groups)) == (("B02", "B04"), 0.0, 1)
    assert (len(archive.entries()[0]), archive.options["overlap"]) == (3 * 4, "0.5")


def test_missing_sources(tmp_path):
    with pytest.raises(ValueError, match=r"geotiff got no source, expected s2, s1, rgb or other\. Add --source s2="):
        GeoTiff()
    with pytest.raises(
        ValueError, match=r"none is not a folder, expected one with GeoTIFF, COG, VRT or JP2\. Give its"
    ):
        GeoTiff(tmp_path / "none")
    with pytest.raises(ValueError, match=r"holds no scene of s2, expected GeoTIFF, COG, VRT or JP2\.$"):
        GeoTiff(tmp_path)
    (tmp_path / "a.tif").write_text("nothing")
    with pytest.raises(ValueError, match=r"expected GeoTIFF, COG, VRT or JP2; s2/a\.tif: .*a\.tif: cannot be read"):
        GeoTiff(tmp_path)
