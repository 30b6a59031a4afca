"""A receipt says that one shard is finished: its line of the manifest, its rows of the index, its statistics.

It is one Parquet file in the folder of the unfinished build, written after its shard. A shard without a receipt is
built again; one with a receipt is never touched.
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from rspretrain.files import atomic
from rspretrain.patch import Fault
from rspretrain.sensors import Group
from rspretrain.shardset.manifest import BUILD_FOLDER, ShardEntry
from rspretrain.shardset.statistics import Tally

TRAIN, REST = "train", "rest"  # statistics are taken over the training split, or over everything where there is none


class Census:
    """What is counted over the images of a shard: statistics by share of the split, and the largest shapes."""

    def __init__(self, groups: Sequence[Group]) -> None:
        self._groups = groups
        self.tallies: dict[str, Tally] = {}  # TRAIN, REST -> statistics of these samples, where there are any
        self.max_shapes = {group.name: (0, 0) for group in groups}

    def add(self, split: str | None, images: Mapping[str, NDArray[Any]]) -> None:
        """Count one sample: [C H W] of every group."""
        share = TRAIN if split == TRAIN else REST
        if share not in self.tallies:
            self.tallies[share] = Tally(self._groups)
        self.tallies[share].add(images)
        for name, image in images.items():
            height, width = self.max_shapes[name]
            self.max_shapes[name] = max(height, image.shape[1]), max(width, image.shape[2])


@dataclass(frozen=True)
class Receipt:
    """One finished shard."""

    entry: ShardEntry
    rows: pa.Table  # its rows of the index, without the derived columns
    faults: list[Fault]
    excluded: list[Fault]  # left out because the user asked for it
    max_shapes: dict[str, tuple[int, int]]
    tallies: dict[str, Tally]


def receipt_path(folder: Path, shard: str) -> Path:
    """Where the receipt of a shard lies."""
    return folder / BUILD_FOLDER / f"{shard}.receipt"


def write_receipt(folder: Path, receipt: Receipt) -> None:
    """Put a receipt beside its shard, which must be in `folder` already."""
    content = {
        "entry": receipt.entry.model_dump(mode="json"),
        "faults": [vars(fault) for fault in receipt.faults],
        "excluded": [vars(fault) for fault in receipt.excluded],
        "max_shapes": receipt.max_shapes,
    }
    metadata = {b"receipt": json.dumps(content).encode()}
    metadata |= {name.encode(): tally.to_bytes() for name, tally in receipt.tallies.items()}
    with atomic(receipt_path(folder, receipt.entry.name)) as file:
        pq.write_table(receipt.rows.replace_schema_metadata(metadata), file, compression="zstd")


def read_receipt(folder: Path, shard: str, groups: Sequence[Group]) -> Receipt | None:
    """The receipt of a shard; None where the shard is not finished, or is not the one that the receipt is for."""
    path = receipt_path(folder, shard)
    if not path.is_file():
        return None
    try:
        with pq.ParquetFile(path) as file:  # pq.read_table would import pyarrow.dataset, a quarter of a second
            rows = file.read()
    except pa.ArrowInvalid:
        return None
    metadata = rows.schema.metadata
    content = json.loads(metadata[b"receipt"])
    entry = ShardEntry(**content["entry"])
    tar = folder / entry.name
    if not tar.is_file() or tar.stat().st_size != entry.bytes:
        return None
    return Receipt(
        entry,
        rows.replace_schema_metadata(None),
        [Fault(**fault) for fault in content["faults"]],
        [Fault(**fault) for fault in content["excluded"]],
        {name: (height, width) for name, (height, width) in content["max_shapes"].items()},
        {
            name: Tally.from_bytes(groups, metadata[name.encode()])
            for name in (TRAIN, REST)
            if name.encode() in metadata
        },
    )


def is_finished(folder: Path, shard: str) -> bool:
    """Whether a shard has a receipt and the size that it says; cheaper than reading all of it."""
    path = receipt_path(folder, shard)
    if not path.is_file():
        return False
    try:
        content = json.loads(pq.read_schema(path).metadata[b"receipt"])
    except pa.ArrowInvalid:
        return False
    tar = folder / shard
    return tar.is_file() and tar.stat().st_size == content["entry"]["bytes"]
