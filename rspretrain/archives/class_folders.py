"""What archives of labelled pictures share: one folder a class, or one folder of pictures whose names say the class.

Pictures keep their own size: 44 of UC-Merced's are not 256 x 256, and what to do about it is the view's business.
"""

import difflib
import os
import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import final

from rspretrain.archives.base import Archive, Entry, Nomenclature, is_text, shown, unique_keys
from rspretrain.archives.headers import Header, common_shape, read_header
from rspretrain.archives.raster import Raster, read_rgb
from rspretrain.patch import Fault, Patch, key_of
from rspretrain.sensors import Group

IMAGE_SUFFIXES = (".jpg", ".jpeg", ".png", ".tif", ".tiff", ".bmp")
SIDECAR_SUFFIXES = (
    ".txt", ".csv", ".md", ".xml", ".json", ".db", ".ini", ".tfw", ".jgw", ".pgw", ".html", ".pdf", ".aux", ".ovr",
)  # fmt: skip
DOCUMENTS = ("readme", "license", "licence", "copying", "citation")  # with or without a suffix
LONGEST_KEY = 80  # bytes; with ".rgb.npy" and a codec's suffix below the 100 of a tar name
WHOLE: Mapping[str, str | None] = {"": None}  # an archive that is not delivered in split folders


@dataclass(frozen=True)
class Source:
    """One picture: its path below the class folders' root, its class and its split."""

    path: str
    label: str
    split: str | None

    @property
    def stem(self) -> str:
        """The file's name without suffix."""
        return Path(self.path).stem


@dataclass(frozen=True)
class Multilabels:
    """A table of multi-labels. `whole`: a picture without a row is a fault; else it has no multi-labels."""

    file: str
    names: tuple[str, ...]
    rows: Mapping[str, tuple[str, ...]]  # stem -> labels
    whole: bool


def load_rgb(path: Path) -> Raster:
    """An RGB picture, which lies nowhere. PatchError where it is broken or is no RGB."""
    return Raster(read_rgb(path), None, None)


