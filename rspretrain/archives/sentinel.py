"""Patches of Sentinel-1 and Sentinel-2 as both versions of BigEarthNet store them: a folder a sensor, a GeoTIFF a band.

Sumbul et al. 2019 and 2021, Clasen et al. 2024; methods.md G.1 and G.3. All files of a patch show one square of 1.2 km.
Sentinel-1 stays float32 decibels (readers that ask for int32 truncate it), Sentinel-2 stays uint16.
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
_FILE_OF = {"clc": "reference_map"}  # every other band's file is named after the band itself
_SHIFT_M = 5.0  # half a pixel of 10 m: files of one patch that lie further apart do not show the same square
_SEASONS = ("winter", "spring", "summer", "fall")  # three months each, winter from December; the archives are northern

# What is read of one sensor of one patch: the folder of its files, and the groups that they make up.
Side = tuple[Path, tuple[Group, ...]]


def existing(folder: Path, usual: str) -> Path:
    """The folder itself, or the one of the usual name inside it. ValueError where it is no folder."""
    if not folder.is_dir():
        raise ValueError(f"{folder} is no folder, expected {usual}. Give the path of the unpacked archive.")
    return folder / usual if (folder / usual).is_dir() else folder


def folders_in(root: Path) -> list[str]:
    """Sorted names of the folders in a folder; loose files and hidden folders are not looked at."""
    with os.scandir(root) as scan:
        return sorted(item.name for item in scan if not item.name.startswith((".", "__MACOSX")) and item.is_dir())


def read_sides(sides: Sequence[Side]) -> tuple[dict[str, NDArray[np.generic]], list[Raster]]:
    """Arrays [C H W] by group name, and the first raster of every side.

    PatchError, naming the file, where one is missing, cut, of another dtype or size, or shows another square.
    """
    images: dict[str, NDArray[np.generic]] = {}
    firsts: list[Raster] = []
    for folder, groups in sides:
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
        f"{file.name}: lies at {raster.crs} {raster.bounds}, expected {first.crs} {first.bounds}. Check the pair."
    )
