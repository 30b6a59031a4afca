"""An archive of random patches, for tests of the format and the stream without GeoTIFFs."""

from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from rspretrain.archives.base import Archive, Entry, Nomenclature
from rspretrain.patch import Fault, Patch, PatchError, PatchExcluded
from rspretrain.sensors import Group
from rspretrain.shardset.building.build import build_shards
from rspretrain.shardset.index import ShardSet, open_shards

PAIR_GROUPS = (
    Group("s1_10m", "s1", ("VV", "VH"), "float32", (12, 12), 10.0, "db"),
    Group("s2_10m", "s2", ("B02", "B03", "B04", "B08"), "uint16", (12, 12), 10.0, "dn"),
    Group("s2_20m", "s2", ("B05", "B06", "B07", "B8A", "B11", "B12"), "uint16", (6, 6), 20.0, "dn"),
    Group("s2_60m", "s2", ("B01", "B09"), "uint16", (2, 2), 60.0, "dn"),
)
SCENE_GROUPS = (Group("rgb", "rgb", ("R", "G", "B"), "uint8", None, 0.3, "grey"),)
CLASSES = ("field", "forest", "water")


@dataclass
class MemoryArchive(Archive):
    """`samples` patches, every fifth of split "test". `broken`: entry number -> "nan", "dtype",
    "unreadable" or "cloudy"."""

    samples: int = 40
    groups: tuple[Group, ...] = PAIR_GROUPS
    seed: int = 0
    broken: dict[int, str] = field(default_factory=dict)
    name: str = "memory"
    metadata_bytes: int = 1024

    def __post_init__(self) -> None:
        self.nomenclatures = {"class": Nomenclature(CLASSES, False), "all": Nomenclature(CLASSES, True)}

    def entries(self) -> tuple[list[Entry], list[Fault]]:
        return [Entry(f"patch-{i:05d}", f"Patch{i}", i) for i in range(self.samples)], []

    def read(self, entry: Entry) -> Patch:
        number = entry.source
        fault = self.broken.get(number)
        if fault == "unreadable":
            raise PatchError("Patch.tif: cannot be read")
        if fault == "cloudy":
            raise PatchExcluded("clouds cover 80 %, more than max_cloud 50 %")
        images = {group.name: self.pixels(number, group) for group in self.groups}
        if fault == "nan":
            images["s1_10m"][1, 0, 0] = np.nan
        if fault == "dtype":
            images["s2_20m"] = images["s2_20m"].astype(np.int32)
        label = CLASSES[number % 3]
        return Patch(
            entry.key,
            images,
            {"class": (label,), "all": tuple(c for c in CLASSES if c == label or number % 2)},
            "test" if number % 5 == 0 else "train",
            "EPSG:32633",
            (10.0 * number, 0.0, 10.0 * number + 10.0, 10.0),
            {"country": "Finland" if number % 2 else "Austria", "cloud": number / 100},
        )

    def pixels(self, number: int, group: Group) -> np.ndarray:
        rng = np.random.default_rng([self.seed, number, len(group.bands)])
        height, width = group.shape or (8 + number % 3, 8 + number % 2)
        values = rng.integers(0, 255, (len(group.bands), height, width))
        return values.astype(group.dtype)


def memory_shards(folder: Path, *, samples_per_shard: int = 8, workers: int = 1, **archive: object) -> ShardSet:
    """A shard set of a MemoryArchive, built and opened."""
    build_shards(MemoryArchive(**archive), folder, samples_per_shard=samples_per_shard, workers=workers)
    return open_shards(folder)
