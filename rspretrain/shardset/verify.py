"""Every byte of a shard set against its checksums. Damage is named: shard, key, member."""

import hashlib
import json
import tarfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import BinaryIO

import numpy as np
import xxhash

from rspretrain.patch import Fault
from rspretrain.shardset.index import ShardSet, decode_npy
from rspretrain.shardset.manifest import INDEX_NAME, MANIFEST_NAME, ShardEntry
from rspretrain.shardset.record import BLOCK, member_suffix

_OWN_FILES = {MANIFEST_NAME, INDEX_NAME, "build_report.json"}


def verify(shards: ShardSet, progress: Callable[[int], None] = lambda samples: None) -> list[Fault]:
    """All faults of a shard set, an empty list where every byte is as it was built."""
    faults = []
    if _sha256(shards.path / INDEX_NAME) != shards.manifest.index_sha256:
        faults.append(Fault(INDEX_NAME, "does not have the SHA-256 of the manifest"))
    known = {entry.name for entry in shards.manifest.shards}
    for path in sorted(shards.path.iterdir()):
        if path.name not in known | _OWN_FILES:
            faults.append(Fault(path.name, "is not in the manifest"))
    for number, entry in enumerate(shards.manifest.shards):
        faults += _verify_shard(shards, number, entry)
        progress(entry.samples)
    return faults


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _verify_shard(shards: ShardSet, number: int, entry: ShardEntry) -> list[Fault]:
    path = shards.path / entry.name
    if not path.is_file():
        return [Fault(entry.name, f"is missing, and {entry.samples} samples with it")]
    if _sha256(path) == entry.sha256:
        return list(_stale_rows(shards, number, entry))
    faults = list(_damaged_records(shards, number, path))
    if path.stat().st_size != entry.bytes:
        faults.append(Fault(entry.name, f"has {path.stat().st_size} bytes, expected {entry.bytes}"))
    return faults or [Fault(entry.name, "has changed outside its records (end of the tar)")]


def _stale_rows(shards: ShardSet, number: int, entry: ShardEntry) -> Iterator[Fault]:
    """A whole tar whose rows in the index tell another story."""
    rows = np.flatnonzero(shards.numbers("shard") == number)
    if len(rows) != entry.samples:
        yield Fault(entry.name, f"has {entry.samples} samples, the index lists {len(rows)}")
    path = shards.path / entry.name
    with path.open("rb") as file:
        for row in rows:
            data = _record(shards, int(row), file)
            if xxhash.xxh3_64_intdigest(data) != int(shards.numbers("checksum")[row]):
                yield Fault(f"{entry.name}:{_key(shards, int(row))}", "the index does not fit this record")


def _damaged_records(shards: ShardSet, number: int, path: Path) -> Iterator[Fault]:
    with path.open("rb") as file:
        for row in np.flatnonzero(shards.numbers("shard") == number):
            data = _record(shards, int(row), file)
            if xxhash.xxh3_64_intdigest(data) != int(shards.numbers("checksum")[row]):
                member, reason = _blame(shards, int(row), data)
                yield Fault(f"{path.name}:{_key(shards, int(row))}.{member}", reason)


def _record(shards: ShardSet, row: int, file: BinaryIO) -> bytes:
    file.seek(int(shards.numbers("offset")[row]))
    return file.read(int(shards.numbers("bytes")[row]))


def _key(shards: ShardSet, row: int) -> str:
    return shards.keys(np.array([row]))[0]


def _blame(shards: ShardSet, row: int, data: bytes) -> tuple[str, str]:
    """Which member of a damaged record is wrong, and in what way."""
    offset = int(shards.numbers("offset")[row])
    places = {
        name: (int(shards.numbers(f"offset_{name}")[row]) - offset, int(shards.numbers(f"bytes_{name}")[row]))
        for name in (*shards.groups, "json")
    }
    if len(data) < int(shards.numbers("bytes")[row]):
        return "*", f"is cut off after {len(data)} of {int(shards.numbers('bytes')[row])} bytes"
    start, size = places["json"]
    try:
        metadata = json.loads(data[start : start + size])
        checksums, key = metadata["xxh3"], metadata["key"]
    except (ValueError, KeyError, TypeError):
        return "json", "cannot be parsed"
    if key != _key(shards, row):
        return "*", f"is the record of another sample, {key!r}"
    for name in shards.groups:
        start, size = places[name]
        payload = data[start : start + size]
        if xxhash.xxh3_64_hexdigest(payload) != checksums.get(name):
            return member_suffix(name), _array_fault(payload)
    for name, (start, _) in places.items():
        try:
            tarfile.TarInfo.frombuf(data[start - BLOCK : start], "utf-8", "strict")
        except tarfile.HeaderError as error:
            return member_suffix(name), f"has a damaged tar header ({error})"
    return "json", "has changed, or the padding between members"


def _array_fault(payload: bytes) -> str:
    try:
        decode_npy(payload)
    except ValueError as error:
        return f"has a damaged array header ({error})"
    return "has changed pixels"
