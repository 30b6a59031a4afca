"""The archives of the loading benchmark, generated: BigEarthNet-MM, SEN12MS and UC-Merced in their own layouts.

Pixels are smooth fields with the noise of the sensor, so that codecs find about what they find in real images; equal
sizes give equal bytes. BigEarthNet-MM comes from rspretrain/archives/demo.py.
"""

import functools
import multiprocessing
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import NamedTuple

import numpy as np
import rasterio
from PIL import Image

from rspretrain.archives.base import Archive, Entry
from rspretrain.archives.bigearthnet import BigEarthNet
from rspretrain.archives.demo import write_demo
from rspretrain.archives.raster import write_raster
from rspretrain.archives.scenes import UCMERCED_CLASSES, UcMerced
from rspretrain.archives.sen12ms import Sen12Ms
from rspretrain.sensors import Group

SIZE = 256  # pixels of a side, SEN12MS and UC-Merced
SCENES = 4  # of the generated SEN12MS
# Metres a pixel of the 13 bands, all stored on 10 m. A real pair shrinks to 51 % (bitshuffle-lz4) and 52 % (zstd), one
# of these to 47 and 48 %; pictures to 90 and 85 %, real ones to 90 and 83 % (results/compression.csv).
S2_GSD_M = (60, 10, 10, 10, 20, 20, 20, 10, 20, 60, 60, 20, 20)
WORKERS = 2


class Kind(NamedTuple):
    """One archive of the benchmark. `files` says where a group of an entry lies: its files in the order of bands."""

    share: float  # samples for each BigEarthNet-MM pair
    write: Callable[[Path, int], None]  # (new folder, samples)
    open: Callable[[Path], Archive]
    files: Callable[[Archive, Entry, Group], list[Path]]


def field(rng: np.random.Generator, bands: int, cells: int, size: int = SIZE) -> np.ndarray:
    """[C H W] float32 around 0 with a deviation of about 1: random numbers on a grid, bilinear in between."""
    grid = rng.standard_normal((bands, cells + 1, cells + 1), dtype=np.float32)
    place = np.arange(size, dtype=np.float32) * cells / size
    low = place.astype(int)
    rest = place - low.astype(np.float32)
    rows = grid[:, low] * (1 - rest)[:, None] + grid[:, low + 1] * rest[:, None]
    return rows[:, :, low] * (1 - rest) + rows[:, :, low + 1] * rest


def s1_pixels(rng: np.random.Generator) -> np.ndarray:
    """[2 H W] float32 decibels: two backscatters with the speckle of four looks."""
    looks = rng.standard_gamma(4.0, (2, SIZE, SIZE), dtype=np.float32) / 4
    return 4 * field(rng, 2, 8) + np.float32([-11, -18])[:, None, None] + 10 * np.log10(looks)


def s2_pixels(rng: np.random.Generator) -> np.ndarray:
    """[13 H W] uint16 digital numbers; a pixel of a 20 or 60 m band is repeated."""
    pixels = np.empty((13, SIZE, SIZE), np.uint16)
    land = 300 * field(rng, 1, 8)[0] + 60 * field(rng, 1, 64)[0]
    for band, gsd_m in enumerate(S2_GSD_M):
        noise = 40 * rng.standard_normal((SIZE, SIZE), dtype=np.float32)
        fine = 1200 + 60 * band + land + 90 * field(rng, 1, 16)[0] + noise
        place = np.arange(SIZE) * 10 // gsd_m * gsd_m // 10
        pixels[band] = fine[place][:, place].clip(1, 10_000)
    return pixels


def write_sen12ms_patch(root: Path, number: int) -> None:
    rng = np.random.default_rng([1, number])
    scene, patch = number % SCENES + 1, number // SCENES + 30
    for sensor, pixels in (("s1", s1_pixels(rng)), ("s2", s2_pixels(rng))):
        path = root / "ROIs1158_spring" / f"{sensor}_{scene}" / f"ROIs1158_spring_{sensor}_{scene}_p{patch}.tif"
        path.parent.mkdir(parents=True, exist_ok=True)
        write_raster(path, pixels, 32631, 500_000.0 + 10 * SIZE * number, 1_300_000.0, 10.0)


def write_picture(root: Path, number: int) -> None:
    rng = np.random.default_rng([2, number])
    name, index = UCMERCED_CLASSES[number % len(UCMERCED_CLASSES)], number // len(UCMERCED_CLASSES)
    grey = 35 * field(rng, 1, 6) + 15 * field(rng, 1, 48)
    noise = rng.standard_normal((3, SIZE, SIZE), dtype=np.float32)
    pixels = (110 + grey + 8 * field(rng, 3, 6) + 5 * noise).clip(0, 255).astype(np.uint8)
    path = root / "UCMerced_LandUse" / "Images" / name / f"{name}{index:02d}.tif"
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.moveaxis(pixels, 0, -1)).save(path)


def write_all(write: Callable[[Path, int], None], root: Path, samples: int) -> None:
    with ProcessPoolExecutor(WORKERS, multiprocessing.get_context("spawn")) as pool:
        list(pool.map(functools.partial(write, root), range(samples), chunksize=16))


def pair_files(archive: Archive, entry: Entry, group: Group) -> list[Path]:
    folder = {"s1": archive.s1, "s2": archive.s2}[group.sensor] / getattr(entry.source, group.sensor)
    return [folder / f"{folder.name}_{band}.tif" for band in group.bands]


KINDS = {
    "bigearthnet-mm": Kind(
        1.0,
        functools.partial(write_demo, seed=0, workers=WORKERS),
        lambda root: BigEarthNet(s2=root, s1=root),
        pair_files,
    ),
    "sen12ms": Kind(
        0.256,  # 512 patches, 1.14 GB: eight batches
        functools.partial(write_all, write_sen12ms_patch),
        Sen12Ms,
        lambda archive, entry, group: [archive.root / entry.source.files[group.sensor]],
    ),
    "scenes": Kind(
        1.05,  # 2,100 pictures, as UC-Merced has them
        functools.partial(write_all, write_picture),
        UcMerced,
        lambda archive, entry, group: [archive.root / entry.source.path],
    ),
}


def read_files(files: list[Path]) -> np.ndarray:
    """[C H W]: all bands of all files, by rasterio. What a careful user writes."""
    bands = []
    for path in files:
        with rasterio.open(path) as source:
            bands.append(source.read())
    return bands[0] if len(bands) == 1 else np.concatenate(bands)
