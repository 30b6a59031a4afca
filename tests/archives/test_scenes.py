"""Scenes: UC-Merced and AID with their multi-labels, NWPU-RESISC45, RSSCN7, and any folder."""

import os
import re
from pathlib import Path

import pytest
from fakes.scenes import (
    write_aid,
    write_aid_multilabel,
    write_folder,
    write_picture,
    write_resisc45,
    write_rsscn7,
    write_splits,
    write_ucmerced,
)
from laws import check_archive

from rspretrain.archives import open_archive
from rspretrain.archives.scenes import (
    AID_CLASSES,
    RESISC45_CLASSES,
    UCMERCED_MULTILABELS,
    Aid,
    Folder,
    Resisc45,
    Rsscn7,
    UcMerced,
)

REAL = Path(__file__).parents[2].parent / "shared/data"
real = pytest.mark.skipif(not REAL.is_dir(), reason="no real archives at ../shared/data")
# The archive law opens files itself.
pytestmark = pytest.mark.filterwarnings("ignore::rasterio.errors.NotGeoreferencedWarning")


def check(archive, faults):
    check_archive(archive, faults, lambda entry: {"rgb": [archive.root / entry.source.path]})


def test_ucmerced_keeps_deviating_sizes_and_multilabels(tmp_path):
    archive = UcMerced(write_ucmerced(tmp_path))
    check(archive, {})
    entries, _ = archive.entries()
    assert [entry.key for entry in entries[:3]] == ["agricultural00", "agricultural01", "airplane00"]
    assert archive.groups[0].shape is None
    patch = archive.read(entries[0])
    assert patch.images["rgb"].shape == (3, 61, 64)
    assert patch.labels["class"] == ("agricultural",)
    assert UCMERCED_MULTILABELS[0] in patch.labels["multilabel"]


def test_equal_images_have_a_shape(tmp_path):
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
    row = "LandUse_Multilabeled.txt has no row 'baseballdiamond01'; add it or remove the image"
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
    for ignored in ("Thumbs.db", "airplane.txt", ".DS_Store", "README", "License.doc", "airplane00.tif.aux.xml"):
        (images / "airplane" / ignored).touch()
    for ignored in ("README", "UCMerced_LandUse.zip"):
        (images / ignored).touch()
    cut = images / "agricultural" / "agricultural01.tif"
    cut.write_bytes(cut.read_bytes()[:5000])
    faults = {
        "airplane/airplane00.tif": "has the same key 'airplane00' as airplane/airplane00.png; the first one stays",
        "airplaine/airplaine00.tif": "its class 'airplaine' is unknown; the nearest known is 'airplane'",
        "airplane/more": "is a folder inside a class folder, expected images; move it up or remove it",
        "loose.tif": "is in no class folder; move or remove it",
        "airplane/notes.doc": "is not an image, expected one of .jpg, .jpeg",
        "agricultural/agricultural01.tif": "agricultural01.tif: cannot be read (",
    }
    check(UcMerced(tmp_path), faults)


def test_ucmerced_in_the_layout_of_aitlas(tmp_path):
    """All images in one folder, and the table under another name."""
    root = write_ucmerced(tmp_path / "a")
    usual = UcMerced(root)
    labels = {entry.key: usual.labels(entry.source) for entry in usual.entries()[0]}
    (tmp_path / "b/images").mkdir(parents=True)
    for path in sorted(root.rglob("*.tif")):
        path.rename(tmp_path / "b/images" / path.name)
    (root / "LandUse_Multilabeled.txt").rename(tmp_path / "b/multilabels.txt")
    archive = UcMerced(tmp_path / "b")
    check(archive, {})
    assert {entry.key: archive.labels(entry.source) for entry in archive.entries()[0]} == labels


def test_ucmerced_splits(tmp_path):
    root = write_ucmerced(tmp_path / "archive")
    names = {
        "train": ["agricultural00.tif", "airplane01.tif"],
        "val": ["agricultural01.tif"],
        "test": ["airplane00.tif"],
    }
    lists = write_splits(tmp_path / "lists", "uc_merced", **names)
    archive = open_archive("ucmerced", [str(root), f"splits={lists}"])
    check(archive, {})
    assert [entry.source.split for entry in archive.entries()[0]] == ["train", "val", "test", "train", None, None]


def test_aid(tmp_path):
    archive = Aid(write_aid(tmp_path))
    check(archive, {})
    assert [entry.key for entry in archive.entries()[0][:2]] == ["airport_1", "airport_2"]
    assert (len(AID_CLASSES), archive.groups[0].gsd_m) == (30, None)


def test_aid_multilabel(tmp_path):
    archive = Aid(write_aid_multilabel(tmp_path))
    check(archive, {})
    patches = [archive.read(entry) for entry in archive.entries()[0]]
    assert [patch.split for patch in patches] == ["train", "test"] * 3
    assert patches[0].labels == {"class": ("Airport",), "multilabel": UCMERCED_MULTILABELS[::2]}


