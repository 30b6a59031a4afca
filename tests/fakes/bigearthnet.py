"""Tiny BigEarthNet-MM v1 archives: a few of the demo's simulated pairs, with all lists of the original."""

from pathlib import Path

from rspretrain.archives.base import Entry
from rspretrain.archives.bigearthnet import BigEarthNet
from rspretrain.archives.demo import write_demo

LISTS = {"snow": "patches_with_seasonal_snow.csv", "cloud": "patches_with_cloud_and_shadow.csv"}


def write_bigearthnet(root: Path, pairs: int = 12, seed: int = 0) -> Path:
    """`root` with BigEarthNet-v1.0, BigEarthNet-S1-v1.0 and train, val and test.csv: about 20 ms per pair."""
    write_demo(root, pairs, seed)
    return root


def write_lists(root: Path, snow: int = 2, cloud: int = 1) -> dict[str, list[str]]:
    """Write snow and cloud lists with the first patches, and remove these from the split files, as in the original."""
    names = sorted(folder.name for folder in (root / "BigEarthNet-v1.0").iterdir())
    flagged = {"snow": names[:snow], "cloud": names[snow : snow + cloud]}
    for flag, stem in LISTS.items():
        (root / stem).write_text("".join(f"{name}\n" for name in flagged[flag]))
    for split in ("train", "val", "test"):
        rows = (root / f"{split}.csv").read_text().split()
        kept = [row for row in rows if row.partition(",")[0] not in names[: snow + cloud]]
        (root / f"{split}.csv").write_text("".join(f"{row}\n" for row in kept))
    return flagged


def band_files(archive: BigEarthNet, entry: Entry) -> dict[str, list[Path]]:
    """The GeoTIFFs of every group of one patch, in band order."""
    sides = {"s1": (archive.s1, entry.source.s1), "s2": (archive.s2, entry.source.s2)}
    files = {}
    for group in archive.groups:
        root, name = sides[group.sensor]
        files[group.name] = [root / name / f"{name}_{band}.tif" for band in group.bands]
    return files
