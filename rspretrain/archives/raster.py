"""Read and write raster files without changing pixels. Every failure becomes a PatchError that names the file."""

import contextlib
import functools
import os
import warnings
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import rasterio
import rasterio.warp
from affine import Affine
from numpy.typing import NDArray
from rasterio._err import CPLE_BaseError  # GDAL errors without an own class in rasterio
from rasterio.crs import CRS
from rasterio.enums import ColorInterp
from rasterio.errors import CRSError, NotGeoreferencedWarning, RasterioError

from rspretrain.archives import tiff
from rspretrain.patch import PatchError

# Do not list the folder of a file (far slower on a network). A truncated JPEG or PNG is an error: GDAL's defaults read
# such files silently and fill in the missing pixels.
_OPTIONS = {
    "GDAL_DISABLE_READDIR_ON_OPEN": "EMPTY_DIR",
    "GDAL_ERROR_ON_LIBJPEG_WARNING": "TRUE",
    "GDAL_PNG_WHOLE_IMAGE_OPTIM": "NO",
    "GDAL_PAM_ENABLED": "NO",
}
# CRS by GeoKeys, as rasterio reported it for the first such file: asking again takes ten times longer than reading a
# patch. Only files whose pixels are areas are cached: with pixels as points, the bounds are shifted by half a pixel.
_CRS_OF_GEO_KEYS: dict[tiff.GeoKeys, str | None] = {}
# UnicodeError: damaged CRS name. MemoryError: damaged size.
ERRORS = (RasterioError, CPLE_BaseError, CRSError, OSError, UnicodeError, MemoryError)
_MAX_BYTES = 1 << 31  # bytes of pixels; a damaged header may claim more than fits into memory
_COLOUR = {ColorInterp.red: 0, ColorInterp.green: 1, ColorInterp.blue: 2}


@dataclass(frozen=True)
class Raster:
    """All bands of one file, and its georeference if the file has one."""

    pixels: NDArray[np.generic]  # [C H W] in the file's own dtype
    crs: str | None  # "EPSG:32633", or WKT
    bounds: tuple[float, float, float, float] | None  # left, bottom, right, top in units of the CRS


def read_raster(path: Path) -> Raster:
    """Read all bands of one file; `pixels` may be read-only. PatchError if it is missing, unreadable or truncated."""
    plain = _read_plain(path)
    if plain is not None and plain.geo_keys in _CRS_OF_GEO_KEYS:
        crs = _CRS_OF_GEO_KEYS[plain.geo_keys]
        return Raster(plain.pixels, crs, plain.bounds if crs else None)
    try:
        with _open_quietly(path) as source:
            crs = _crs_name(source.crs.to_wkt()) if source.crs else None
            bounds = tuple(float(edge) for edge in source.bounds) if crs and np.isfinite(source.bounds).all() else None
            if plain is not None and source.tags().get("AREA_OR_POINT") == "Area":
                if len(_CRS_OF_GEO_KEYS) > 1024:
                    _CRS_OF_GEO_KEYS.clear()
                _CRS_OF_GEO_KEYS[plain.geo_keys] = crs
            return Raster(_all_bands(source), crs, bounds)  # type: ignore[arg-type]
    except ERRORS as error:
        raise _unreadable(path, error) from error


def read_rgb(path: Path) -> NDArray[np.uint8]:
    """Read an 8-bit image as red, green, blue [3 H W]; grey and palette images are expanded without loss.

    PatchError for images that cannot be converted without loss: 16 bits, CMYK, an alpha band that is not opaque.
    """
    try:
        with _open_quietly(path) as source:
            bands, roles = _all_bands(source), list(source.colorinterp)
            palette = source.colormap(1) if roles[0] == ColorInterp.palette else None
            depth = source.tags(1, ns="IMAGE_STRUCTURE").get("NBITS", "8")
    except ERRORS as error:
        raise _unreadable(path, error) from error
    if bands.dtype != np.uint8 or (palette is None and depth != "8"):
        found = f"{bands.dtype} pixels" if depth == "8" else f"{depth}-bit pixels"
        raise PatchError(f"{path}: {found}, expected uint8. Convert the file to 8 bits per band first.")
    if palette is not None:
        table = np.array([palette.get(index, (0, 0, 0, 255)) for index in range(256)], dtype=np.uint8)  # [256 RGBA]
        bands, roles = np.moveaxis(table[bands[0]], -1, 0), [*_COLOUR, ColorInterp.alpha]
    return _to_rgb(path, bands, roles)


