"""Base of archives of labelled images: one folder per class, or one folder of images named after their class.

Images keep their size (44 of UC-Merced's are not 256 x 256); the views resize them.
"""

import difflib
import os
import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import final

from rspretrain.archives.base import Archive, Entry, Nomenclature, display_name, is_text, unique_keys
from rspretrain.archives.headers import Header, common_shape, read_header
from rspretrain.archives.raster import Raster, read_rgb
from rspretrain.patch import Fault, Patch, key_of
from rspretrain.sensors import Group

IMAGE_SUFFIXES = (".jpg", ".jpeg", ".png", ".tif", ".tiff", ".bmp")
SIDECAR_SUFFIXES = (
    ".txt", ".csv", ".md", ".xml", ".json", ".db", ".ini", ".tfw", ".jgw", ".pgw", ".html", ".pdf", ".aux", ".ovr",
)  # fmt: skip
DOCUMENTS = ("readme", "license", "licence", "copying", "citation")  # with or without a suffix
MAX_KEY_BYTES = 80  # bytes; with ".rgb.npy" and a codec's suffix below the 100 of a tar name
WHOLE: Mapping[str, str | None] = {"": None}  # an archive without split folders


@dataclass(frozen=True)
class Source:
    """One image: its path below the root of the class folders, its class and its split."""

    path: str
    label: str
    split: str | None

    @property
    def stem(self) -> str:
        """The file name without suffix."""
        return Path(self.path).stem


@dataclass(frozen=True)
class Multilabels:
    """A table of multi-labels. `complete`: an image without a row is a fault; else it has no multi-labels."""

    file: str
    names: tuple[str, ...]
    rows: Mapping[str, tuple[str, ...]]  # stem -> labels
    complete: bool


def load_rgb(path: Path) -> Raster:
    """Read an RGB image without georeference. PatchError if it is damaged or not RGB."""
    return Raster(read_rgb(path), None, None)


