"""Archives of RGB scenes: UC-Merced, AID, NWPU-RESISC45, RSSCN7, and any images in class folders.

docs/methods.md, RGB scenes and EuroSAT.
"""

from pathlib import Path
from typing import final

from rspretrain.archives.base import is_text
from rspretrain.archives.class_folders import ClassFolders, Multilabels, find_root, has_subfolders, visible_items
from rspretrain.archives.tables import read_multilabels, read_splits

UCMERCED_CLASSES = (
    "agricultural", "airplane", "baseballdiamond", "beach", "buildings", "chaparral", "denseresidential", "forest",
    "freeway", "golfcourse", "harbor", "intersection", "mediumresidential", "mobilehomepark", "overpass", "parkinglot",
    "river", "runway", "sparseresidential", "storagetanks", "tenniscourt",
)  # fmt: skip
# Chaudhuri et al. 2018, in the order of LandUse_Multilabeled.txt; Hua et al. 2020 use the same classes for AID.
UCMERCED_MULTILABELS = (
    "airplane", "bare-soil", "buildings", "cars", "chaparral", "court", "dock", "field", "grass", "mobile-home",
    "pavement", "sand", "sea", "ship", "tanks", "trees", "water",
)  # fmt: skip
# Xia et al. 2017, in the published order.
AID_CLASSES = (
    "Airport", "BareLand", "BaseballField", "Beach", "Bridge", "Center", "Church", "Commercial", "DenseResidential",
    "Desert", "Farmland", "Forest", "Industrial", "Meadow", "MediumResidential", "Mountain", "Park", "Parking",
    "Playground", "Pond", "Port", "RailwayStation", "Resort", "River", "School", "SparseResidential", "Square",
    "Stadium", "StorageTanks", "Viaduct",
)  # fmt: skip
# Cheng et al. 2017.
RESISC45_CLASSES = (
    "airplane", "airport", "baseball_diamond", "basketball_court", "beach", "bridge", "chaparral", "church",
    "circular_farmland", "cloud", "commercial_area", "dense_residential", "desert", "forest", "freeway", "golf_course",
    "ground_track_field", "harbor", "industrial_area", "intersection", "island", "lake", "meadow", "medium_residential",
    "mobile_home_park", "mountain", "overpass", "palace", "parking_lot", "railway", "railway_station",
    "rectangular_farmland", "river", "roundabout", "runway", "sea_ice", "ship", "snowberg", "sparse_residential",
    "stadium", "storage_tank", "tennis_court", "terrace", "thermal_power_station", "wetland",
)  # fmt: skip
# Zou et al. 2015; the letter is part of the folder names and of the file names (a001.jpg).
RSSCN7_CLASSES = ("aGrass", "bField", "cIndustry", "dRiverLake", "eForest", "fResident", "gParking")
_UCMERCED_TABLES = ("LandUse_Multilabeled.txt", "multilabels.txt")
_AID_TABLES = ("multilabel.csv",)
_SPLIT_OF = {"train": "train", "val": "val", "valid": "val", "validation": "val", "test": "test"}
_AID_TOPS = {"images_tr": "train", "images_test": "test"}


@final
class UcMerced(ClassFolders):
    """UC-Merced Land Use: 21 classes of 100 images at 0.3 m, and 17 multi-labels if their table is beside the images.

    `root` holds `Images/`, `UCMerced_LandUse/Images/` or the class folders themselves. AITLAS' variant is also read:
    `multilabels.txt`, and all images in `images/`. `splits` holds `uc_merced-train.txt`, `-val` and `-test`.
    """

    def __init__(self, root: Path, splits: Path | None = None) -> None:
        self.name = "ucmerced"
        images = find_root(Path(root), ("UCMerced_LandUse/Images", "Images", "images"))
        super().__init__(
            images,
            UCMERCED_CLASSES,
            split_of=None if splits is None else read_splits(Path(splits), "uc_merced"),
            multilabels=_multilabels(Path(root), images, _UCMERCED_TABLES, complete=True),
            flat=not has_subfolders(images),
        )
        self.groups = (self.rgb_group(0.3),)


