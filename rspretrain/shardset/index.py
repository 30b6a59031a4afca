"""An open shard set: manifest, index, splits, filters, labels, and reading of single samples.

The columns of index.parquet are described in `rows`; pandas and DuckDB read the file directly.
"""

import hashlib
import json
import os
from collections.abc import Iterator
from contextlib import closing
from dataclasses import replace
from functools import cached_property
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import xxhash
from numpy.typing import NDArray

from rspretrain.archives.base import Nomenclature
from rspretrain.download.file_locks import Lease
from rspretrain.download.protocols import is_url
from rspretrain.patch import Patch
from rspretrain.sensors import Group
from rspretrain.shardset.codecs import codec_of
from rspretrain.shardset.filter import matching_rows
from rspretrain.shardset.manifest import INDEX_NAME, load_manifest
from rspretrain.shardset.record import Metadata, decode_array
from rspretrain.shardset.remote import Remote, RemoteOptions

HOLD_OUT = 5  # every fifth sample


class CorruptSampleError(RuntimeError):
    """A sample whose bytes do not match the checksum in the index. The message names shard, key and position."""


class ShardSet:
    """An open shard set: its manifest, and its index, whose columns are read when they are needed.

    `path` is its folder. For a set behind a URL, `remote` downloads shards into that folder one by one.
    """

    def __init__(self, path: Path, remote: Remote | None = None) -> None:
        self.path, self.remote = path, remote
        self.manifest, data = load_manifest(path)
        self.manifest_sha256 = hashlib.sha256(data).hexdigest()
        self.groups: dict[str, Group] = {entry.name: self.manifest.group(entry.name) for entry in self.manifest.groups}
        self.nomenclatures: dict[str, Nomenclature] = {
            name: self.manifest.nomenclature(name) for name in self.manifest.nomenclatures
        }
        self._index = path / INDEX_NAME
        self._columns: dict[str, pa.ChunkedArray] = {}
        self._numbers: dict[str, NDArray[Any]] = {}
        self._check_index()

    def _check_index(self) -> None:
        """ValueError if the index does not fit the manifest. Only its size is checked; `verify` checks its checksum."""
        if not self._index.is_file():
            raise ValueError(f"{self._index} is missing. Restore it from a copy, or build the set again.")
        try:
            rows = pq.read_metadata(self._index).num_rows
        except pa.ArrowInvalid as error:
            raise ValueError(f"{self._index} is damaged ({error}). Restore it, or build the set again.") from None
        if rows != self.manifest.samples:
            raise ValueError(
                f"{self._index} has {rows} rows, its manifest counts {self.manifest.samples} samples: they are from "
                "different builds. Restore both from one copy, or build the set again."
            )

    def __len__(self) -> int:
        return self.manifest.samples

    def __getitem__(self, which: int | str) -> Patch:
        """One sample by row (negative rows count from the end) or key.

        IndexError or KeyError if there is none, CorruptSampleError if its bytes have changed.
        """
        if isinstance(which, str):
            if which not in self.row_of_key:
                raise KeyError(f"{self.path} has no sample {which!r}. Keys are lower case; see `rspretrain inspect`.")
            which = self.row_of_key[which]
        if not -len(self) <= which < len(self):
            raise IndexError(
                f"{self.path} has {len(self)} samples, expected a row in [{-len(self)}, {len(self)}), got {which}."
            )
        images, metadata = self.read(which % len(self))
        return replace(Metadata.model_validate(metadata).patch, images=images)

    def __iter__(self) -> Iterator[Patch]:
        """All samples in the order of the shards."""
        return (self[row] for row in range(len(self)))

    def urls(self) -> list[str]:
        """The tars in order, for stock webdataset: local paths, or URLs of a remote set."""
        folder = self.remote.url if self.remote is not None else str(self.path)
        return [f"{folder}/{entry.name}" for entry in self.manifest.shards]

    def webdataset(self, **options: Any) -> Any:
        """A stock webdataset pipeline over all tars, for any codec. Samples are dicts of decoded members.

        In the order of the shards, unless `options` of webdataset.WebDataset change it (shardshuffle=100, …). Checksums
        are not verified, and the guarantees of `rspretrain.streaming` on order do not apply.
        """
        import webdataset

        codec = self.manifest.codec
        suffix = f".{codec_of(codec).suffix}"

        def decode(key: str, data: bytes) -> Any:
            return decode_array(data, codec) if key.endswith(suffix) else None  # None: webdataset's default decoders

        return webdataset.WebDataset(self.urls(), **{"shardshuffle": False, **options}).decode(decode)

    def column(self, name: str) -> pa.ChunkedArray:
        """One column of the index. ValueError, listing all columns, if it is unknown."""
        if name not in self._columns:
            known = pq.read_schema(self._index).names
            if name not in known:
                raise ValueError(f"{self._index} has no column {name!r}; its columns are {known}. Name one of these.")
            self._columns[name] = pq.read_table(self._index, columns=[name]).column(0)
        return self._columns[name]

    def numbers(self, name: str) -> NDArray[Any]:
        """One numeric column of the index as a numpy array [N]."""
        if name not in self._numbers:
            self._numbers[name] = self.column(name).to_numpy()
        return self._numbers[name]

    def keys(self, rows: NDArray[np.integer] | None = None) -> list[str]:
        """The keys of the given rows; of all rows by default."""
        column = self.column("key")
        keys: list[str] = (column if rows is None else column.take(pa.array(rows))).to_pylist()
        return keys

    @cached_property
    def row_of_key(self) -> dict[str, int]:
        """key -> row."""
        return {key: row for row, key in enumerate(self.keys())}

    def select(self, split: str | None, filter: str | None = None) -> NDArray[np.int64]:
        """The rows of a split that match a filter expression (see `filter`), ascending.

        ValueError if the split or a column of the expression is unknown, or no row matches.
        """
        rows = self.split_rows(split)
        if filter is not None:
            rows = rows[matching_rows(self, filter)[rows]]
        if not len(rows):
            raise ValueError(
                f"{self.path} has no sample in split {split!r} with the filter {filter!r}, expected at least one. "
                "Correct the expression; `rspretrain inspect` shows what the columns hold."
            )
        return rows

    def split_rows(self, split: str | None) -> NDArray[np.int64]:
        """The rows of a split, ascending; all rows for None. ValueError, listing all splits, if it is unknown.

        Two splits exist for every archive, for those without splits of their own: "holdout:test" is every fifth sample
        in the order of keys (per class, if there are single labels), and "holdout:train" the other samples.
        """
        if split is None:
            return np.arange(len(self), dtype=np.int64)
        if split in ("holdout:train", "holdout:test"):
            return np.flatnonzero(self._held_out == (split == "holdout:test"))
        if split not in self.manifest.splits:
            raise ValueError(
                f"{self.path} has no split {split!r}; its splits are {self.manifest.splits or 'none'}. Name one of "
                "these, holdout:train or holdout:test (every fifth sample), or omit the split to use all samples."
            )
        # Dictionary-encoded: ten million strings as Python objects would take a gigabyte.
        words = pq.read_table(self._index, columns=["split"], read_dictionary=["split"]).column(0).unify_dictionaries()
        number = pc.index_in(pa.scalar(split), words.chunk(0).dictionary).as_py()
        return np.flatnonzero(
            np.concatenate([chunk.indices.fill_null(-1).to_numpy() for chunk in words.chunks]) == number
        )

    @cached_property
    def _held_out(self) -> NDArray[np.bool_]:
        by_key = np.argsort(np.array(self.keys()), kind="stable")
        single = next((name for name, nomenclature in self.nomenclatures.items() if not nomenclature.multi), None)
        class_of = self.labels(single).argmax(1)[by_key] if single else np.zeros(len(self), dtype=np.int64)
        held_out = np.zeros(len(self), dtype=np.bool_)
        held_out[by_key] = holdout_mask(class_of)
        return held_out

    def labels(self, nomenclature: str) -> NDArray[np.bool_]:
        """Multi-hot labels [N K] in the order of the nomenclature's names."""
        if nomenclature not in self.nomenclatures:
            raise ValueError(
                f"{self.path} has no nomenclature {nomenclature!r}; its nomenclatures are "
                f"{sorted(self.nomenclatures)}. Name one of these."
            )
        lists = self.column(f"labels_{nomenclature}").combine_chunks()
        position = {name: i for i, name in enumerate(self.nomenclatures[nomenclature].names)}
        lengths = np.diff(lists.offsets.to_numpy())
        hot = np.zeros((len(self), len(position)), dtype=np.bool_)
        rows = np.repeat(np.arange(len(self)), lengths)
        hot[rows, [position[name] for name in lists.flatten().to_pylist()]] = True
        return hot

    def read(self, row: int) -> tuple[dict[str, NDArray[Any]], dict[str, Any]]:
        """Images (group -> [C H W]) and metadata of one sample. CorruptSampleError if its checksum does not match."""
        data, offset = self._record(row), int(self.numbers("offset")[row])
        members = {}
        for name in (*self.groups, "json"):
            start = int(self.numbers(f"offset_{name}")[row]) - offset
            members[name] = data[start : start + int(self.numbers(f"bytes_{name}")[row])]
        codec = self.manifest.codec
        return {name: decode_array(members[name], codec) for name in self.groups}, json.loads(members["json"])

    def _record(self, row: int) -> bytes:
        """The verified bytes of a sample. A shard that was damaged in the cache is downloaded again."""
        number, offset, size = (int(self.numbers(name)[row]) for name in ("shard", "offset", "bytes"))
        while True:
            with closing(self._shard(number)) as shard:
                data = os.pread(shard.fileno(), size, offset)
                if xxhash.xxh3_64_intdigest(data) == int(self.numbers("checksum")[row]):
                    return data
                if self.remote is not None and isinstance(shard, Lease):
                    remedy = self.remote.renew(number, shard)
                else:
                    remedy = restore_from_copy(self)
            if remedy is not None:
                raise CorruptSampleError(corrupt_message(self, row, remedy))

    def _shard(self, number: int) -> BinaryIO | Lease:
        if self.remote is not None:
            return self.remote.shard(number)
        return (self.path / self.manifest.shards[number].name).open("rb")


