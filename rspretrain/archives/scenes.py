"""Archives of RGB scenes: UC-Merced, AID, NWPU-RESISC45, RSSCN7, and any pictures in class folders (methods.md G.6)."""

from pathlib import Path
from typing import final

from rspretrain.archives.base import is_text
from rspretrain.archives.class_folders import ClassFolders, Multilabels, holds_folders, inner, listed
from rspretrain.archives.tables import read_multilabels, read_splits

UCMERCED_CLASSES = (
    "agricultural", "airplane", "baseballdiamond", "beach", "buildings", "chaparral", "denseresidential", "forest",
    "freeway", "golfcourse", "harbor", "intersection", "mediumresidential", "mobilehomepark", "overpass", "parkinglot",
    "river", "runway", "sparseresidential", "storagetanks", "tenniscourt",
)  # fmt: skip
# Chaudhuri et al. 2018, in the order of LandUse_Multilabeled.txt; Hua et al. 2020 gave AID the same.
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
# Zou et al. 2015; the letter is part of the folders' names and begins every file's (a001.jpg).
RSSCN7_CLASSES = ("aGrass", "bField", "cIndustry", "dRiverLake", "eForest", "fResident", "gParking")
_UCMERCED_TABLES = ("LandUse_Multilabeled.txt", "multilabels.txt")
_AID_TABLES = ("multilabel.csv",)
_SPLIT_OF = {"train": "train", "val": "val", "valid": "val", "validation": "val", "test": "test"}
_AID_TOPS = {"images_tr": "train", "images_test": "test"}


@final
class UcMerced(ClassFolders):
    """UC-Merced Land Use: 21 classes of 100 pictures at 0.3 m, and 17 multi-labels where their table lies beside them.

    `root` is the folder that holds `Images/` (or `UCMerced_LandUse/Images/`, or the class folders themselves), or
    AITLAS' variant: `multilabels.txt` and all pictures in `images/`. `splits` holds `uc_merced-train.txt` and so on.
    """

    def __init__(self, root: Path, splits: Path | None = None) -> None:
        self.name = "ucmerced"
        images = inner(Path(root), ("UCMerced_LandUse/Images", "Images", "images"))
        super().__init__(
            images,
            UCMERCED_CLASSES,
            split_of=None if splits is None else read_splits(Path(splits), "uc_merced"),
            multilabels=_multilabels(Path(root), images, _UCMERCED_TABLES, whole=True),
            flat=not holds_folders(images),
        )
        self.groups = (self.rgb_group(0.3),)


@final
class Aid(ClassFolders):
    """AID: 10,000 pictures of 600 x 600 in 30 classes, 0.5 to 8 m. `root` holds the class folders, or `AID/`.

    Or AID-multilabel, 3,000 of them: `images_tr/` and `images_test/`, which are splits, and `multilabel.csv`. Beside
    the whole archive that table gives multi-labels to those that it knows. `splits` holds `aid-train.txt` and so on.
    """

    def __init__(self, root: Path, splits: Path | None = None) -> None:
        self.name = "aid"
        images = inner(Path(root), ("AID", "AID_multilabel"))
        tops: dict[str, str | None] = {top: split for top, split in _AID_TOPS.items() if (images / top).is_dir()}
        folders = [images / top for top in tops] or [images]
        super().__init__(
            images,
            AID_CLASSES,
            tops or {"": None},
            split_of=None if splits is None else read_splits(Path(splits), "aid"),
            multilabels=_multilabels(Path(root), images, _AID_TABLES, whole=bool(tops)),
            flat=not any(holds_folders(folder) for folder in folders),
        )
        self.groups = (self.rgb_group(None),)


@final
class Resisc45(ClassFolders):
    """NWPU-RESISC45: 45 classes of 700 pictures of 256 x 256, 0.2 to 30 m. `root` holds the class folders, or more.

    `splits` holds `resisc45-train.txt`, `-val`, `-test`: 60, 20 and 20 % in TorchGeo's.
    """

    def __init__(self, root: Path, splits: Path | None = None) -> None:
        self.name = "resisc45"
        split_of = None if splits is None else read_splits(Path(splits), "resisc45")
        super().__init__(inner(Path(root), ("NWPU-RESISC45",)), RESISC45_CLASSES, split_of=split_of)
        self.groups = (self.rgb_group(None),)


@final
class Rsscn7(ClassFolders):
    """RSSCN7: 7 classes of 400 pictures of 400 x 400, at four scales. `root` holds the class folders, or more.

    `splits` holds `rsscn7-train.txt` and so on, which nobody published.
    """

    def __init__(self, root: Path, splits: Path | None = None) -> None:
        self.name = "rsscn7"
        split_of = None if splits is None else read_splits(Path(splits), "rsscn7")
        super().__init__(inner(Path(root), ("RSSCN7", "RSSCN7-master")), RSSCN7_CLASSES, split_of=split_of)
        self.groups = (self.rgb_group(None),)


@final
class Folder(ClassFolders):
    """Any pictures in class folders; folders named train, val (or valid, validation) and test above them are splits."""

    def __init__(self, root: Path) -> None:
        self.name = "folder"
        top = inner(Path(root), ())
        names = [item.name for item in listed(top) if item.is_dir()]
        tops = {name: _SPLIT_OF.get(name.lower()) for name in names}
        tops = tops if all(tops.values()) else {}
        folders = [top / split for split in tops] or [top]
        classes = sorted({item.name for folder in folders for item in listed(folder) if item.is_dir()})
        if not classes:
            raise ValueError(f"{root} holds no class folders, expected <class>/<picture>. Give the folder above them.")
        if unreadable := [name for name in classes if not is_text(name)]:
            raise ValueError(f"{top} has the class {unreadable[0]!a}, expected UTF-8 text. Rename the folder.")
        super().__init__(top, tuple(classes), tops or {"": None}, named=False)
        self.groups = (self.rgb_group(None),)


def _multilabels(root: Path, images: Path, files: tuple[str, ...], *, whole: bool) -> Multilabels | None:
    """The table that lies at the pictures or above, as the archives put it."""
    places = (images, images.parent, images.parent.parent, root, root.parent)
    path = next((path for place in places for file in files if (path := place / file).is_file()), None)
    if path is None:
        return None
    return Multilabels(path.name, UCMERCED_MULTILABELS, read_multilabels(path, UCMERCED_MULTILABELS), whole)