class ClassFolders(Archive):
    """Pictures in `root/<top>/<class>/` for every top folder, or in `root/<top>/` where `flat`; labels by class.

    `tops` says the split of each top folder; `split_of` (by stem), where given, says it instead. Pictures of an archive
    are `named` so that no stem repeats, and the stem is the key; else split, class and stem are, made unique by a hash
    where they are not. Who derives from this sets `name` and `groups`.
    """

    def __init__(
        self,
        root: Path,
        classes: tuple[str, ...],
        tops: Mapping[str, str | None] = WHOLE,
        *,
        split_of: Mapping[str, str] | None = None,
        multilabels: Multilabels | None = None,
        flat: bool = False,
        named: bool = True,
        load: Callable[[Path], Raster] = load_rgb,
    ) -> None:
        self.root, self.classes, self.tops, self.split_of = root, classes, tops, split_of
        self.multilabels, self.flat, self.named, self.load = multilabels, flat, named, load
        self.nomenclatures = {"class": Nomenclature(classes, multi=False)}
        if multilabels is not None:
            self.nomenclatures["multilabel"] = Nomenclature(multilabels.names, multi=True)
        self.metadata_bytes = 1024

    @final
    def labels(self, source: Source) -> dict[str, tuple[str, ...]]:
        """Class, and multi-labels where there is a table. ValueError where it should have a row and has none."""
        labels: dict[str, tuple[str, ...]] = {"class": (source.label,)}
        if self.multilabels is not None:
            row = self.multilabels.rows.get(source.stem)
            if row is not None:
                labels["multilabel"] = row
            elif self.multilabels.whole:
                raise ValueError(f"{self.multilabels.file} has no row {source.stem!r}; add it or remove the picture")
        return labels

    @final
    def entries(self) -> tuple[list[Entry], list[Fault]]:
        """Pictures by key; files that are no pictures, folders of no known class and repeated keys are faults."""
        faults: list[Fault] = []
        entries: dict[str, Entry] = {}
        sources = list(self._pictures(faults))
        keys = {} if self.named else unique_keys({source.path: _long_name(source) for source in sources}, LONGEST_KEY)
        for source in sources:
            key = keys.get(source.path) or key_of(source.stem)
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
        """One picture and its labels. PatchError where the file is broken or has other bands."""
        source: Source = entry.source
        raster = self.load(self.root / source.path)
        images = {self.groups[0].name: raster.pixels}
        place = raster.crs, raster.bounds
        return Patch(entry.key, images, self.labels(source), source.split, *place, attributes={"file": source.path})

    @final
    def rgb_group(self, gsd_m: float | None) -> Group:
        """The group of 8-bit pictures, its shape from all headers."""
        return Group("rgb", "rgb", ("R", "G", "B"), "uint8", common_shape(self.headers()), gsd_m, "grey")

    @final
    def headers(self) -> Iterator[Header | None]:
        """What all pictures say of themselves, in the order of the folders."""
        return (read_header(self.root / source.path) for source in self._pictures([]))

    def _pictures(self, faults: list[Fault]) -> Iterator[Source]:
        """All pictures of known classes, by top folder, class and file name."""
        for top, split in self.tops.items():
            for item in listed(self.root / top):
                path = self.root / top / item.name
                if item.is_dir() and not self.flat:
                    for each in listed(path):
                        yield from self._picture(each, path / each.name, item.name, split, faults)
                elif self.flat:
                    yield from self._picture(item, path, re.sub(r"[_-]?\d+$", "", path.stem), split, faults)
                elif path.suffix.lower() in IMAGE_SUFFIXES:
                    faults.append(Fault(self._below(path), "lies in no class folder; move or remove it"))

    def _picture(
        self, item: os.DirEntry[str], path: Path, label: str, split: str | None, faults: list[Fault]
    ) -> Iterator[Source]:
        """The source that an item is, if it is one."""
        below, known = self._below(path), self._class_of(label)
        if not is_text(below):
            faults.append(Fault(shown(below), "its name is no UTF-8 text; rename it"))
        elif item.is_dir():
            faults.append(Fault(below, "is a folder inside a class folder, expected pictures; move it up or remove it"))
        elif path.suffix.lower() not in IMAGE_SUFFIXES:
            if _is_foreign(item.name):
                faults.append(Fault(below, f"is no picture, expected one of {', '.join(IMAGE_SUFFIXES)}; remove it"))
        elif known is None:
            nearest = difflib.get_close_matches(label, self.classes, n=1, cutoff=0.0)[0]
            faults.append(Fault(below, f"its class {label!r} is unknown; the nearest known is {nearest!r}"))
        else:
            yield Source(below, known, split if self.split_of is None else self.split_of.get(path.stem))

    def _class_of(self, name: str) -> str | None:
        """The class of that name, as it stands or else whatever its case and separators are (`bare_land`)."""
        plain = _plain(name)
        return name if name in self.classes else next((each for each in self.classes if _plain(each) == plain), None)

    def _below(self, path: Path) -> str:
        return path.relative_to(self.root).as_posix()


def inner(root: Path, usual: tuple[str, ...]) -> Path:
    """The first of the usual folders inside `root` that exists, else `root` itself. ValueError where it is none."""
    if not root.is_dir():
        raise ValueError(
            f"{root} is no folder, expected an archive of pictures. Give the path of the unpacked archive."
        )
    return next((root / name for name in usual if (root / name).is_dir()), root)


def listed(folder: Path) -> list[os.DirEntry[str]]:
    """Everything visible in a folder, by name."""
    with os.scandir(folder) as scan:
        return sorted(
            (item for item in scan if not item.name.startswith((".", "__MACOSX"))), key=lambda item: item.name
        )


def holds_folders(folder: Path) -> bool:
    """Whether there is any visible folder inside."""
    return any(item.is_dir() for item in listed(folder))


def _is_foreign(name: str) -> bool:
    path = Path(name.lower())
    return path.suffix not in SIDECAR_SUFFIXES and path.stem not in DOCUMENTS


def _long_name(source: Source) -> str:
    """Class and stem, after the split where there is one."""
    return "_".join(filter(None, (source.split, source.label, source.stem)))


def _plain(name: str) -> str:
    return re.sub(r"[\s_-]", "", name.lower())