def holdout_mask(class_of: NDArray[np.int64]) -> NDArray[np.bool_]:
    """[N] bool: every fifth sample of each class, in the given order. `class_of` [N]: class of each sample."""
    chosen = np.zeros(len(class_of), dtype=np.bool_)
    for each in np.unique(class_of):
        chosen[np.flatnonzero(class_of == each)[HOLD_OUT - 1 :: HOLD_OUT]] = True
    return chosen


def corrupt_message(shards: ShardSet, row: int, remedy: str) -> str:
    """The message for a sample whose checksum does not match."""
    shard = shards.path / shards.manifest.shards[int(shards.numbers("shard")[row])].name
    return (
        f"Sample {shards.keys(np.array([row]))[0]!r} of {shard} (record "
        f"{int(shards.numbers('record')[row])}, byte {int(shards.numbers('offset')[row])}) does not have the checksum "
        f"of its index: its bytes changed after the build. {remedy}"
    )


def restore_from_copy(shards: ShardSet) -> str:
    """The remedy for a damaged shard in a folder."""
    return f"Run `rspretrain verify {shards.path}` for the whole extent, then restore the shard from a copy."


def open_shards(path: Path | str, options: RemoteOptions | None = None) -> ShardSet:
    """Open a shard set in a folder or behind a URL; `options` configure downloads and cache.

    ValueError if there is none, it is damaged, it has another format version, or the cache cannot be used.
    """
    if isinstance(path, str) and is_url(path):
        remote = Remote(path, options or RemoteOptions())
        return ShardSet(remote.folder, remote)
    return ShardSet(Path(path))
