"""BigEarthNet v1 on real files, if available."""

from functools import partial
from pathlib import Path

import pytest
from fakes.bigearthnet import band_files
from laws import check_archive

from rspretrain.archives.bigearthnet import BigEarthNet

REAL = Path(__file__).parents[2].parent / "shared/data"
pytestmark = pytest.mark.skipif(not REAL.is_dir(), reason="no real archives at ../shared/data")


def check(archive, faults):
    check_archive(archive, faults, partial(band_files, archive))


def test_the_three_real_pairs():
    root = REAL / "bigearthnet-v1"
    archive = BigEarthNet(root, root)
    check(archive, {})
    patches = [archive.read(entry) for entry in archive.entries()[0]]
    assert [patch.key for patch in patches] == [
        "s2a_msil2a_20170613t101031_87_48", "s2a_msil2a_20170617t113321_36_85", "s2b_msil2a_20170924t93020_69_24",
    ]  # fmt: skip
    assert patches[2].attributes["s1_name"] == "S1A_IW_GRDH_1SDV_20170925T043256_35VPK_69_24"
    assert (patches[2].crs, patches[2].bounds) == ("EPSG:32635", (682800.0, 6970020.0, 684000.0, 6971220.0))
    assert patches[2].labels["19"] == (
        "Coniferous forest", "Mixed forest", "Transitional woodland, shrub", "Inland wetlands", "Inland waters",
    )  # fmt: skip


def test_the_real_patches_without_partners():
    root = REAL / "bigearthnet-v1-unpaired"
    alone = "Sentinel-2 patch without a Sentinel-1 partner"
    missing = "Sentinel-1 patch without its Sentinel-2 partner S2A_MSIL2A_20170613T101031_61_41"
    faults = {folder.name: alone for folder in (root / "BigEarthNet-v1.0").iterdir()}
    check(BigEarthNet(root, root), faults | {"S1A_IW_GRDH_1SDV_20170613T165043_33UUP_61_41": missing})
    check(BigEarthNet(root), {})
    check(BigEarthNet(s1=root), {})


def test_the_official_splits():
    root = REAL / "bigearthnet-v1"
    archive = BigEarthNet(root, root, REAL / "bigearthnet-v1-metadata")
    assert [entry.source.split for entry in archive.entries()[0]] == ["test", "train", "train"]
    assert {(entry.source.snow, entry.source.cloud) for entry in archive.entries()[0]} == {(False, False)}
