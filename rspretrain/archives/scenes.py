"""Archives of RGB pictures with one folder a class: UC-Merced, AID, and any other that looks so (methods.md G.6).

Pictures keep their own size: 44 of UC-Merced's are not 256 x 256, and what to do about it is the view's business.
"""

import difflib
import os
import re
from abc import abstractmethod
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import final

from PIL import Image, UnidentifiedImageError

from rspretrain.archives.base import Archive, Entry, Nomenclature
from rspretrain.archives.raster import read_rgb
from rspretrain.patch import Fault, Patch, key_of
from rspretrain.sensors import Group

IMAGE_SUFFIXES = (".jpg", ".jpeg", ".png", ".tif", ".tiff", ".bmp")
SIDECAR_SUFFIXES = (".txt", ".csv", ".md", ".xml", ".json", ".db", ".ini", ".tfw", ".jgw", ".pgw", ".html", ".pdf")
SPLITS = ("train", "val", "test")
UCMERCED_CLASSES = (
    "agricultural", "airplane", "baseballdiamond", "beach", "buildings", "chaparral", "denseresidential", "forest",
    "freeway", "golfcourse", "harbor", "intersection", "mediumresidential", "mobilehomepark", "overpass", "parkinglot",
    "river", "runway", "sparseresidential", "storagetanks", "tenniscourt",
)  # fmt: skip
# Chaudhuri et al. 2018, in the order of LandUse_Multilabeled.txt.
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


@dataclass(frozen=True)
class Source:
    """One picture: its path below the class folders' root, its class and its split."""

    path: str
    label: str
    split: str | None


class ClassFolders(Archive):
    """Pictures below `root/<class>/`, or below `root/<split>/<class>/` where an archive is delivered in splits."""

    def __init__(
        self, root: Path, classes: tuple[str, ...], splits: tuple[str | None, ...], gsd_m: float | None
    ) -> None:
        self.root, self.classes, self.splits = root, classes, splits
        self.nomenclatures = {"class": Nomenclature(classes, multi=False)}
        self.metadata_bytes = 1024
        shape = _common_shape(self.root / source.path for source in self._pictures([]))
        self.groups = (Group("rgb", "rgb", ("R", "G", "B"), "uint8", shape, gsd_m, "grey"),)

    @abstractmethod
    def key(self, source: Source) -> str:
        """The shard key of one picture."""

    @abstractmethod
    def labels(self, source: Source) -> dict[str, tuple[str, ...]]:
        """Labels in every nomenclature. ValueError where a table does not know the picture."""

    @final
    def entries(self) -> tuple[list[Entry], list[Fault]]:
        """Pictures by key; files that are no pictures, folders of no known class and repeated keys are faults."""
        faults: list[Fault] = []
        entries: dict[str, Entry] = {}
        for source in self._pictures(faults):
            key = self.key(source)
            if key in entries:
                faults.append(
                    Fault(source.path, f"has the same key {key!r} as {entries[key].name}; the first one stays")
                )
                continue
            try:
                self.labels(source)
            except ValueError as error:
                faults.append(Fault(source.path, str(error)))
            else:
                entries[key] = Entry(key, source.path, source)
        return [entries[key] for key in sorted(entries)], faults

    @final
    def read(self, entry: Entry) -> Patch:
        """One picture and its labels. PatchError where the file is broken or is no RGB."""
        source: Source = entry.source
        pixels = read_rgb(self.root / source.path)
        return Patch(entry.key, {"rgb": pixels}, self.labels(source), source.split, attributes={"file": source.path})

    def _pictures(self, faults: list[Fault]) -> Iterator[Source]:
        """All pictures of known classes, by split, class and file name."""
        for split in self.splits:
            top = self.root / (split or "")
            for item in _listed(top):
                if item.is_dir():
                    yield from self._pictures_of_class(top / item.name, split, faults)
                elif _is_foreign(item.name):
                    faults.append(Fault(self._below(top / item.name), "lies in no class folder; move or remove it"))

    def _pictures_of_class(self, folder: Path, split: str | None, faults: list[Fault]) -> Iterator[Source]:
        for item in _listed(folder):
            path = self._below(folder / item.name)
            if item.is_dir():
                faults.append(
                    Fault(path, "is a folder inside a class folder, expected pictures; move it up or remove it")
                )
            elif Path(item.name).suffix.lower() not in IMAGE_SUFFIXES:
                if _is_foreign(item.name):
                    faults.append(Fault(path, f"is no picture, expected one of {', '.join(IMAGE_SUFFIXES)}; remove it"))
            elif folder.name not in self.classes:
                nearest = difflib.get_close_matches(folder.name, self.classes, n=1, cutoff=0.0)[0]
                faults.append(Fault(path, f"its class {folder.name!r} is unknown; the nearest known is {nearest!r}"))
            else:
                yield Source(path, folder.name, split)

    def _below(self, path: Path) -> str:
        return path.relative_to(self.root).as_posix()


