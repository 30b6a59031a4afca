"""Tiny BigEarthNet v2 archives: the demo's simulated pairs in the layout of reBEN, with both tables."""

import json
import re
import shutil
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from rspretrain.archives.base import Entry
from rspretrain.archives.bigearthnet_v2 import BigEarthNetV2
from rspretrain.archives.corine import CLC43, label_sets
from rspretrain.archives.demo import write_demo
from rspretrain.archives.raster import write_raster

TABLE, SECOND_TABLE = "metadata.parquet", "metadata_for_patches_with_snow_cloud_or_shadow.parquet"
COUNTRIES = ("Austria", "Finland", "Ireland", "Portugal")
# The columns of the real file, in its order and types.
SCHEMA = pa.schema(
    {
        "patch_id": pa.string(),
        "labels": pa.list_(pa.field("element", pa.string())),
        "split": pa.string(),
        "country": pa.string(),
        "s1_name": pa.string(),
        "s2v1_name": pa.string(),
        "contains_seasonal_snow": pa.bool_(),
        "contains_cloud_or_shadow": pa.bool_(),
    }
)


def write_bigearthnet_v2(root: Path, pairs: int = 10, flagged: int = 2, absent: int = 1, seed: int = 0) -> Path:
    """`root` with S2, S1, maps and two tables: the first `flagged` pairs have snow; `absent` rows have no folders."""
    demo = root / "v1"
    write_demo(demo, pairs, seed)
    split_of = {
        row.partition(",")[0]: "validation" if split == "val" else split
        for split in ("train", "val", "test")
        for row in (demo / f"{split}.csv").read_text().split()
    }
    rows = []
    for number, s1 in enumerate(sorted((demo / "BigEarthNet-S1-v1.0").iterdir())):
        rows.append(_convert(root, demo, s1, number) | {"contains_seasonal_snow": number < flagged})
        rows[-1]["split"] = split_of[rows[-1]["s2v1_name"]]
    shutil.rmtree(demo)
    rows += [_absent_row(rows[-1], number) for number in range(absent)]
    write_table(root / TABLE, rows[flagged:])
    write_table(root / SECOND_TABLE, rows[:flagged])
    return root


def write_table(path: Path, rows: list[dict]) -> None:
    """Write a table with the schema of the real file."""
    pq.write_table(pa.Table.from_pylist(rows, SCHEMA), path)


def band_files(archive: BigEarthNetV2, entry: Entry) -> dict[str, list[Path]]:
    """The GeoTIFFs of every group of one patch, in band order."""
    s2, s1 = entry.source.patch_id, entry.source.s1_name
    tile, scene = s2.rsplit("_", 2)[0], s1.rsplit("_", 3)[0]
    files = {}
    for group in archive.groups:
        if group.sensor == "map":
            files[group.name] = [archive.maps / tile / s2 / f"{s2}_reference_map.tif"]
        else:
            folder = archive.s2 / tile / s2 if group.sensor == "s2" else archive.s1 / scene / s1
            files[group.name] = [folder / f"{folder.name}_{band}.tif" for band in group.bands]
    return files


def _convert(root: Path, demo: Path, s1: Path, number: int) -> dict:
    """Move one pair of the demo to its path in v2, and draw its map; returns its row."""
    partner = json.loads((s1 / f"{s1.name}_labels_metadata.json").read_text())["corresponding_s2_patch"]
    s2 = demo / "BigEarthNet-v1.0" / partner
    metadata = json.loads((s2 / f"{s2.name}_labels_metadata.json").read_text())
    stamp = re.search(r"_(\d{8}T\d{6})_N\d{4}_(R\d{3})_(T\w{5})_", metadata["tile_source"])
    tile = f"{partner[:10]}_{stamp[1]}_N9999_{stamp[2]}_{stamp[3]}"
    patch_id = f"{tile}_{'_'.join(partner.split('_')[-2:])}"
    _move(s2, root / "BigEarthNet-S2" / tile / patch_id)
    _move(s1, root / "BigEarthNet-S1" / s1.name.rsplit("_", 3)[0] / s1.name)
    rng = np.random.default_rng(number)
    codes = [code for code, name in CLC43.items() if name in metadata["labels"]]
    pixels = rng.choice([*codes, 999], size=(1, 120, 120)).astype(np.uint16)
    folder = root / "Reference_Maps" / tile / patch_id
    folder.mkdir(parents=True)
    epsg, corner = int(re.findall(r'"EPSG","(\d+)"', metadata["projection"])[-1]), metadata["coordinates"]
    write_raster(folder / f"{patch_id}_reference_map.tif", pixels, epsg, corner["ulx"], corner["uly"], 10.0)
    return {
        "patch_id": patch_id,
        "labels": sorted(label_sets(metadata["labels"])["19"]),  # alphabetical, as in the real file
        "country": COUNTRIES[number % len(COUNTRIES)],
        "s1_name": s1.name,
        "s2v1_name": partner,
        "contains_cloud_or_shadow": False,
    }


def _move(source: Path, target: Path) -> None:
    target.mkdir(parents=True)
    for path in source.glob("*.tif"):
        path.rename(target / path.name.replace(source.name, target.name))


def _absent_row(row: dict, number: int) -> dict:
    """The row of a patch that is not on disk, copied from another row."""
    return row | {name: f"{row[name].rpartition('_')[0]}_{90 + number}" for name in ("patch_id", "s1_name")}
