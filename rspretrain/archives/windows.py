"""Read windows of raster files without changing pixels. Only this module and raster.py use rasterio.

GDAL decodes whole blocks (1024 x 1024 pixels in many archives) and caches them while their file is open, so files stay
open between reads. Every failure becomes a PatchError that names the file.
"""

import functools
import os
import warnings
from collections import OrderedDict
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import rasterio
import rasterio.warp
from numpy.typing import NDArray
from rasterio.crs import CRS
from rasterio.enums import ColorInterp, MaskFlags
from rasterio.errors import NotGeoreferencedWarning
from rasterio.windows import Window

from rspretrain.archives.raster import ERRORS, crs_of_wkt
from rspretrain.archives.tiling import Grid
from rspretrain.patch import PatchError

# Do not list the folder of a file (far slower on a network), and ignore sidecar files that override its metadata.
# A truncated JPEG block is an error: GDAL's default fills in the missing pixels.
_OPTIONS = {
    "GDAL_DISABLE_READDIR_ON_OPEN": "EMPTY_DIR",
    "GDAL_PAM_ENABLED": "NO",
    "GDAL_ERROR_ON_LIBJPEG_WARNING": "TRUE",
}
# Open files per process: the 13 band files of 20 scenes, below the usual limit of 1024 descriptors.
MAX_OPEN = 256
# Pixels in degrees or of warped files differ from these by up to 10 %.
_NOMINAL_M = {"s1": (10.0, 20.0, 40.0), "s2": (10.0, 20.0, 60.0)}
_COLOURS = {ColorInterp.red: "R", ColorInterp.green: "G", ColorInterp.blue: "B"}


@dataclass(frozen=True)
class Profile:
    """The metadata of one file."""

    path: Path
    grid: Grid
    dtype: str  # numpy name, the same for all bands
    nodata: float | None  # the tag of the file, possibly NaN
    names: tuple[str, ...]  # per band: description, else colour, else ""
    parts: tuple[Path, ...]  # source files of a VRT
    masked: bool  # whether it has a mask or an alpha band

    @property
    def count(self) -> int:
        """Number of bands."""
        return len(self.names)


def read_profile(path: Path) -> Profile:
    """Read the metadata of one file. PatchError if it cannot be opened or its grid is not north up."""
    try:
        with rasterio.Env(**_OPTIONS), _no_warnings(), rasterio.open(path) as source:
            crs = crs_of_wkt(source.crs.to_wkt()) if source.crs else None
            matrix, descriptions = source.transform, source.descriptions
            colours = [_COLOURS.get(role, "") for role in source.colorinterp]
            names = tuple(text or colour for text, colour in zip(descriptions, colours, strict=True))
            kinds, tags = set(source.dtypes), {str(tag) for tag in source.nodatavals}
            nodata = None if source.nodata is None else float(source.nodata)
            files = tuple(Path(os.path.abspath(file)) for file in source.files if Path(file) != path)
            masked = MaskFlags.per_dataset in source.mask_flag_enums[0]
            size = source.width, source.height
    except ERRORS as error:
        raise _unreadable(path, error) from error
    if len(kinds) > 1 or len(tags) > 1:
        raise PatchError(f"{path}: bands of {sorted(kinds)} with nodata {sorted(tags)}, expected one. Split the file.")
    if crs is None:  # pixel coordinates, rows downwards
        grid = Grid(None, 0.0, 0.0, 1.0, -1.0, *size)
    elif matrix.b or matrix.d or not (matrix.a > 0 and matrix.e < 0 and np.isfinite(matrix).all()):
        raise PatchError(f"{path}: its grid is {tuple(matrix)[:6]}, expected north up. Warp it with gdalwarp first.")
    else:
        grid = Grid(crs, matrix.c, matrix.f, matrix.a, matrix.e, *size)
    return Profile(path, grid, kinds.pop(), nodata, names, files, masked)


def read_window(path: Path, bands: tuple[int, ...], row: int, col: int, height: int, width: int) -> NDArray[np.generic]:
    """Read a window [C H W] of the bands (counted from 1), in the dtype of the file.

    PatchError if it cannot be read.
    """
    try:
        with rasterio.Env(**_OPTIONS):
            pixels: NDArray[np.generic] = _opened(path).read(list(bands), window=Window(col, row, width, height))
    except ERRORS as error:
        raise _unreadable(path, error) from error
    if pixels.shape[1:] != (height, width):
        raise PatchError(f"{path}: the window is {pixels.shape[1:]}, expected {(height, width)}. The file has changed.")
    return pixels


def read_mask(path: Path, row: int, col: int, height: int, width: int) -> NDArray[np.bool_]:
    """[H W] True where the mask or alpha band of the file marks valid data. PatchError if it cannot be read."""
    try:
        with rasterio.Env(**_OPTIONS):
            return np.asarray(_opened(path).dataset_mask(window=Window(col, row, width, height)) != 0)
    except ERRORS as error:
        raise _unreadable(path, error) from error


def close_files() -> None:
    """Close the files that `read_window` keeps open in this process."""
    while _open:
        _open.popitem()[1].close()


@functools.lru_cache(maxsize=1024)
def metres_per_unit(crs: str) -> float:
    """Length of one unit of a CRS in metres; of a degree: along a meridian (111.32 km)."""
    known = CRS.from_user_input(crs)
    return 111_320.0 if known.is_geographic else float(known.linear_units_factor[1])


def nominal_gsd_m(sensor: str, grid: Grid) -> float | None:
    """Row spacing in metres: the nominal value of the sensor (10, 20, …) within 10 %, else rounded to two digits."""
    if grid.crs is None:
        return None
    metres = -grid.dy * metres_per_unit(grid.crs)
    near = [nominal for nominal in _NOMINAL_M.get(sensor, ()) if abs(metres / nominal - 1) < 0.1]
    return near[0] if near else float(f"{metres:.2g}")


def latitude(crs: str, x: float, y: float) -> float:
    """Latitude in degrees of a point of a CRS."""
    return float(rasterio.warp.transform(CRS.from_user_input(crs), CRS.from_epsg(4326), [x], [y])[1][0])


_open: OrderedDict[Path, rasterio.DatasetReader] = OrderedDict()  # of this process, most recently used last


def _opened(path: Path) -> rasterio.DatasetReader:
    if path in _open:
        _open.move_to_end(path)
        return _open[path]
    while len(_open) >= MAX_OPEN:
        _open.popitem(last=False)[1].close()
    with _no_warnings():
        _open[path] = rasterio.open(path)
    return _open[path]


def _no_warnings() -> "warnings.catch_warnings[None]":
    return warnings.catch_warnings(action="ignore", category=NotGeoreferencedWarning)


def _unreadable(path: Path, error: Exception) -> PatchError:
    if not path.exists():
        return PatchError(f"{path}: the file is missing. Unpack or download the archive again.")
    return PatchError(f"{path}: cannot be read ({error.__cause__ or error}). Unpack or download the file again.")
