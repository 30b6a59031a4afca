"""Tiny scenes: a GeoTIFF (or COG) with many bands, or a folder with one file per band at mixed resolutions."""

import warnings
from pathlib import Path

import numpy as np
import rasterio
from affine import Affine
from rasterio.crs import CRS
from rasterio.errors import NotGeoreferencedWarning

S2_BANDS = {"B02": 1, "B8A": 2, "B04": 1, "B01": 6}  # band -> its resolution in units of 10 m


def write_file(path, pixels, gsd=10.0, left=500_000.0, top=5_000_000.0, crs="EPSG:32633", names=(), **profile):
    """Write one file of [C H W] pixels, north up; `profile` goes to rasterio (driver, nodata, blockxsize, …)."""
    path.parent.mkdir(parents=True, exist_ok=True)
    bands, height, width = pixels.shape
    georeference = {"crs": CRS.from_user_input(crs), "transform": Affine(gsd, 0, left, 0, -gsd, top)} if crs else {}
    shape = {"count": bands, "height": height, "width": width, "dtype": pixels.dtype}
    made = {"driver": "GTiff", **shape, **georeference, **profile}
    quiet = warnings.catch_warnings(action="ignore", category=NotGeoreferencedWarning)
    with quiet, rasterio.open(path, "w", **made) as target:
        target.write(pixels)
        for number, name in enumerate(names, 1):
            target.set_band_description(number, name)
    return path


def noise(bands=1, height=48, width=60, dtype="uint16", seed=0):
    """[C H W] random values without 0, which is nodata in tests."""
    rng = np.random.default_rng(seed)
    if np.dtype(dtype).kind == "f":
        return rng.normal(-12, 4, (bands, height, width)).astype(dtype)
    return rng.integers(1, min(np.iinfo(dtype).max, 10_000), (bands, height, width)).astype(dtype)


def write_band_folder(folder, bands=S2_BANDS, height=48, width=60, seed=0, prefix="", **options):
    """One file per band: `folder/B02.tif`, … of height x width pixels of 10 m, fewer for the coarser bands."""
    for number, (band, times) in enumerate(bands.items()):
        pixels = noise(1, height // times, width // times, seed=seed + number)
        write_file(folder / f"{prefix}{band}.tif", pixels, 10.0 * times, **options)
    return folder


def write_s1(path, height=48, width=60, seed=100, **options):
    """Write one file with the bands VV and VH in float32 decibels."""
    return write_file(path, noise(2, height, width, "float32", seed), names=("VV", "VH"), **options)


def write_vrt(path, files):
    """Write a VRT that stacks single-band files of one grid by relative names."""
    with rasterio.open(files[0]) as first:
        width, height, crs, transform, kind = first.width, first.height, first.crs, first.transform, first.dtypes[0]
    gdal = {"uint16": "UInt16", "float32": "Float32", "uint8": "Byte"}[kind]
    size = f'xOff="0" yOff="0" xSize="{width}" ySize="{height}"'
    bands = "".join(
        f'<VRTRasterBand dataType="{gdal}" band="{number}"><Description>{file.stem}</Description><SimpleSource>'
        f'<SourceFilename relativeToVRT="1">{file.relative_to(path.parent).as_posix()}</SourceFilename>'
        f"<SourceBand>1</SourceBand><SrcRect {size}/><DstRect {size}/></SimpleSource></VRTRasterBand>"
        for number, file in enumerate(files, 1)
    )
    location = f"<SRS>{crs.to_string()}</SRS><GeoTransform>{', '.join(map(str, transform.to_gdal()))}</GeoTransform>"
    path.write_text(f'<VRTDataset rasterXSize="{width}" rasterYSize="{height}">{location}{bands}</VRTDataset>')
    return Path(path)
