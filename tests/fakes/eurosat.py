"""Tiny EuroSAT: thirteen bands as GeoTIFFs with B8A last, or JPEGs, in all layouts of its releases."""

from pathlib import Path

import numpy as np

from fakes.scenes import write_picture
from rspretrain.archives.eurosat import BANDS_ON_DISK, CLASSES
from rspretrain.archives.raster import write_raster

DEEP = "ds/images/remote_sensing/otherDatasets/sentinel_2/tif"


def write_ms(path: Path, seed: int = 0, size: int = 64, bands: int = 13, dtype: str = "uint16") -> Path:
    """Write one file. Pixels are 100 times the number of the band on disk, plus noise, so that tests see the order."""
    rng = np.random.default_rng(seed)
    pixels = rng.integers(0, 50, (bands, size, size)) + 100 * np.arange(1, bands + 1)[:, None, None]
    path.parent.mkdir(parents=True, exist_ok=True)
    write_raster(path, pixels.astype(dtype), 32635, 400_000.0 + 640 * seed, 4_000_000.0, 10.0)
    return path


def write_eurosat(root: Path, below: str = "EuroSAT_MS", suffix: str = "tif", per_class: int = 2) -> Path:
    """`<below>/<Class>/<Class>_<n>.<suffix>`."""
    assert len(BANDS_ON_DISK) == 13
    for label, name in enumerate(CLASSES):
        for number in range(1, per_class + 1):
            path = root / below / name / f"{name}_{number}.{suffix}"
            if suffix == "tif":
                write_ms(path, per_class * label + number)
            else:
                write_picture(path, seed=number)
    return root
