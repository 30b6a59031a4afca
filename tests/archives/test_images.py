"""Whole images of any size equal rasterio's; bands are identified by name; damaged files are named."""

from pathlib import Path

import numpy as np
import pytest
import rasterio
from fakes.geotiff import noise, write_band_folder, write_file, write_s1
from PIL import Image

from rspretrain.archives import images
from rspretrain.archives.geotiff import GeoTiff
from rspretrain.archives.images import Images, open_images

S2 = ("B02", "B03", "B04", "B08")


def write_picture(path: Path, height: int, width: int, mode: str = "RGB") -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    shape = (height, width, 3) if mode == "RGB" else (height, width)
    pixels = np.random.default_rng(height).integers(0, 256, shape, dtype=np.uint8)
    Image.fromarray(pixels).save(path)


def test_images_of_any_kind_and_size(tmp_path: Path) -> None:
    write_picture(tmp_path / "b/Second One.png", 9, 12)
    write_picture(tmp_path / "a.jpg", 20, 10)
    write_picture(tmp_path / "grey.png", 7, 7, "L")
    write_picture(tmp_path / ".hidden.png", 7, 7)
    write_file(tmp_path / "c.tif", noise(3, 6, 8, "uint8"))
    (tmp_path / "notes.txt").write_text("no picture")
    (tmp_path / "broken.png").write_bytes(b"\x89PNG")
    archive = Images("rgb", tmp_path)
    entries, faults = archive.entries()
    assert ([entry.key for entry in entries], faults) == (["a", "b-second-one", "broken", "c", "grey"], [])
    patches = {entry.key: archive.read(entry) for entry in entries if entry.key != "broken"}
    assert {key: patch.images["rgb"].shape for key, patch in patches.items()} == {
        "a": (3, 20, 10), "b-second-one": (3, 9, 12), "c": (3, 6, 8), "grey": (3, 7, 7),
    }  # fmt: skip
    with Image.open(tmp_path / "b/Second One.png") as picture:
        assert np.array_equal(patches["b-second-one"].images["rgb"], np.moveaxis(np.asarray(picture), -1, 0))
    assert (patches["a"].crs, patches["a"].bounds) == (None, None)
    assert patches["c"].crs == "EPSG:32633"
    assert patches["c"].bounds == (500_000.0, 4_999_940.0, 500_080.0, 5_000_000.0)
    with pytest.raises(ValueError, match=r"broken.png: cannot be read .*\. Unpack or download the file again"):
        archive.read(entries[2])


def test_a_single_image_as_source(tmp_path: Path) -> None:
    write_picture(tmp_path / "a.png", 5, 5)
    write_picture(tmp_path / "b.png", 5, 5)
    assert [entry.key for entry in Images("rgb", tmp_path / "b.png").entries()[0]] == ["b"]


def test_scenes_by_the_names_of_their_bands(tmp_path: Path) -> None:
    """In another band order, and in several sizes."""
    for number, side in enumerate((12, 18)):
        write_file(tmp_path / f"{number}.tif", noise(4, side, side, seed=number), names=("B08", "B02", "B04", "B03"))
    archive = Images("s2", tmp_path)
    ((group,), (entries, faults)) = archive.groups, archive.entries()
    assert (group.name, group.bands, group.shape, group.units) == ("s2_10m", S2, None, "dn")
    for entry, side in zip(entries, (12, 18), strict=True):
        patch = archive.read(entry)
        with rasterio.open(tmp_path / f"{entry.key}.tif") as source:
            assert np.array_equal(patch.images["s2_10m"], source.read([2, 4, 3, 1]))
            assert patch.bounds == tuple(source.bounds)
        assert patch.images["s2_10m"].shape == (4, side, side)
    assert not faults


def test_scenes_with_one_file_per_band_keep_their_grids(tmp_path: Path) -> None:
    write_band_folder(tmp_path / "scene", height=24, width=36)
    archive = Images("s2", tmp_path)
    (patch,) = (archive.read(entry) for entry in archive.entries()[0])
    assert {group.name: patch.images[group.name].shape for group in archive.groups} == {
        "s2_10m": (2, 24, 36), "s2_20m": (1, 12, 18), "s2_60m": (1, 4, 6),
    }  # fmt: skip


def test_bands_without_names_must_be_named(tmp_path: Path) -> None:
    write_file(tmp_path / "a.tif", noise(2, 6, 6, "float32"))
    with pytest.raises(ValueError, match=r"holds no image of s1, expected .tif, .*has 2 band\(s\) .*Name them: --o"):
        open_images([str(tmp_path)], ["s1"])
    (group,) = open_images([str(tmp_path)], ["s1"], options=["s1_bands=VH,VV"]).groups
    assert (group.bands, group.units) == (("VV", "VH"), "db")


def test_nan_pixels_are_a_fault(tmp_path: Path) -> None:
    pixels = noise(2, 6, 6, "float32")
    pixels[1, 2, 3] = np.nan
    write_file(tmp_path / "a.tif", pixels, names=("VV", "VH"))
    archive = Images("s1", tmp_path)
    with pytest.raises(ValueError, match=r"a.tif: has 1 pixels that are not finite, expected finite .*\. Fill them"):
        archive.read(archive.entries()[0][0])


def test_too_large_images_need_windows(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(images, "_MAX_BYTES", 200)
    write_s1(tmp_path / "a.tif", height=6, width=6)
    archive = Images("s1", tmp_path)
    with pytest.raises(ValueError, match=r"a.tif: is 2 x 6 x 6 pixels, expected 0 GiB at most. Cut the image in w"):
        archive.read(archive.entries()[0][0])


def test_windows_equal_those_of_geotiff(tmp_path: Path) -> None:
    write_band_folder(tmp_path / "s2/scene")
    write_s1(tmp_path / "s1/S1A_20220701.tif", height=100, width=100, left=499_900.0, top=5_000_300.0)
    sources = [f"s2={tmp_path}/s2", f"s1={tmp_path}/s1"]
    archive = open_images(sources, ["s1", "s2"], 24, ["overlap=0.5"])
    assert isinstance(archive, GeoTiff)
    assert (archive.window, archive.overlap, list(archive.sources)) == (24, 0.5, ["s1", "s2"])
    with pytest.raises(ValueError, match=r"--images got \['s2=.*, expected one folder: whole images are .*\. Give -"):
        open_images(sources, ["s1", "s2"])


def test_invalid_input_is_an_error_in_three_parts(tmp_path: Path) -> None:
    with pytest.raises(
        ValueError, match=r"got 'x', but the classifier takes the sensors \['s1', 's2'\]; expected SENSOR=FOLDER. Name"
    ):
        open_images(["x"], ["s1", "s2"])
    with pytest.raises(ValueError, match=r"--images got /not/there, which does not exist, expected a folder .*\. Corr"):
        open_images(["/not/there"], ["rgb"])
    with pytest.raises(ValueError, match=r"got 'overlap=1' for whole images, expected only rgb_bands=<names>. Omit"):
        open_images([str(tmp_path)], ["rgb"], options=["overlap=1"])
    with pytest.raises(ValueError, match=r"holds no image of rgb, expected .jpg, .jpeg"):
        open_images([str(tmp_path)], ["rgb"])
