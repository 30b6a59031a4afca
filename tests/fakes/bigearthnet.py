"""Tiny BigEarthNet-MM v1 archives: the demo's simulated pairs, few of them."""

from pathlib import Path

from rspretrain.archives.base import Entry
from rspretrain.archives.bigearthnet import BigEarthNet
from rspretrain.archives.demo import write_demo


def write_bigearthnet(root: Path, pairs: int = 12, seed: int = 0) -> Path:
    """`root` with BigEarthNet-v1.0, BigEarthNet-S1-v1.0 and train, val and test.csv: about 20 ms a pair."""
    write_demo(root, pairs, seed)
    return root


def band_files(archive: BigEarthNet, entry: Entry) -> dict[str, list[Path]]:
    """The GeoTIFFs behind every group of one patch, in band order."""
    sides = {"s1": (archive.s1, entry.source.s1), "s2": (archive.s2, entry.source.s2)}
    files = {}
    for group in archive.groups:
        root, name = sides[group.sensor]
        files[group.name] = [root / name / f"{name}_{band}.tif" for band in group.bands]
    return files
