"""An archive of simulated pairs in the exact layout of BigEarthNet-MM v1, generated from a seed.

GeoTIFFs in real UTM zones and MGRS tiles, both kinds of JSON with the keys of the originals (including `lly` in those
of Sentinel-1), one-digit hours before ten o'clock, and three split files. Splits go by tile, so neighbouring patches
and patches of one scene are always in the same split. The layout: docs/archives.md.
"""

import functools
import json
import multiprocessing
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from datetime import datetime, timedelta
from pathlib import Path

import numpy as np

from rspretrain.archives import simulate
from rspretrain.archives.raster import write_raster

S2_FOLDER, S1_FOLDER = "BigEarthNet-v1.0", "BigEarthNet-S1-v1.0"
PATCH_M = 1200
_ZONES = (29, 31, 32, 33, 34, 35)
_SPLIT_CYCLE = ("train", "val", "train", "test", "train")  # 60 / 20 / 20 within every landscape
_WKT = (
    'PROJCS["WGS 84 / UTM zone {zone}N",GEOGCS["WGS 84",DATUM["WGS_1984",SPHEROID["WGS 84",6378137,298.257223563,'
    'AUTHORITY["EPSG","7030"]],AUTHORITY["EPSG","6326"]],PRIMEM["Greenwich",0,AUTHORITY["EPSG","8901"]],'
    'UNIT["degree",0.0174532925199433,AUTHORITY["EPSG","9122"]],AXIS["Latitude",NORTH],AXIS["Longitude",EAST],'
    'AUTHORITY["EPSG","4326"]],PROJECTION["Transverse_Mercator"],PARAMETER["latitude_of_origin",0],'
    'PARAMETER["central_meridian",{meridian}],PARAMETER["scale_factor",0.9996],PARAMETER["false_easting",500000],'
    'PARAMETER["false_northing",0],UNIT["metre",1,AUTHORITY["EPSG","9001"]],AXIS["Easting",EAST],'
    'AXIS["Northing",NORTH],AUTHORITY["EPSG","{epsg}"]]'
)


@dataclass(frozen=True)
class Pair:
    """Names, location and dates of one pair. Its pixels follow from `seed` and `number`."""

    seed: int
    number: int
    scene: int  # tile number: the patches of a tile share sky, radar, landscape and split
    landscape: str
    split: str
    s2_name: str
    s1_name: str
    s2_time: datetime
    s1_time: datetime
    zone: int
    mgrs: str
    left: int
    top: int


def write_demo(out: Path, pairs: int = 640, seed: int = 0, workers: int = 1) -> None:
    """Write `pairs` pairs and three split files to `out`. The bytes do not depend on the number of workers."""
    if pairs < 5:
        raise ValueError(f"{pairs} pairs, expected at least 5: one for each landscape. Raise --pairs.")
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise ValueError(f"{out} exists and is not empty, expected a new folder. Remove it or choose another --out.")
    plan = plan_pairs(pairs, seed)
    for folder in (S2_FOLDER, S1_FOLDER):
        (out / folder).mkdir(parents=True)
    if workers > 1:
        with ProcessPoolExecutor(workers, multiprocessing.get_context("spawn")) as pool:
            list(pool.map(functools.partial(write_pair, out), plan, chunksize=16))
    else:
        for pair in plan:
            write_pair(out, pair)
    for split in ("train", "val", "test"):
        rows = [f"{pair.s2_name},{pair.s1_name}\n" for pair in plan if pair.split == split]
        (out / f"{split}.csv").write_text("".join(rows))


