"""DFC2020: both spellings, the papers' splits, labels from the map after remapping."""

import numpy as np
import pytest
import rasterio
from fakes.rois import write_dfc2020, write_kind
from laws import check_archive, check_record

from rspretrain.archives import open_archive
from rspretrain.archives.dfc2020 import CODES, Dfc2020, dfc_labels
from rspretrain.shardset.building.build import build_shards
from rspretrain.shardset.index import open_shards
from rspretrain.shardset.inspection.verify import verify
from rspretrain.shardset.record import check_patch


def files(archive):
    return lambda entry: {
        group.name: [archive.root / entry.source.files[kind]] for kind, group in archive.group_of.items()
    }


@pytest.mark.parametrize("scene", ["validation", "0"])
def test_both_spellings_give_the_same_patches(tmp_path, scene):
    archive = Dfc2020(write_dfc2020(tmp_path, scene=scene))
    check_archive(archive, {}, files(archive))
    patches = [archive.read(entry) for entry in archive.entries()[0]]
    assert [patch.key for patch in patches[3:5]] == ["rois0000_test_p3", "rois0000_validation_p0"]
    assert [patch.split for patch in patches] == ["test"] * 4 + ["train"] * 4
    assert patches[4].labels == {"dfc": ("Forest",), "dfc_multi": ("Forest", "Croplands")}
    assert patches[4].attributes["dfc_name"] == f"ROIs0000_validation_dfc_{scene}_p0"
    for patch in patches:
        check_record(archive, patch)


def test_folder_and_files_with_different_spellings(tmp_path):
    write_dfc2020(tmp_path, scene="0")
    for folder in sorted(tmp_path.glob("ROIs0000_validation/*_0")):
        folder.rename(folder.with_name(folder.name.replace("_0", "_validation")))
    archive = Dfc2020(tmp_path)
    check_archive(archive, {}, files(archive))
    assert len(archive.entries()[0]) == 8


@pytest.mark.parametrize(
    ("options", "groups"),
    [
        ([], ["s1_10m", "s2_10m", "dfc_10m"]),
        (["maps=false"], ["s1_10m", "s2_10m"]),
        (["sensors=s2", "lc=true"], ["s2_10m", "lc_10m", "dfc_10m"]),
    ],
)
def test_command_line_options(tmp_path, options, groups):
    archive = open_archive("dfc2020", [str(write_dfc2020(tmp_path))], options)
    assert [group.name for group in archive.groups] == groups
    check_archive(archive, {}, files(archive))


def test_faults_by_name(tmp_path):
    archive = Dfc2020(write_dfc2020(tmp_path))
    (tmp_path / "ROIs0000_test/dfc_0/ROIs0000_test_dfc_0_p1.tif").unlink()
    write_kind(tmp_path / "ROIs0000_validation/s1_0/ROIs0000_validation_s1_0_p0.tif", "s1", 0)
    faults = {
        "ROIs0000_test_p1": "has no dfc file, only ROIs0000_test/s1_0/ROIs0000_test_s1_0_p1.tif, ROIs0000_test/s2_0/",
        "ROIs0000_validation/s1_validation/ROIs0000_validation_s1_validation_p0.tif": "is a second s1 file "
        "of ROIs0000_validation_p0, after ROIs0000_validation/s1_0/ROIs0000_validation_s1_0_p0.tif; the first one",
    }
    check_archive(archive, faults, files(archive))


def test_remapping_equals_the_paper():
    """docs/methods.md, DFC2020 protocol, step by step."""
    codes = np.arange(11)
    remapped = codes.copy()
    remapped[(remapped == 3) | (remapped == 8)] = 0
    remapped = np.where(remapped >= 3, remapped - 1, remapped)
    remapped = np.where(remapped >= 8, remapped - 1, remapped)
    for code, position in zip(codes, remapped - 1, strict=True):
        labels = dfc_labels(np.full((3, 3), code, dtype=np.uint8))
        assert labels.get("dfc", ()) == labels["dfc_multi"] == ((list(CODES)[position],) if position >= 0 else ())


def test_invalid_pixels_vote_and_count(tmp_path):
    codes = np.zeros((10, 10), dtype=np.uint8)
    codes.ravel()[:40], codes.ravel()[40:50] = 6, 10
    assert dfc_labels(codes) == {"dfc_multi": ("Croplands", "Water")}  # 50 % invalid, 10 % water
    codes.ravel()[50:60] = 6
    assert dfc_labels(codes)["dfc"] == ("Croplands",)
    codes.ravel()[49] = 0
    assert dfc_labels(codes)["dfc_multi"] == ("Croplands",)
    archive = Dfc2020(write_dfc2020(tmp_path, patches=1))
    path = tmp_path / "ROIs0000_test/dfc_0/ROIs0000_test_dfc_0_p0.tif"
    write_kind(path, "dfc", 1)
    with rasterio.open(path, "r+") as target:
        target.write(np.full((1, 32, 32), 3, dtype=np.uint8))
    patch = archive.read(archive.entries()[0][0])
    check_patch(patch, archive.groups, archive.nomenclatures)
    assert patch.labels == {"dfc_multi": ()}
    assert (patch.images["dfc_10m"] == 3).all()


def test_a_patch_without_a_class_through_the_shards(tmp_path):
    """Its record has no `.cls` and its row no class: it is used in pretraining and left out of the probe."""
    write_dfc2020(tmp_path / "archive", patches=2)
    path = tmp_path / "archive/ROIs0000_test/dfc_0/ROIs0000_test_dfc_0_p1.tif"
    with rasterio.open(path, "r+") as target:
        target.write(np.zeros((1, 32, 32), dtype=np.uint8))
    report = build_shards(Dfc2020(tmp_path / "archive"), tmp_path / "out", shuffle=False)
    assert (report.written, report.faults) == (4, [])
    shards = open_shards(tmp_path / "out")
    assert shards.labels("dfc").sum(axis=1).tolist() == [1, 0, 1, 1]
    assert shards.labels("dfc_multi").sum(axis=1).tolist() == [2, 0, 2, 2]
    assert (shards.read(1)[0]["dfc_10m"] == 0).all()
    assert shards.manifest.splits == {"test": 2, "train": 2}
    assert verify(shards.path) == []
