"""EuroSAT: 27,000 Sentinel-2 (L1C) patches of 64 x 64 px in ten classes, with all 13 bands or as RGB images.

Helber et al. 2019; docs/methods.md, RGB scenes and EuroSAT. On disk, B8A is the last band.
"""

from pathlib import Path
from typing import Literal, final

import numpy as np

from rspretrain.archives.class_folders import ClassFolders, load_rgb, visible_items
from rspretrain.archives.headers import common_dtype, common_shape
from rspretrain.archives.raster import Raster, read_raster
from rspretrain.archives.tables import read_splits
from rspretrain.patch import PatchError
from rspretrain.sensors import BAND_ORDER, Group

CLASSES = (
    "AnnualCrop", "Forest", "HerbaceousVegetation", "Highway", "Industrial", "Pasture", "PermanentCrop", "Residential",
    "River", "SeaLake",
)  # fmt: skip
BANDS_ON_DISK = ("B01", "B02", "B03", "B04", "B05", "B06", "B07", "B08", "B09", "B10", "B11", "B12", "B8A")
_CANONICAL = [BANDS_ON_DISK.index(band) for band in BAND_ORDER["s2"]]
# Parents of the class folders in the known downloads, relative to the unpacked folder or any folder below it.
_DEEP = ("ds", "images", "remote_sensing", "otherDatasets", "sentinel_2", "tif")
FOLDERS = (
    "", "EuroSAT_MS", "EuroSAT_RGB", "2750", "EuroSAT", "EuroSATallBands", "EuroSAT/2750", "EuroSAT/allBands",
    *("/".join(_DEEP[level:]) for level in range(len(_DEEP))),
)  # fmt: skip
_SUFFIXES = {".tif": "ms", ".tiff": "ms", ".jpg": "rgb", ".jpeg": "rgb", ".png": "rgb"}


@final
class EuroSat(ClassFolders):
    """Thirteen bands if `root` holds TIFFs, RGB if it holds JPEGs; `bands` chooses if it holds both.

    `root` is the parent of the class folders, or the unpacked download. `splits` holds `eurosat-train.txt`, `-val` and
    `-test` (their `.jpg` names also stand for the TIFFs); `spatial` uses the lists `eurosat-spatial-…`, split by
    longitude.
    """

    def __init__(
        self,
        root: Path,
        splits: Path | None = None,
        bands: Literal["ms", "rgb"] | None = None,
        spatial: bool = False,
    ) -> None:
        if spatial and splits is None:
            raise ValueError("EuroSAT got spatial=true without splits, expected both. Give --source splits=FOLDER.")
        self.name = "eurosat"
        kind, folder = _choose(Path(root), bands)
        prefix = "eurosat-spatial" if spatial else "eurosat"
        super().__init__(
            folder,
            CLASSES,
            split_of=None if splits is None else read_splits(Path(splits), prefix),
            load=load_rgb if kind == "rgb" else load_ms,
        )
        self.groups = (self.rgb_group(10.0) if kind == "rgb" else self._ms_group(),)

    def _ms_group(self) -> Group:
        headers = list(self.headers())
        dtype = common_dtype(headers, "uint16")
        return Group("s2_10m", "s2", BAND_ORDER["s2"], dtype, common_shape(headers), 10.0, "dn")


def load_ms(path: Path) -> Raster:
    """Read all bands in canonical order. PatchError if the file is damaged or does not have 13 bands."""
    raster = read_raster(path)
    if len(raster.pixels) != len(BANDS_ON_DISK):
        raise PatchError(f"{path}: {len(raster.pixels)} bands, expected {len(BANDS_ON_DISK)}. Download the file again.")
    return Raster(np.ascontiguousarray(raster.pixels[_CANONICAL]), raster.crs, raster.bounds)


def _choose(root: Path, bands: Literal["ms", "rgb"] | None) -> tuple[str, Path]:
    """The kind of images (ms or rgb) and the parent of their class folders. ValueError unless exactly one is found."""
    found = {root / folder: kind for folder in FOLDERS if (kind := _kind_of(root / folder)) and bands in (None, kind)}
    if len(found) != 1:
        there = ", ".join(f"{folder} ({kind})" for folder, kind in found.items()) or "no class folders"
        raise ValueError(
            f"{root} holds {there}, expected one folder with {CLASSES[0]} and the other classes"
            f"{' of ' + bands if bands else ''}. Give that folder, or choose with --option bands=ms or bands=rgb."
        )
    ((folder, kind),) = found.items()
    return kind, folder


def _kind_of(folder: Path) -> str | None:
    """The kind of the first image in a class folder, if there is one."""
    for name in CLASSES:
        for item in visible_items(folder / name) if (folder / name).is_dir() else ():
            if kind := _SUFFIXES.get(Path(item.name).suffix.lower()):
                return kind
    return None