def plan_pairs(pairs: int, seed: int) -> list[Pair]:
    """Names, locations and dates of all pairs; up to four patches per tile, fewer in a small archive."""
    rng = np.random.default_rng([seed, 0])
    per_scene = max(1, min(4, pairs // 10))
    tiles: set[tuple[int, int, int]] = set()
    plan: list[Pair] = []
    while len(plan) < pairs:
        scene, landscape = len(tiles), list(simulate.LANDSCAPES)[len(tiles) % len(simulate.LANDSCAPES)]
        split = _SPLIT_CYCLE[(scene + scene // len(simulate.LANDSCAPES)) % len(_SPLIT_CYCLE)]
        tile = _new_tile(rng, landscape, tiles)
        tiles.add(tile)
        s2_time = datetime(2017, 6, 1, 9, 10) + timedelta(
            days=int(rng.integers(0, 365)), seconds=int(rng.integers(0, 9000))
        )
        s1_time = datetime(s2_time.year, s2_time.month, s2_time.day, int(rng.choice([4, 5, 16, 17])))
        s1_time += timedelta(days=int(rng.integers(-3, 4)), seconds=int(rng.integers(0, 3600)))
        satellites = "AB"[rng.integers(2)], "AB"[rng.integers(2)]
        for cell in rng.choice(83 * 83, size=min(per_scene, pairs - len(plan)), replace=False):
            plan.append(_pair(seed, len(plan), scene, landscape, split, tile, s2_time, s1_time, satellites, int(cell)))
    return plan


def write_pair(out: Path, pair: Pair) -> None:
    """Simulate one pair and write its fourteen GeoTIFFs and two JSON files."""
    of_scene = np.random.default_rng([pair.seed, 1, pair.scene])
    sky = simulate.draw_sky(of_scene, pair.s2_time.timetuple().tm_yday)
    radar = simulate.draw_radar(of_scene)
    rng = np.random.default_rng([pair.seed, 2, pair.number])
    land, labels = simulate.draw_land(rng, pair.landscape)
    textures = simulate.draw_textures(rng)
    cover = simulate.cover_of(land, textures)
    sides = (
        (out / S2_FOLDER / pair.s2_name, simulate.render_s2(rng, cover, textures, sky), _s2_metadata(pair, labels)),
        (out / S1_FOLDER / pair.s1_name, simulate.render_s1(rng, cover, textures, radar), _s1_metadata(pair, labels)),
    )
    for folder, bands, metadata in sides:
        folder.mkdir()
        for band, pixels in bands.items():
            gsd_m = PATCH_M / pixels.shape[-1]
            write_raster(folder / f"{folder.name}_{band}.tif", pixels, 32600 + pair.zone, pair.left, pair.top, gsd_m)
        (folder / f"{folder.name}_labels_metadata.json").write_text(json.dumps(metadata))


def _new_tile(rng: np.random.Generator, landscape: str, taken: set[tuple[int, int, int]]) -> tuple[int, int, int]:
    """(UTM zone, column, row) of a 100 km square that is not in `taken`; the taiga is north of 60 degrees."""
    rows = (67, 73) if landscape == "taiga" else (41, 63)
    while True:
        tile = (int(rng.choice(_ZONES)), int(rng.integers(3, 8)), int(rng.integers(*rows)))
        if tile not in taken:
            return tile


def _mgrs(zone: int, column: int, row: int) -> str:
    """The name of a 100 km square: zone, latitude band, column letter, row letter; (33, 3, 53) is 33UUP."""
    band = "NPQRSTUVWX"[int((row + 0.5) / 1.1095 / 8)]  # a degree is 110.95 km, a band 8 degrees
    columns = ("ABCDEFGH", "JKLMNPQR", "STUVWXYZ")[(zone - 1) % 3]
    rows = "ABCDEFGHJKLMNPQRSTUV" if zone % 2 else "FGHJKLMNPQRSTUVABCDE"
    return f"{zone}{band}{columns[column - 1]}{rows[row % 20]}"


def _pair(
    seed: int,
    number: int,
    scene: int,
    landscape: str,
    split: str,
    tile: tuple[int, int, int],
    s2_time: datetime,
    s1_time: datetime,
    satellites: tuple[str, str],
    cell: int,
) -> Pair:
    zone, column, row = tile
    h, v = cell % 83, cell // 83  # 83 x 1,200 m stay inside the square, so tiles do not overlap
    hour = f"{s2_time.hour}{s2_time:%M%S}"  # one digit before ten o'clock, as in the original
    mgrs = _mgrs(zone, column, row)
    return Pair(
        seed,
        number,
        scene,
        landscape,
        split,
        f"S2{satellites[0]}_MSIL2A_{s2_time:%Y%m%d}T{hour}_{h}_{v}",
        f"S1{satellites[1]}_IW_GRDH_1SDV_{s1_time:%Y%m%dT%H%M%S}_{mgrs}_{h}_{v}",
        s2_time,
        s1_time,
        zone,
        mgrs,
        column * 100_000 // 60 * 60 + PATCH_M * h,
        -(-(row + 1) * 100_000 // 60) * 60 - PATCH_M * v,
    )


def _s2_metadata(pair: Pair, labels: list[str]) -> dict[str, object]:
    stamp = f"{pair.s2_time:%Y%m%dT%H%M%S}"
    later = f"{pair.s2_time + timedelta(minutes=5):%Y%m%dT%H%M%S}"
    orbit = 1 + pair.scene % 143
    return {
        "labels": labels,
        "coordinates": _coordinates(pair, "lry"),
        "projection": _projection(pair.zone),
        "tile_source": f"{pair.s2_name[:3]}_MSIL1C_{stamp}_N0205_R{orbit:03d}_T{pair.mgrs}_{later}.SAFE",
        "acquisition_date": f"{pair.s2_time:%Y-%m-%d %H:%M:%S}",
    }


def _s1_metadata(pair: Pair, labels: list[str]) -> dict[str, object]:
    times = "_".join(f"{pair.s1_time + timedelta(seconds=wait):%Y%m%dT%H%M%S}" for wait in (0, 25))
    identity = f"{17000 + pair.scene:06d}_{0x1C500 + pair.scene:06X}_{(0x7EEC * (pair.scene + 1)) & 0xFFFF:04X}"
    return {
        "labels": labels,
        "coordinates": _coordinates(pair, "lly"),  # the original's misspelling of lry
        "projection": _projection(pair.zone),
        "corresponding_s2_patch": pair.s2_name,
        "scene_source": f"{pair.s1_name[:16]}_{times}_{identity}",
        "acquisition_time": f"{pair.s1_time:%Y-%m-%dT%H:%M:%S}",
    }


def _coordinates(pair: Pair, bottom: str) -> dict[str, int]:
    return {"ulx": pair.left, "uly": pair.top, "lrx": pair.left + PATCH_M, bottom: pair.top - PATCH_M}


def _projection(zone: int) -> str:
    return _WKT.format(zone=zone, meridian=zone * 6 - 183, epsg=32600 + zone)
