"""Tiny archives in the layouts of SEN12MS and DFC2020: one multi-band GeoTIFF per sensor, 10 m, UTM."""

from pathlib import Path

import numpy as np

from rspretrain.archives.raster import write_raster

IGBP = (4, 12, 13, 17)  # forest, croplands, urban, water
DFC = (1, 6, 7, 10)


def quarters(codes: tuple[int, ...], size: int, seed: int) -> np.ndarray:
    """[H W] codes: three quarters of one class, the rest of the next, so that the most frequent is clear."""
    plane = np.full((size, size), codes[seed % len(codes)])
    plane[: size // 2, : size // 2] = codes[(seed + 1) % len(codes)]
    return plane


def pixels_of(kind: str, size: int, seed: int) -> np.ndarray:
    """[C H W] in the archive's own dtype: decibels, reflectance that rises with the band, maps of codes."""
    rng = np.random.default_rng([seed, len(kind), ord(kind[1])])
    if kind == "s1":
        return (rng.normal(0, 2, (2, size, size)) + np.array([-11, -18])[:, None, None]).astype(np.float32)
    if kind == "s2":
        return (rng.integers(100, 400, (13, size, size)) + 150 * np.arange(13)[:, None, None]).astype(np.uint16)
    if kind == "dfc":
        return quarters(DFC, size, seed)[None].astype(np.uint8)
    return np.stack([quarters(IGBP, size, seed), *np.full((3, size, size), 25)]).astype(np.uint8)


def write_kind(path: Path, kind: str, seed: int, size: int = 32, dtype: str | None = None) -> Path:
    """Write one file; patches are adjacent."""
    path.parent.mkdir(parents=True, exist_ok=True)
    pixels = pixels_of(kind, size, seed)
    write_raster(path, pixels.astype(dtype or pixels.dtype), 32631, 500_000.0 + 10 * size * seed, 1_300_000.0, 10.0)
    return path


def write_sen12ms(
    root: Path,
    scenes: tuple[tuple[str, int], ...] = (("ROIs1158_spring", 1), ("ROIs1868_summer", 19), ("ROIs2017_winter", 1)),
    patches: int = 2,
    kinds: tuple[str, ...] = ("s1", "s2", "lc"),
    folder: str = "{season}/{kind}_{scene}",
    size: int = 32,
) -> Path:
    """`<season>/<kind>_<scene>/<season>_<kind>_<scene>_p<patch>.tif`; `folder`: for other downloads."""
    seed = 0
    for season, scene in scenes:
        for patch in range(30, 30 + patches):
            seed += 1
            for kind in kinds:
                below = folder.format(season=season, kind=kind, scene=scene)
                write_kind(root / below / f"{season}_{kind}_{scene}_p{patch}.tif", kind, seed, size)
    return root


def write_dfc2020(
    root: Path,
    patches: int = 4,
    scene: str = "validation",
    kinds: tuple[str, ...] = ("s1", "s2", "lc", "dfc"),
    size: int = 32,
) -> Path:
    """Both sets; `scene`: name of the validation scene in paths, which differs between two releases."""
    for number, (part, name) in enumerate((("validation", scene), ("test", "0"))):
        for patch in range(patches):
            for kind in kinds:
                below = f"ROIs0000_{part}/{kind}_{name}/ROIs0000_{part}_{kind}_{name}_p{patch}.tif"
                write_kind(root / below, kind, patches * number + patch, size)
    return root
