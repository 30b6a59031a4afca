"""The competitor of benchmarks/building.py: shards written with rasterio and webdataset.ShardWriter.

python benchmarks/building_competitor.py ARCHIVE OUT [--part 1/2] [--samples-per-shard 128]

Writes bands and labels of BigEarthNet-MM into tars of .npy and .json members, without index, checksums, statistics and
input checks. Prints the time of the loop over the pairs as JSON, without the imports (webdataset imports torch).
"""

import argparse
import csv
import json
import time
from pathlib import Path

import numpy as np
import rasterio
import webdataset

GROUPS = {
    "s1_10m": ("s1", ("VV", "VH")),
    "s2_10m": ("s2", ("B02", "B03", "B04", "B08")),
    "s2_20m": ("s2", ("B05", "B06", "B07", "B8A", "B11", "B12")),
    "s2_60m": ("s2", ("B01", "B09")),
}


def read_band(path: Path) -> np.ndarray:
    with rasterio.open(path) as source:
        return source.read(1)


def read_labels(folder: Path) -> dict:
    return json.loads((folder / f"{folder.name}_labels_metadata.json").read_text())


def sample(s2: Path, s1: Path, split: str) -> dict:
    folders = {"s2": s2, "s1": s1}
    metadata = read_labels(s2)
    content = {"labels": metadata["labels"], "split": split, "s2": metadata, "s1": read_labels(s1)}
    arrays = {
        f"{group}.npy": np.stack([read_band(folders[sensor] / f"{folders[sensor].name}_{band}.tif") for band in bands])
        for group, (sensor, bands) in GROUPS.items()
    }
    return {"__key__": s2.name, "json": content, **arrays}


def pairs_of(archive: Path) -> list[tuple[str, str, str]]:
    """(S2 name, S1 name, split) from the three split files."""
    pairs = []
    for split in ("train", "val", "test"):
        with (archive / f"{split}.csv").open() as file:
            pairs += [(s2, s1, split) for s2, s1 in csv.reader(file)]
    return sorted(pairs)


def build(archive: Path, out: Path, part: int, of: int, samples_per_shard: int) -> int:
    pairs = pairs_of(archive)[part - 1 :: of]
    out.mkdir(parents=True, exist_ok=True)
    pattern = str(out / f"bigearthnet-{part}-%06d.tar")
    # The one option that matters: GDAL does not list the folder of each file that it opens.
    with (
        rasterio.Env(GDAL_DISABLE_READDIR_ON_OPEN="EMPTY_DIR"),
        webdataset.ShardWriter(pattern, maxcount=samples_per_shard, verbose=0) as writer,
    ):
        for s2, s1, split in pairs:
            writer.write(sample(archive / "BigEarthNet-v1.0" / s2, archive / "BigEarthNet-S1-v1.0" / s1, split))
    return len(pairs)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("archive", type=Path)
    parser.add_argument("out", type=Path)
    parser.add_argument("--part", default="1/1")
    parser.add_argument("--samples-per-shard", type=int, default=128)
    args = parser.parse_args()
    part, of = map(int, args.part.split("/"))
    wall, cpu = time.perf_counter(), time.process_time()
    pairs = build(args.archive, args.out, part, of, args.samples_per_shard)
    print(json.dumps({"pairs": pairs, "wall_s": time.perf_counter() - wall, "cpu_s": time.process_time() - cpu}))


if __name__ == "__main__":
    main()
