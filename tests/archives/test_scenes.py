"""Pictures in class folders: UC-Merced with its multi-labels, AID, and any folder."""

import re
from pathlib import Path

import pytest
from fakes.scenes import write_aid, write_folder, write_picture, write_ucmerced
from laws import check_archive

from rspretrain.archives.scenes import AID_CLASSES, UCMERCED_MULTILABELS, Aid, Folder, UcMerced

REAL = Path(__file__).parents[2].parent / "shared/data"
real = pytest.mark.skipif(not REAL.is_dir(), reason="no real archives at ../shared/data")
pytestmark = pytest.mark.filterwarnings("ignore::rasterio.errors.NotGeoreferencedWarning")  # the law opens files itself


def check(archive, faults):
    check_archive(archive, faults, lambda entry: {"rgb": [archive.root / entry.source.path]})


def test_ucmerced_keeps_odd_sizes_and_multilabels(tmp_path):
    archive = UcMerced(write_ucmerced(tmp_path))
    check(archive, {})
    entries, _ = archive.entries()
    assert [entry.key for entry in entries[:3]] == ["agricultural00", "agricultural01", "airplane00"]
    assert archive.groups[0].shape is None
    patch = archive.read(entries[0])
    assert patch.images["rgb"].shape == (3, 61, 64)
    assert patch.labels["class"] == ("agricultural",)
    assert UCMERCED_MULTILABELS[0] in patch.labels["multilabel"]


def test_equal_pictures_have_a_shape(tmp_path):
    assert UcMerced(write_ucmerced(tmp_path, odd=False)).groups[0].shape == (64, 64)


@pytest.mark.parametrize("below", ["", "UCMerced_LandUse", "UCMerced_LandUse/Images"])
def test_ucmerced_is_found_from_any_level(tmp_path, below):
    archive = UcMerced(write_ucmerced(tmp_path) / below)
    assert len(archive.entries()[0]) == 6
    assert list(archive.nomenclatures) == ["class", "multilabel"]


def test_multilabels_with_commas_and_underscores(tmp_path):
    path = write_ucmerced(tmp_path) / "LandUse_Multilabeled.txt"
    expected = UcMerced(tmp_path).labels(UcMerced(tmp_path).entries()[0][0].source)
    path.write_text(path.read_text().replace("\t", ",").replace("bare-soil", "bare_soil"))
    assert UcMerced(tmp_path).labels(UcMerced(tmp_path).entries()[0][0].source) == expected


def test_multilabels_missing_or_broken(tmp_path):
    path = write_ucmerced(tmp_path) / "LandUse_Multilabeled.txt"
    whole = path.read_text().splitlines()
    path.write_text("\n".join(whole[:-1]))
    row = "LandUse_Multilabeled.txt has no row 'baseballdiamond01'; add it or remove the picture"
    check(UcMerced(tmp_path), {"baseballdiamond/baseballdiamond01.tif": row})
    path.write_text("\n".join([*whole[:-1], "baseballdiamond01\t2"]))
    with pytest.raises(ValueError, match=r"row 'baseballdiamond01': \['2'\], expected 17 zeros or ones\. Restore"):
        UcMerced(tmp_path)
    path.write_text(whole[0].replace("trees", "forest"))
    with pytest.raises(ValueError, match=r"has the columns \[.*'forest'.*\], expected \['airplane'.*\]\. Restore"):
        UcMerced(tmp_path)
    path.unlink()
    assert list(UcMerced(tmp_path).nomenclatures) == ["class"]


def test_faults_of_a_class_folder_archive(tmp_path):
    images = write_ucmerced(tmp_path) / "UCMerced_LandUse" / "Images"
    write_picture(images / "airplane" / "airplane00.png")
    write_picture(images / "airplaine" / "airplaine00.tif")
    write_picture(images / "airplane" / "more" / "a.tif")
    write_picture(images / "loose.tif")
    (images / "airplane" / "notes.doc").touch()
    for ignored in ("Thumbs.db", "airplane.txt", ".DS_Store"):
        (images / "airplane" / ignored).touch()
    cut = images / "agricultural" / "agricultural01.tif"
    cut.write_bytes(cut.read_bytes()[:5000])
    faults = {
        "airplane/airplane00.tif": "has the same key 'airplane00' as airplane/airplane00.png; the first one stays",
        "airplaine/airplaine00.tif": "its class 'airplaine' is unknown; the nearest known is 'airplane'",
        "airplane/more": "is a folder inside a class folder, expected pictures; move it up or remove it",
        "loose.tif": "lies in no class folder; move or remove it",
        "airplane/notes.doc": "is no picture, expected one of .jpg, .jpeg",
        "agricultural/agricultural01.tif": "agricultural01.tif: cannot be read whole (",
    }
    check(UcMerced(tmp_path), faults)


def test_aid(tmp_path):
    archive = Aid(write_aid(tmp_path))
    check(archive, {})
    assert [entry.key for entry in archive.entries()[0][:2]] == ["airport_1", "airport_2"]
    assert (len(AID_CLASSES), archive.groups[0].gsd_m) == (30, None)


def test_folder_takes_its_classes_from_the_names(tmp_path):
    archive = Folder(write_folder(tmp_path))
    check(archive, {})
    assert archive.nomenclatures["class"].names == ("Dry Land", "wet")
    assert [entry.key for entry in archive.entries()[0]][::3] == ["dry-land_000", "wet_000"]


def test_folder_in_splits_keeps_equal_names_apart(tmp_path):
    archive = Folder(write_folder(tmp_path, splits=("train", "val", "test")))
    check(archive, {})
    entries, _ = archive.entries()
    assert len(entries) == 18
    assert {archive.read(entry).split for entry in entries} == {"train", "val", "test"}
    assert entries[0].key == "test_dry-land_000"


def test_folders_that_are_none(tmp_path):
    with pytest.raises(
        ValueError, match=re.escape("none is no folder, expected an archive of pictures. Give the path")
    ):
        Aid(tmp_path / "none")
    with pytest.raises(ValueError, match=r"holds no class folders, expected <class>/<picture>\. Give the folder above"):
        Folder(tmp_path)


@real
def test_real_ucmerced():
    archive = UcMerced(REAL / "ucmerced")
    entries, faults = archive.entries()
    assert (len(entries), faults, archive.groups[0].shape) == (2100, [], None)
    labels = [archive.labels(entry.source)["multilabel"] for entry in entries]
    assert (min(map(len, labels)), max(map(len, labels))) == (1, 7)
    assert (sum("pavement" in row for row in labels), sum("ship" in row for row in labels)) == (1300, 102)
    check(UcMerced(REAL / "ucmerced-original-tif"), {})


@real
def test_real_aid():
    archive = Aid(REAL / "aid")
    entries, faults = archive.entries()
    assert (len(entries), faults, archive.groups[0].shape) == (3600, [], (150, 150))