@final
class UcMerced(ClassFolders):
    """UC-Merced Land Use: 21 classes of 100 pictures at 0.3 m, and 17 multi-labels where their table lies beside them.

    `root` is the folder that holds `Images/` (or `UCMerced_LandUse/Images/`, or the class folders themselves).
    """

    def __init__(self, root: Path) -> None:
        self.name = "ucmerced"
        images = _inner(Path(root), ("UCMerced_LandUse/Images", "Images"))
        super().__init__(images, UCMERCED_CLASSES, (None,), 0.3)
        places = [images.parent, images.parent.parent, Path(root), Path(root).parent]
        tables = [place / "LandUse_Multilabeled.txt" for place in places]
        self._table = next((_read_multilabels(path) for path in tables if path.is_file()), None)
        if self._table is not None:
            self.nomenclatures["multilabel"] = Nomenclature(UCMERCED_MULTILABELS, multi=True)

    def key(self, source: Source) -> str:
        """The file's stem, which is unique: `agricultural00`."""
        return key_of(Path(source.path).stem)

    def labels(self, source: Source) -> dict[str, tuple[str, ...]]:
        """Class, and the multi-labels of the table's row. ValueError where the table has none."""
        labels: dict[str, tuple[str, ...]] = {"class": (source.label,)}
        if self._table is not None:
            stem = Path(source.path).stem
            if stem not in self._table:
                raise ValueError(f"LandUse_Multilabeled.txt has no row {stem!r}; add it or remove the picture")
            labels["multilabel"] = self._table[stem]
        return labels


@final
class Aid(ClassFolders):
    """AID: 10,000 pictures of 600 x 600 in 30 classes, 0.5 to 8 m. `root` holds the class folders, or `AID/`."""

    def __init__(self, root: Path) -> None:
        self.name = "aid"
        super().__init__(_inner(Path(root), ("AID",)), AID_CLASSES, (None,), None)

    def key(self, source: Source) -> str:
        """The file's stem, which is unique: `airport_1`."""
        return key_of(Path(source.path).stem)

    def labels(self, source: Source) -> dict[str, tuple[str, ...]]:
        """The class folder's name."""
        return {"class": (source.label,)}


@final
class Folder(ClassFolders):
    """Any pictures in class folders; folders named train, val, test above them (and nothing else) are splits."""

    def __init__(self, root: Path) -> None:
        self.name = "folder"
        top = _inner(Path(root), ())
        names = [item.name for item in _listed(top) if item.is_dir()]
        splits = tuple(split for split in SPLITS if split in names) if set(names) <= set(SPLITS) else ()
        tops = [top / split for split in splits] or [top]
        classes = sorted({item.name for folder in tops for item in _listed(folder) if item.is_dir()})
        if not classes:
            raise ValueError(f"{root} holds no class folders, expected <class>/<picture>. Give the folder above them.")
        super().__init__(top, tuple(classes), splits or (None,), None)

    def key(self, source: Source) -> str:
        """Class and stem, after the split where there is one: stems repeat in such archives."""
        return key_of("_".join(filter(None, (source.split, source.label, Path(source.path).stem))))

    def labels(self, source: Source) -> dict[str, tuple[str, ...]]:
        """The class folder's name."""
        return {"class": (source.label,)}


def _inner(root: Path, usual: tuple[str, ...]) -> Path:
    """The first of the usual folders inside `root` that exists, else `root` itself."""
    if not root.is_dir():
        raise ValueError(
            f"{root} is no folder, expected an archive of pictures. Give the path of the unpacked archive."
        )
    return next((root / name for name in usual if (root / name).is_dir()), root)


def _listed(folder: Path) -> list[os.DirEntry[str]]:
    """Everything visible in a folder, by name."""
    with os.scandir(folder) as scan:
        return sorted(
            (item for item in scan if not item.name.startswith((".", "__MACOSX"))), key=lambda item: item.name
        )


def _is_foreign(name: str) -> bool:
    return Path(name).suffix.lower() not in SIDECAR_SUFFIXES


def _common_shape(paths: Iterator[Path]) -> tuple[int, int] | None:
    """(H, W) if all pictures have it, from their headers alone. A picture without a header is left to `read`."""
    shape = None
    for path in paths:
        try:
            with Image.open(path) as picture:
                width, height = picture.size
        except (OSError, UnidentifiedImageError):
            continue
        if shape not in (None, (height, width)):
            return None
        shape = (height, width)
    return shape


def _read_multilabels(path: Path) -> dict[str, tuple[str, ...]]:
    """Stem -> multi-labels in their order. Tabs or commas, `_` or `-` in names; columns are found by name."""
    header, *rows = [re.split(r"[\t,]", line.strip()) for line in path.read_text().splitlines() if line.strip()]
    names = [name.strip().lower().replace("_", "-") for name in header[1:]]
    if sorted(names) != sorted(UCMERCED_MULTILABELS):
        raise ValueError(f"{path} has the columns {names}, expected {list(UCMERCED_MULTILABELS)}. Restore the file.")
    table = {}
    for row in rows:
        if len(row) != len(header) or not set(row[1:]) <= {"0", "1"}:
            raise ValueError(
                f"{path}, row {row[0]!r}: {row[1:]}, expected {len(names)} zeros or ones. Restore the file."
            )
        present = {name for name, value in zip(names, row[1:], strict=True) if value == "1"}
        table[row[0]] = tuple(name for name in UCMERCED_MULTILABELS if name in present)
    return table