class ClassFolders(Archive):
    """Images in `root/<top>/<class>/` for every top folder, or in `root/<top>/` if `flat`; labels are class names.

    `tops` maps each top folder to its split; `split_of` (by stem) overrides it. With `unique_stems` the key is the file
    stem, else split, class and stem, with a hash for duplicates. Subclasses set `name` and `groups`.
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
        unique_stems: bool = True,
        load: Callable[[Path], Raster] = load_rgb,
    ) -> None:
        self.root, self.classes, self.tops, self.split_of = root, classes, tops, split_of
        self.multilabels, self.flat, self.unique_stems, self.load = multilabels, flat, unique_stems, load
        self.nomenclatures = {"class": Nomenclature(classes, multi=False)}
        if multilabels is not None:
            self.nomenclatures["multilabel"] = Nomenclature(multilabels.names, multi=True)
        self.metadata_bytes = 1024

    @final
    def labels(self, source: Source) -> dict[str, tuple[str, ...]]:
        """The class, and the multi-labels if there is a table. ValueError if a required row is missing."""
        labels: dict[str, tuple[str, ...]] = {"class": (source.label,)}
        if self.multilabels is not None:
            row = self.multilabels.rows.get(source.stem)
            if row is not None:
                labels["multilabel"] = row
            elif self.multilabels.complete:
                raise ValueError(f"{self.multilabels.file} has no row {source.stem!r}; add it or remove the image")
        return labels

    @final
    def entries(self) -> tuple[list[Entry], list[Fault]]:
        """Images sorted by key. Other files, folders of unknown classes and repeated keys are faults."""
        faults: list[Fault] = []
        entries: dict[str, Entry] = {}
        sources = list(self._images(faults))
        keys = (
            {}
            if self.unique_stems
            else unique_keys({source.path: _long_name(source) for source in sources}, MAX_KEY_BYTES)
        )
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
        """Read one image and its labels. PatchError if the file is damaged or has other bands."""
        source: Source = entry.source
        raster = self.load(self.root / source.path)
        images = {self.groups[0].name: raster.pixels}
        return Patch(
            entry.key,
            images,
            self.labels(source),
            source.split,
            raster.crs,
            raster.bounds,
            attributes={"file": source.path},
        )

    @final
    def rgb_group(self, gsd_m: float | None) -> Group:
        """The group of 8-bit images; its shape comes from all headers."""
        return Group("rgb", "rgb", ("R", "G", "B"), "uint8", common_shape(self.headers()), gsd_m, "grey")

    @final
    def headers(self) -> Iterator[Header | None]:
        """The headers of all images, in the order of the folders."""
        return (read_header(self.root / source.path) for source in self._images([]))

    def _images(self, faults: list[Fault]) -> Iterator[Source]:
        """All images of known classes, by top folder, class and file name."""
        for top, split in self.tops.items():
            for item in visible_items(self.root / top):
                path = self.root / top / item.name
                if item.is_dir() and not self.flat:
                    for each in visible_items(path):
                        yield from self._image(each, path / each.name, item.name, split, faults)
                elif self.flat:
                    yield from self._image(item, path, re.sub(r"[_-]?\d+$", "", path.stem), split, faults)
                elif path.suffix.lower() in IMAGE_SUFFIXES:
                    faults.append(Fault(self._below(path), "is in no class folder; move or remove it"))

    def _image(
        self, item: os.DirEntry[str], path: Path, label: str, split: str | None, faults: list[Fault]
    ) -> Iterator[Source]:
        """Yield the source of an item, if it is an image."""
        below, known = self._below(path), self._class_of(label)
        if not is_text(below):
            faults.append(Fault(display_name(below), "its name is not UTF-8; rename it"))
        elif item.is_dir():
            faults.append(Fault(below, "is a folder inside a class folder, expected images; move it up or remove it"))
        elif path.suffix.lower() not in IMAGE_SUFFIXES:
            if _is_foreign(item.name):
                faults.append(Fault(below, f"is not an image, expected one of {', '.join(IMAGE_SUFFIXES)}; remove it"))
        elif known is None:
            nearest = difflib.get_close_matches(label, self.classes, n=1, cutoff=0.0)[0]
            faults.append(Fault(below, f"its class {label!r} is unknown; the nearest known is {nearest!r}"))
        else:
            yield Source(below, known, split if self.split_of is None else self.split_of.get(path.stem))

    def _class_of(self, name: str) -> str | None:
        """The class of that name; case and separators may differ (`bare_land`)."""
        plain = _plain(name)
        return name if name in self.classes else next((each for each in self.classes if _plain(each) == plain), None)

    def _below(self, path: Path) -> str:
        return path.relative_to(self.root).as_posix()


def find_root(root: Path, names: tuple[str, ...]) -> Path:
    """The first existing folder `root/<name>`, else `root` itself. ValueError if `root` is not a folder."""
    if not root.is_dir():
        raise ValueError(
            f"{root} is not a folder, expected an archive of images. Give the path of the unpacked archive."
        )
    return next((root / name for name in names if (root / name).is_dir()), root)


def visible_items(folder: Path) -> list[os.DirEntry[str]]:
    """All files and folders in a folder that are not hidden, sorted by name."""
    with os.scandir(folder) as scan:
        return sorted(
            (item for item in scan if not item.name.startswith((".", "__MACOSX"))), key=lambda item: item.name
        )


def has_subfolders(folder: Path) -> bool:
    """Whether a folder has a subfolder that is not hidden."""
    return any(item.is_dir() for item in visible_items(folder))


def _is_foreign(name: str) -> bool:
    path = Path(name.lower())
    return path.suffix not in SIDECAR_SUFFIXES and path.stem not in DOCUMENTS


def _long_name(source: Source) -> str:
    """Split (if any), class and stem."""
    return "_".join(filter(None, (source.split, source.label, source.stem)))


def _plain(name: str) -> str:
    return re.sub(r"[\s_-]", "", name.lower())
