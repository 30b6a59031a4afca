"""Sentinel-1 and Sentinel-2 patches of both versions of BigEarthNet: one folder per sensor, one GeoTIFF per band.

Sumbul et al. 2019 and 2021, Clasen et al. 2024; docs/methods.md, BigEarthNet v1 and v2. All files of a patch cover the
same 1.2 km. Sentinel-1 stays float32 decibels (readers that convert to int32 truncate it), Sentinel-2 stays uint16.
"""

import os
from collections.abc import Sequence
from datetime import datetime
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from rspretrain.archives.raster import Raster, read_raster
from rspretrain.patch import PatchError
from rspretrain.sensors import Group

S1_GROUPS = (Group("s1_10m", "s1", ("VV", "VH"), "float32", (120, 120), 10.0, "db"),)
S2_GROUPS = (
    Group("s2_10m", "s2", ("B02", "B03", "B04", "B08"), "uint16", (120, 120), 10.0, "dn"),
    Group("s2_20m", "s2", ("B05", "B06", "B07", "B8A", "B11", "B12"), "uint16", (60, 60), 20.0, "dn"),
    Group("s2_60m", "s2", ("B01", "B09"), "uint16", (20, 20), 60.0, "dn"),
)
MAP_GROUPS = (Group("map_10m", "map", ("clc",), "uint16", (120, 120), 10.0, "class", nodata=999.0),)
_FILE_OF = {"clc": "reference_map"}  # all other files are named after their band
_SHIFT_M = 5.0  # half a pixel of 10 m: larger shifts between the files of a patch are an error
_SEASONS = ("winter", "spring", "summer", "fall")  # three months each, winter from December; the archives are northern

# The folder of one sensor of a patch, and the groups that its files form.
PatchFolder = tuple[Path, tuple[Group, ...]]


def find_folder(folder: Path, name: str) -> Path:
    """`folder/<name>` if it exists, else `folder` itself. ValueError if `folder` does not exist."""
    if not folder.is_dir():
        raise ValueError(f"{folder} is not a folder, expected {name}. Give the path of the unpacked archive.")
    return folder / name if (folder / name).is_dir() else folder


def folders_in(root: Path) -> list[str]:
    """Sorted names of the subfolders of a folder, without hidden ones."""
    with os.scandir(root) as scan:
        return sorted(item.name for item in scan if not item.name.startswith((".", "__MACOSX")) and item.is_dir())


def read_patch_folders(parts: Sequence[PatchFolder]) -> tuple[dict[str, NDArray[np.generic]], list[Raster]]:
    """Arrays [C H W] by group name, and the first raster of every folder.

    PatchError, naming the file, if one is missing or truncated, or has another dtype, size or location.
    """
    images: dict[str, NDArray[np.generic]] = {}
    firsts: list[Raster] = []
    for folder, groups in parts:
        files = {band: band_file(folder, band) for group in groups for band in group.bands}
        rasters = {band: read_raster(file) for band, file in files.items()}
        firsts.append(next(iter(rasters.values())))
        for group in groups:
            for band in group.bands:
                _check(files[band], group, rasters[band], firsts[0])
            images[group.name] = np.concatenate([rasters[band].pixels for band in group.bands])
    return images, firsts


def band_file(folder: Path, band: str) -> Path:
    """`<patch>/<patch>_B02.tif`."""
    return folder / f"{folder.name}_{_FILE_OF.get(band, band)}.tif"


def season_of(date: datetime) -> str:
    """ "winter" (December to February), "spring", "summer" or "fall"."""
    return _SEASONS[date.month % 12 // 3]


def _check(file: Path, group: Group, raster: Raster, first: Raster) -> None:
    dtype, shape, expected = raster.pixels.dtype, raster.pixels.shape, (1, *(group.shape or ()))
    if dtype != np.dtype(group.dtype) or shape != expected:
        raise PatchError(
            f"{file.name}: {dtype.name} {shape}, expected {group.dtype} {expected}. Download the file again."
        )
    if raster.bounds is None or first.bounds is None:
        return
    if raster.crs == first.crs and (
        raster.bounds == first.bounds or np.abs(np.subtract(raster.bounds, first.bounds)).max() <= _SHIFT_M
    ):
        return
    raise PatchError(
        f"{file.name}: is at {raster.crs} {raster.bounds}, expected {first.crs} {first.bounds}. Check the pair."
    )