def test_aid_multilabel_without_class_folders(tmp_path):
    usual = Aid(write_aid_multilabel(tmp_path))
    labels = {entry.key: usual.labels(entry.source) for entry in usual.entries()[0]}
    for path in sorted(tmp_path.rglob("*.jpg")):
        path.rename(path.parents[1] / path.name)
    for folder in tmp_path.glob("images_*/*/"):
        folder.rmdir()
    archive = Aid(tmp_path)
    check(archive, {})
    assert {entry.key: archive.labels(entry.source) for entry in archive.entries()[0]} == labels


def test_full_aid_has_multilabels_for_some_images(tmp_path):
    root = write_aid(tmp_path)
    table = (write_aid_multilabel(tmp_path / "other") / "multilabel.csv").read_text().splitlines()
    (root / "multilabel.csv").write_text("\n".join(table[:3]))
    archive = Aid(root)
    counts = ["multilabel" in archive.read(entry).labels for entry in archive.entries()[0]]
    assert counts == [True, True, False, False, False, False]


@pytest.mark.parametrize("below", ["", "NWPU-RESISC45"])
def test_resisc45(tmp_path, below):
    lists = write_splits(tmp_path / "lists", "resisc45", train=["airplane_001.jpg"], test=["airport_002.jpg"])
    root = write_resisc45(tmp_path / "archive") / below
    archive = open_archive("resisc45", [f"root={root}", f"splits={lists}"])
    check(archive, {})
    found = [(entry.key, entry.source.split) for entry in archive.entries()[0]]
    assert found[:4] == [
        ("airplane_001", "train"),
        ("airplane_002", None),
        ("airport_001", None),
        ("airport_002", "test"),
    ]
    assert len(RESISC45_CLASSES) == len(set(RESISC45_CLASSES)) == 45
    assert list(RESISC45_CLASSES) == sorted(RESISC45_CLASSES)
    assert [entry.source.split for entry in Resisc45(root).entries()[0]] == [None] * 6


@pytest.mark.parametrize("below", ["", "RSSCN7"])
def test_rsscn7(tmp_path, below):
    archive = Rsscn7(write_rsscn7(tmp_path) / below)
    check(archive, {})
    assert [entry.key for entry in archive.entries()[0]][:3] == ["a001", "a002", "b001"]
    assert archive.nomenclatures["class"].names == (
        "aGrass", "bField", "cIndustry", "dRiverLake", "eForest", "fResident", "gParking",
    )  # fmt: skip


def test_folder_takes_its_classes_from_the_names(tmp_path):
    archive = Folder(write_folder(tmp_path))
    check(archive, {})
    assert archive.nomenclatures["class"].names == ("Dry Land", "wet")
    assert [entry.key for entry in archive.entries()[0]][::3] == ["dry-land_000", "wet_000"]


def test_folder_with_splits_has_unique_keys_for_equal_names(tmp_path):
    archive = Folder(write_folder(tmp_path, splits=("train", "val", "test")))
    check(archive, {})
    entries, _ = archive.entries()
    assert len(entries) == 18
    assert {archive.read(entry).split for entry in entries} == {"train", "val", "test"}
    assert entries[0].key == "test_dry-land_000"


def test_folders_that_do_not_exist(tmp_path):
    with pytest.raises(
        ValueError, match=re.escape("none is not a folder, expected an archive of images. Give the path")
    ):
        Aid(tmp_path / "none")
    with pytest.raises(ValueError, match=r"holds no class folders, expected <class>/<image>\. Give the folder above"):
        Folder(tmp_path)


@pytest.mark.parametrize("val", ["valid", "validation", "Val"])
def test_folder_accepts_common_names_of_splits(tmp_path, val):
    archive = Folder(write_folder(tmp_path, splits=("Train", val, "test")))
    check(archive, {})
    assert {archive.read(entry).split for entry in archive.entries()[0]} == {"train", "val", "test"}


def test_folder_keeps_images_with_any_name(tmp_path):
    """Keys are lower-case ASCII: duplicates, and keys too long for a tar, get a hash of the path."""
    names = ["森林/图0.png", "草地/图0.png", "café/A.png", "café/a.png", "café/a.jpg", f"wet land/{'n' * 200}.png"]
    for seed, name in enumerate([*names, "wet/x.png"]):
        write_picture(tmp_path / name, seed=seed)
    archive = Folder(tmp_path)
    check(archive, {})
    keys = {entry.name: entry.key for entry in archive.entries()[0]}
    assert (len(set(keys.values())), max(map(len, keys.values())), keys["wet/x.png"]) == (7, 80, "wet_x")


def test_names_that_are_not_utf8(tmp_path):
    write_folder(tmp_path)
    write_picture(tmp_path / "wet" / os.fsdecode(b"\xe9.png"))
    check(Folder(tmp_path), {r"wet/\udce9.png": "its name is not UTF-8; rename it"})
    (tmp_path / "wet").rename(tmp_path / os.fsdecode(b"w\xe9t"))
    with pytest.raises(ValueError, match=r"has the class 'w\\udce9t', expected UTF-8 text\. Rename the folder"):
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