@final
class Aid(ClassFolders):
    """AID: 10,000 images of 600 x 600 px in 30 classes, 0.5 to 8 m. `root` holds the class folders, or `AID/`.

    Also AID-multilabel, 3,000 of these images: the splits `images_tr/` and `images_test/`, and `multilabel.csv`. Beside
    the full archive, that table adds multi-labels to the images it lists. `splits` holds `aid-train.txt`, `-val` and
    `-test`.
    """

    def __init__(self, root: Path, splits: Path | None = None) -> None:
        self.name = "aid"
        images = find_root(Path(root), ("AID", "AID_multilabel"))
        tops: dict[str, str | None] = {top: split for top, split in _AID_TOPS.items() if (images / top).is_dir()}
        folders = [images / top for top in tops] or [images]
        super().__init__(
            images,
            AID_CLASSES,
            tops or {"": None},
            split_of=None if splits is None else read_splits(Path(splits), "aid"),
            multilabels=_multilabels(Path(root), images, _AID_TABLES, complete=bool(tops)),
            flat=not any(has_subfolders(folder) for folder in folders),
        )
        self.groups = (self.rgb_group(None),)


@final
class Resisc45(ClassFolders):
    """NWPU-RESISC45: 45 classes of 700 images of 256 x 256 px, 0.2 to 30 m.

    `root` holds the class folders, or `NWPU-RESISC45/`. `splits` holds `resisc45-train.txt`, `-val` and `-test`
    (TorchGeo's: 60, 20 and 20 %).
    """

    def __init__(self, root: Path, splits: Path | None = None) -> None:
        self.name = "resisc45"
        split_of = None if splits is None else read_splits(Path(splits), "resisc45")
        super().__init__(find_root(Path(root), ("NWPU-RESISC45",)), RESISC45_CLASSES, split_of=split_of)
        self.groups = (self.rgb_group(None),)


@final
class Rsscn7(ClassFolders):
    """RSSCN7: 7 classes of 400 images of 400 x 400 px, at four scales.

    `root` holds the class folders, `RSSCN7/` or `RSSCN7-master/`. `splits` holds `rsscn7-train.txt`, `-val` and
    `-test`; there are no published lists.
    """

    def __init__(self, root: Path, splits: Path | None = None) -> None:
        self.name = "rsscn7"
        split_of = None if splits is None else read_splits(Path(splits), "rsscn7")
        super().__init__(find_root(Path(root), ("RSSCN7", "RSSCN7-master")), RSSCN7_CLASSES, split_of=split_of)
        self.groups = (self.rgb_group(None),)


@final
class Folder(ClassFolders):
    """Any images in class folders. Parent folders named train, val (or valid, validation) and test are splits."""

    def __init__(self, root: Path) -> None:
        self.name = "folder"
        top = find_root(Path(root), ())
        names = [item.name for item in visible_items(top) if item.is_dir()]
        tops = {name: _SPLIT_OF.get(name.lower()) for name in names}
        tops = tops if all(tops.values()) else {}
        folders = [top / split for split in tops] or [top]
        classes = sorted({item.name for folder in folders for item in visible_items(folder) if item.is_dir()})
        if not classes:
            raise ValueError(f"{root} holds no class folders, expected <class>/<image>. Give the folder above them.")
        if unreadable := [name for name in classes if not is_text(name)]:
            raise ValueError(f"{top} has the class {unreadable[0]!a}, expected UTF-8 text. Rename the folder.")
        super().__init__(top, tuple(classes), tops or {"": None}, unique_stems=False)
        self.groups = (self.rgb_group(None),)


def _multilabels(root: Path, images: Path, files: tuple[str, ...], *, complete: bool) -> Multilabels | None:
    """The table beside the images or in a parent folder."""
    folders = (images, images.parent, images.parent.parent, root, root.parent)
    path = next((path for folder in folders for file in files if (path := folder / file).is_file()), None)
    if path is None:
        return None
    return Multilabels(path.name, UCMERCED_MULTILABELS, read_multilabels(path, UCMERCED_MULTILABELS), complete)
