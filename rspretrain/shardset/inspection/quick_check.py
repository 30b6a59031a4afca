"""A quick check of a shard set before a run: the index against the manifest, and the tars against the index.

It takes no longer than reading the index. `verify` checks every byte at once; a run checks every byte it reads.
"""

import hashlib

import numpy as np
from numpy.typing import NDArray

from rspretrain.shardset.index import CorruptSampleError, ShardSet
from rspretrain.shardset.manifest import INDEX_NAME, MANIFEST_NAME

RECORDS = 16  # shards of which one record is compared with the index, enough to detect another build
MAX_NAMED = 3  # shards named in an error
_QUARANTINE = "set data.on_corrupt=quarantine to exclude their samples"


def quick_check(shards: ShardSet, numbers: NDArray[np.integer], *, index_only: bool = False) -> None:
    """ValueError if index and manifest do not match, or shards are missing, have another size or other samples.

    `numbers`: shards to check; with `index_only` none. For a set behind a URL, index and shards are verified when they
    are downloaded; here only the sizes of its shards are compared, if the server lists them.
    """
    if shards.remote is None:
        _check_index(shards)
    if index_only:
        return
    _check_sizes(shards, numbers)
    if shards.remote is None:
        _check_records(shards, numbers)


def _check_index(shards: ShardSet) -> None:
    path = shards.path / INDEX_NAME
    with path.open("rb") as file:
        found = hashlib.file_digest(file, "sha256").hexdigest()
    if found != shards.manifest.index_sha256:
        raise ValueError(
            f"{path} has SHA-256 {found[:12]}…, its {MANIFEST_NAME} says {shards.manifest.index_sha256[:12]}…: it was "
            "damaged, or they are from different builds. Restore both from one copy, or build the set again."
        )


def _check_sizes(shards: ShardSet, numbers: NDArray[np.integer]) -> None:
    tars = {} if shards.remote else {path.name: path.stat().st_size for path in shards.path.glob("*.tar")}
    found = shards.remote.sizes() if shards.remote else tars
    if found is None:
        return
    wrong = []
    for entry in (shards.manifest.shards[number] for number in numbers.tolist()):
        if entry.name not in found:
            wrong.append(f"{entry.name} is missing")
        elif found[entry.name] != entry.bytes:
            wrong.append(f"{entry.name} has {found[entry.name]} bytes instead of {entry.bytes}")
    if wrong:
        folder = shards.remote.display_url("") if shards.remote else shards.path
        remedy = (
            "Upload them again" if shards.remote else f"Restore them from a copy (`rspretrain verify {shards.path}`)"
        )
        raise ValueError(
            f"{len(wrong)} of {len(numbers)} shards in {folder} do not match {MANIFEST_NAME}: "
            f"{_some(wrong)}. {remedy}, or {_QUARANTINE}."
        )


def _check_records(shards: ShardSet, numbers: NDArray[np.integer]) -> None:
    sampled = numbers[np.unique(np.linspace(0, len(numbers) - 1, RECORDS).round().astype(np.int64))]
    rows = np.searchsorted(shards.numbers("shard"), sampled)  # the first of each: rows are sorted by shard
    wrong = []
    for number, row in zip(sampled.tolist(), rows.tolist(), strict=True):
        try:
            shards.read(row)
        except CorruptSampleError:
            wrong.append(shards.manifest.shards[number].name)
    if wrong:
        raise ValueError(
            f"{len(wrong)} of {len(sampled)} shards sampled in {shards.path} do not begin with the sample "
            f"that {INDEX_NAME} lists: {_some(wrong)}. They were damaged, or are from another build. Run "
            f"`rspretrain verify {shards.path}` for the whole extent and restore them from a copy, or {_QUARANTINE}."
        )


def _some(wrong: list[str]) -> str:
    return ", ".join(wrong[:MAX_NAMED]) + (" …" if len(wrong) > MAX_NAMED else "")
