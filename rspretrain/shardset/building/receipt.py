"""Receipts of finished shards: the manifest entry, the index rows and the statistics of one shard.

A receipt is a Parquet file in the folder of the unfinished build, written after its shard. A shard without a receipt is
built again; a shard with a receipt is never changed.
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

TRAIN, REST = "train", "rest"  # statistics cover the training split, or all samples if there is none


class ShardStatistics:
    """Statistics of a shard: pixel counts of the training split and of the rest, and the largest shapes."""

    def __init__(self, groups: Sequence[Group]) -> None:
        self._groups = groups
        self.tallies: dict[str, Tally] = {}  # TRAIN, REST -> counts of these samples, if there are any
        self.max_shapes = {group.name: (0, 0) for group in groups}

    def add(self, split: str | None, images: Mapping[str, NDArray[Any]]) -> None:
        """Count one sample: [C H W] of every group."""
        part = TRAIN if split == TRAIN else REST
        if part not in self.tallies:
            self.tallies[part] = Tally(self._groups)
        self.tallies[part].add(images)
        for name, image in images.items():
            height, width = self.max_shapes[name]
            self.max_shapes[name] = max(height, image.shape[1]), max(width, image.shape[2])


@dataclass(frozen=True)
class Receipt:
    """One finished shard."""

    entry: ShardEntry
    rows: pa.Table  # its rows of the index, without the derived columns
    faults: list[Fault]
    excluded: list[Fault]  # excluded by options of the user
    max_shapes: dict[str, tuple[int, int]]
    tallies: dict[str, Tally]


def receipt_path(folder: Path, shard: str) -> Path:
    """The path of the receipt of a shard."""
    return folder / BUILD_FOLDER / f"{shard}.receipt"


def write_receipt(folder: Path, receipt: Receipt) -> None:
    """Write the receipt of a shard that is already in `folder`."""
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
    """The receipt of a shard; None if the shard is unfinished, or does not have the size in the receipt."""
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
    """Whether a shard has a receipt and the size in it. Cheaper than `read_receipt`."""
    path = receipt_path(folder, shard)
    if not path.is_file():
        return False
    try:
        content = json.loads(pq.read_schema(path).metadata[b"receipt"])
    except pa.ArrowInvalid:
        return False
    tar = folder / shard
    return tar.is_file() and tar.stat().st_size == content["entry"]["bytes"]
