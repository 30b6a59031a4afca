"""Coordinates of any CRS to longitude and latitude, by PROJ."""

import numpy as np
from numpy.typing import NDArray
from rasterio.crs import CRS
from rasterio.errors import CRSError
from rasterio.warp import transform


def to_degrees(crs: str, xs: NDArray[np.float64], ys: NDArray[np.float64]) -> NDArray[np.float64]:
    """[... 2] longitude and latitude in degrees of points [...] in units of `crs`; NaN where it is no place on Earth.

    `crs` is what a patch says: "EPSG:32633", or WKT.
    """
    degrees = np.full((*xs.shape, 2), np.nan)
    if not xs.size:
        return degrees
    try:
        lon, lat = transform(CRS.from_user_input(crs), CRS.from_epsg(4326), xs.ravel().tolist(), ys.ravel().tolist())
    except CRSError:
        return degrees
    degrees[..., 0], degrees[..., 1] = np.reshape(lon, xs.shape), np.reshape(lat, xs.shape)
    degrees[~np.isfinite(degrees).all(-1)] = np.nan
    return degrees
