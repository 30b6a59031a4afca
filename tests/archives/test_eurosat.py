"""EuroSAT: bands by name although B8A is last on disk, both kinds in all layouts, lists of the other kind."""

from pathlib import Path

import numpy as np
import pytest
import rasterio
from fakes.eurosat import DEEP, write_eurosat, write_ms
from fakes.scenes import write_splits
from laws import check_archive, check_record

from rspretrain.archives import open_archive
from rspretrain.archives.eurosat import BANDS_ON_DISK, CLASSES, EuroSat
from rspretrain.sensors import BAND_ORDER

REAL = Path(__file__).parents[2].parent / "shared/data/eurosat"
real = pytest.mark.skipif(not REAL.is_dir(), reason="no real EuroSAT at ../shared/data/eurosat")
# The archive law opens files itself.
rgb_law = pytest.mark.filterwarnings("ignore::rasterio.errors.NotGeoreferencedWarning")


def check_ms(tmp_path, archive, faults):
    """The archive law, against files whose bands the test reorders with rasterio."""

    def files(entry):
        path = tmp_path / "canonical.tif"
        with rasterio.open(archive.root / entry.source.path) as source:
            bands = [source.read(BANDS_ON_DISK.index(band) + 1) for band in BAND_ORDER["s2"]]
            with rasterio.open(path, "w", **source.profile) as target:
                target.write(np.stack(bands))
        return {"s2_10m": [path]}

    check_archive(archive, faults, files)


@pytest.mark.parametrize("below", ["EuroSAT_MS", DEEP, "EuroSATallBands", ""])
def test_thirteen_bands_from_every_layout(tmp_path, below):
    archive = EuroSat(write_eurosat(tmp_path / "archive", below))
    check_ms(tmp_path, archive, {})
    (group,) = archive.groups
    assert (group.bands, group.dtype, group.shape, group.gsd_m) == (BAND_ORDER["s2"], "uint16", (64, 64), 10.0)
    patch = archive.read(archive.entries()[0][0])
    check_record(archive, patch)
    assert (patch.key, patch.labels, patch.split) == ("annualcrop_1", {"class": ("AnnualCrop",)}, None)
    assert (patch.images["s2_10m"].mean((1, 2)) // 100).tolist() == [1, 2, 3, 4, 5, 6, 7, 8, 13, 9, 10, 11, 12]
    assert (patch.crs, patch.bounds) == ("EPSG:32635", (400_640.0, 3_999_360.0, 401_280.0, 4_000_000.0))


def test_any_folder_above_the_classes(tmp_path):
    root = write_eurosat(tmp_path, DEEP, per_class=1)
    for below in ("ds", "ds/images/remote_sensing", DEEP):
        assert len(EuroSat(root / below).entries()[0]) == 10


@rgb_law
@pytest.mark.parametrize("below", ["EuroSAT_RGB", "2750", ""])
def test_rgb_images_from_every_layout(tmp_path, below):
    archive = EuroSat(write_eurosat(tmp_path, below, "jpg"))
    check_archive(archive, {}, lambda entry: {"rgb": [archive.root / entry.source.path]})
    assert (archive.groups[0].sensor, archive.groups[0].shape, len(archive.entries()[0])) == ("rgb", (64, 64), 20)


def test_both_kinds_need_a_choice(tmp_path):
    write_eurosat(write_eurosat(tmp_path), "EuroSAT_RGB", "jpg")
    with pytest.raises(ValueError, match=r"holds .*EuroSAT_MS \(ms\), .*EuroSAT_RGB \(rgb\), expected one folder with"):
        EuroSat(tmp_path)
    for bands, name in (("ms", "s2_10m"), ("rgb", "rgb")):
        assert open_archive("eurosat", [str(tmp_path)], [f"bands={bands}"]).groups[0].name == name
    with pytest.raises(ValueError, match=r"holds no class folders, expected .* classes of rgb. Give that folder, or"):
        EuroSat(tmp_path / "EuroSAT_MS", bands="rgb")


def test_lists_of_jpegs_apply_to_tiffs(tmp_path):
    write_eurosat(tmp_path)
    lists = write_splits(
        tmp_path / "lists",
        "eurosat",
        train=["Forest_1.jpg", "Forest_99.jpg"],
        val=["River_2.jpg"],
        test=["SeaLake_1.jpg"],
    )
    write_splits(lists, "eurosat-spatial", train=["River_2.jpg"], test=["Forest_1.jpg"])
    plain = open_archive("eurosat", [str(tmp_path), f"splits={lists}"])
    spatial = open_archive("eurosat", [str(tmp_path), f"splits={lists}"], ["spatial=true"])
    split_of = [{e.key: e.source.split for e in archive.entries()[0] if e.source.split} for archive in (plain, spatial)]
    assert split_of[0] == {"forest_1": "train", "river_2": "val", "sealake_1": "test"}
    assert split_of[1] == {"river_2": "train", "forest_1": "test"}
    assert len(spatial.entries()[0]) == 20
    with pytest.raises(ValueError, match="got spatial=true without splits, expected both. Give --source splits=FOLDER"):
        EuroSat(tmp_path, spatial=True)


def test_faults_by_name(tmp_path):
    root = write_eurosat(tmp_path / "archive") / "EuroSAT_MS"
    write_ms(root / "Forest/Forest_1.tif", bands=12)
    cut = root / "River/River_2.tif"
    cut.write_bytes(cut.read_bytes()[:9000])
    (root / "Forst").mkdir()
    (root / "Forest/Forest_2.tif").rename(root / "Forst/Forest_2.tif")
    faults = {
        "Forest/Forest_1.tif": "Forest_1.tif: 12 bands, expected 13. Download the file again.",
        "River/River_2.tif": "River_2.tif: cannot be read (",
        "Forst/Forest_2.tif": "its class 'Forst' is unknown; the nearest known is 'Forest'",
    }
    check_ms(tmp_path, EuroSat(root), faults)


def test_another_size_and_dtype(tmp_path):
    for name in CLASSES:
        write_ms(tmp_path / f"archive/{name}/{name}_1.tif", size=32, dtype="int16")
    archive = EuroSat(tmp_path / "archive")
    check_ms(tmp_path, archive, {})
    assert (archive.groups[0].dtype, archive.groups[0].shape) == ("int16", (32, 32))


@real
def test_real_thirteen_bands(tmp_path):
    archive = EuroSat(REAL, bands="ms")
    check_ms(tmp_path, archive, {})
    patches = [archive.read(entry) for entry in archive.entries()[0]]
    assert [patch.key for patch in patches] == ["annualcrop_1", "pasture_300", "sealake_3000"]
    for patch in patches:
        means = dict(zip(BAND_ORDER["s2"], patch.images["s2_10m"].mean((1, 2)), strict=True))
        assert means["B10"] < 50  # cirrus: nearly black
        assert abs(means["B8A"] / means["B08"] - 1) < 0.5  # the same near infrared, narrower
        assert patch.crs in ("EPSG:32635", "EPSG:32632")


@real
@rgb_law
def test_real_rgb_images():
    archive = EuroSat(REAL, bands="rgb")
    check_archive(archive, {}, lambda entry: {"rgb": [archive.root / entry.source.path]})
    assert (len(archive.entries()[0]), archive.groups[0].shape) == (100, (64, 64))