def write_raster(path: Path, pixels: NDArray[np.generic], epsg: int, left: float, top: float, gsd_m: float) -> None:
    """Write [C H W] as a north-up, uncompressed GeoTIFF. Equal arrays give equal bytes."""
    bands, height, width = pixels.shape
    georeference = {"crs": _crs_of(epsg), "transform": Affine(gsd_m, 0.0, left, 0.0, -gsd_m, top)}
    shape = {"count": bands, "height": height, "width": width, "dtype": pixels.dtype.name}
    with rasterio.Env(**_OPTIONS), rasterio.open(path, "w", driver="GTiff", **shape, **georeference) as target:
        target.write(pixels)


def crs_of_wkt(wkt: str) -> str | None:
    """ "EPSG:nnnn" of a WKT if PROJ knows its code, else the WKT; None if it is not a CRS."""
    try:
        return _crs_name(wkt)
    except CRSError:
        return None


def to_degrees(crs: str, xs: NDArray[np.float64], ys: NDArray[np.float64]) -> NDArray[np.float64]:
    """Longitude and latitude [... 2] in degrees of points [...] in units of `crs`; NaN if they cannot be transformed.

    `crs` as in a patch: "EPSG:32633", or WKT.
    """
    degrees = np.full((*xs.shape, 2), np.nan)
    if not xs.size:
        return degrees
    try:
        lon, lat = rasterio.warp.transform(
            CRS.from_user_input(crs), CRS.from_epsg(4326), xs.ravel().tolist(), ys.ravel().tolist()
        )
    except CRSError:
        return degrees
    degrees[..., 0], degrees[..., 1] = np.reshape(lon, xs.shape), np.reshape(lat, xs.shape)
    degrees[~np.isfinite(degrees).all(-1)] = np.nan
    return degrees


def _read_plain(path: Path) -> tiff.Plain | None:
    try:
        with path.open("rb", buffering=0) as file:
            return tiff.read_plain(file.read()) if os.fstat(file.fileno()).st_size <= tiff.MAX_BYTES else None
    except OSError:
        return None  # rasterio reports the error


def _to_rgb(path: Path, bands: NDArray[np.uint8], roles: list[ColorInterp]) -> NDArray[np.uint8]:
    if ColorInterp.alpha in roles:
        if (bands[roles.index(ColorInterp.alpha)] != 255).any():
            raise PatchError(f"{path}: the alpha band is not opaque everywhere, expected RGB. Flatten the image first.")
        colour = [index for index, role in enumerate(roles) if role != ColorInterp.alpha]
        bands, roles = bands[colour], [roles[index] for index in colour]
    if len(roles) == 1:
        return np.repeat(bands, 3, axis=0)
    if len(roles) != 3 or ColorInterp.cyan in roles:
        names = ", ".join(role.name for role in roles)
        raise PatchError(f"{path}: bands ({names}), expected red, green, blue. Convert the file to RGB first.")
    if set(roles) == set(_COLOUR):
        bands = bands[[roles.index(role) for role in _COLOUR]]
    return np.ascontiguousarray(bands)


@contextlib.contextmanager
def _open_quietly(path: Path) -> Iterator[rasterio.DatasetReader]:
    with rasterio.Env(**_OPTIONS), warnings.catch_warnings():  # the options must also apply while pixels are read
        warnings.simplefilter("ignore", NotGeoreferencedWarning)
        with rasterio.open(path) as source:
            yield source


def _all_bands(source: rasterio.DatasetReader) -> NDArray[Any]:
    size = source.count * source.height * source.width * np.dtype(source.dtypes[0]).itemsize
    if size > _MAX_BYTES:
        raise MemoryError(
            f"{source.count} x {source.height} x {source.width} pixels, expected {_MAX_BYTES >> 30} GiB at most"
        )
    return np.asarray(source.read())


@functools.lru_cache(maxsize=1024)  # PROJ takes longer than reading a patch; an archive has a few dozen CRS
def _crs_name(wkt: str) -> str:
    code = CRS.from_wkt(wkt).to_epsg()
    return wkt if code is None else f"EPSG:{code}"


@functools.lru_cache(maxsize=128)
def _crs_of(epsg: int) -> CRS:
    return CRS.from_epsg(epsg)


def _unreadable(path: Path, error: Exception) -> PatchError:
    if not path.exists():
        return PatchError(f"{path}: the file is missing. Unpack or download the archive again.")
    cause = error.__cause__ or error
    return PatchError(f"{path}: cannot be read ({cause}). Unpack or download the file again.")
