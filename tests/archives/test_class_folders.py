"""Images in class folders; other files and unknown classes are faults."""

import pickle

import pytest
from fakes.scenes import write_picture
from laws import check_archive

from rspretrain.archives.class_folders import ClassFolders, Multilabels

# The archive law opens files itself.
pytestmark = pytest.mark.filterwarnings("ignore::rasterio.errors.NotGeoreferencedWarning")


class Pictures(ClassFolders):
    def __init__(self, root, **arguments):
        self.name = "pictures"
        super().__init__(root, ("BareLand", "sea_ice"), **arguments)
        self.groups = (self.rgb_group(None),)


def check(archive, faults):
    check_archive(archive, faults, lambda entry: {"rgb": [archive.root / entry.source.path]})
    return [(entry.key, entry.source.label, entry.source.split) for entry in archive.entries()[0]]


def test_class_folders_with_other_case_and_separators(tmp_path):
    for folder, stem in (("bare_land", "x1"), ("BareLand", "x2"), ("Sea Ice", "x3"), ("SEA-ICE", "x4")):
        write_picture(tmp_path / folder / f"{stem}.png")
    found = check(Pictures(tmp_path), {})
    assert [label for _, label, _ in found] == ["BareLand", "BareLand", "sea_ice", "sea_ice"]


def test_flat_images_have_their_class_in_their_name(tmp_path):
    for stem in ("bareland_12", "seaice07", "sea_ice-9", "forest_1"):
        write_picture(tmp_path / f"{stem}.jpg")
    faults = {"forest_1.jpg": "its class 'forest' is unknown; the nearest known is '"}
    assert check(Pictures(tmp_path, flat=True), faults) == [
        ("bareland_12", "BareLand", None), ("sea_ice-9", "sea_ice", None), ("seaice07", "sea_ice", None),
    ]  # fmt: skip


def test_splits_from_folders_or_from_lists(tmp_path):
    for top in ("a", "b"):
        write_picture(tmp_path / top / "BareLand" / f"{top}1.png")
    tops = {"a": "train", "b": "test"}
    assert [split for _, _, split in check(Pictures(tmp_path, tops=tops), {})] == ["train", "test"]
    archive = Pictures(tmp_path, tops=tops, split_of={"b1": "val", "gone": "val"})
    assert [split for _, _, split in check(archive, {})] == [None, "val"]


def test_incomplete_and_complete_tables(tmp_path):
    write_picture(tmp_path / "BareLand" / "x1.png")
    write_picture(tmp_path / "BareLand" / "x2.png")
    some = Pictures(tmp_path, multilabels=Multilabels("t.csv", ("a", "b"), {"x1": ("b",)}, complete=False))
    labels = [some.read(entry).labels for entry in some.entries()[0]]
    assert labels == [{"class": ("BareLand",), "multilabel": ("b",)}, {"class": ("BareLand",)}]
    every = Pictures(tmp_path, multilabels=Multilabels("t.csv", ("a", "b"), {"x1": ("b",)}, complete=True))
    check(every, {"BareLand/x2.png": "t.csv has no row 'x2'; add it or remove the image"})


def test_an_archive_can_be_pickled(tmp_path):
    write_picture(tmp_path / "BareLand" / "x1.png")
    archive = pickle.loads(pickle.dumps(Pictures(tmp_path)))
    assert archive.entries() == Pictures(tmp_path).entries()
