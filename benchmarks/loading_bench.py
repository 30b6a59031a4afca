"""The competitors on one archive, and the check that all of them deliver the same pixels."""

import math
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path

import numpy as np
import xxhash
from loading_archives import KINDS, WORKERS
from loading_bounds import Bound, StillCachedError, drop, memcpy, sequential_read
from loading_competitors import (
    BATCH,
    SHARD_BYTES,
    USUAL,
    Batches,
    Competitor,
    SourceFiles,
    first_touch,
    litdata,
    lmdb_safetensors,
    mosaicml_streaming,
    ours,
    over_the_index,
    plain_rasterio,
    stock_webdataset,
)
from torch.utils.data import DataLoader

from rspretrain.archives.base import Archive
from rspretrain.sensors import Group
from rspretrain.shardset.building.build import build_shards
from rspretrain.shardset.index import ShardSet, open_shards


def digests(batches: Batches, groups: list[Group]) -> Iterator[int]:
    """A checksum per sample over all pixels of all bands, in the order of the archive's groups."""
    for batch in batches:
        arrays = [batch[group.name].numpy() for group in groups]
        for array, group in zip(arrays, groups, strict=True):
            assert (array.dtype.name, array.shape[1:]) == (group.dtype, (len(group.bands), *group.shape))
        for sample in range(len(arrays[0])):
            digest = xxhash.xxh3_128()
            for array in arrays:
                digest.update(np.ascontiguousarray(array[sample]))
            yield digest.intdigest()


class Bench:
    """One archive: its source files, and shard sets built on demand."""

    def __init__(self, root: Path, name: str, samples: int) -> None:
        self.root = root
        KINDS[name].write(root / "archive", samples)
        self.archive: Archive = KINDS[name].open(root / "archive")
        self.groups: list[Group] = list(self.archive.groups)
        self.source = SourceFiles(KINDS[name], self.archive)
        assert len(self.source) == samples, "the archive's reader finds what was written"
        self.sample_bytes = sum(tensor.nbytes for tensor in self.source[0].values())
        num_shards = WORKERS * math.ceil(
            self.sample_bytes * samples / SHARD_BYTES / WORKERS
        )  # equal numbers per worker
        self.samples_per_shard = math.ceil(samples / num_shards)

    def shards(self, folder: str, codec: str = "raw") -> ShardSet:
        """A shard set of the whole archive; an existing one is reused."""
        path = self.root / folder
        build_shards(self.archive, path, samples_per_shard=self.samples_per_shard, codec=codec, workers=WORKERS)
        return open_shards(path)

    def cold(self) -> tuple[ShardSet, Callable[[], None]]:
        """A separate set, because mapped files stay in the page cache, and a function that drops it from the cache."""
        shards = self.shards("cold")
        prepare = partial(drop, [Path(path) for path in shards.urls()])
        prepare()
        return shards, prepare

    def competitors(self) -> dict[str, Callable[[], Competitor | Bound]]:
        """Name -> competitor, in the order of the table."""
        return {
            "rspretrain": lambda: ours(self.shards("raw")),
            "rspretrain, first touch": lambda: first_touch(self.shards("raw")),
            "rspretrain, bitshuffle-lz4": lambda: ours(self.shards("lz4", "bitshuffle-lz4")),
            "rspretrain, zstd": lambda: ours(self.shards("zstd", "zstd")),
            "DataLoader over the index": lambda: over_the_index(self.shards("raw")),
            "webdataset": lambda: stock_webdataset(self.shards("raw")),
            "LMDB + safetensors": lambda: lmdb_safetensors(self.shards("raw"), self.root / "lmdb"),
            "litdata": lambda: litdata(self.shards("raw"), self.root / "litdata"),
            "mosaicml-streaming": lambda: mosaicml_streaming(self.shards("raw"), self.root / "mds"),
            "rasterio": lambda: plain_rasterio(self.source),
            "one memcpy": lambda: memcpy(self.shards("raw")),
            "rspretrain, cold": lambda: first_touch(*self.cold()),
            "webdataset, cold": lambda: stock_webdataset(*self.cold()),
            "sequential read, cold": lambda: sequential_read(*self.cold()),
        }

    def of_source(self) -> frozenset[int]:
        """Checksums of all samples as rasterio reads them."""
        return frozenset(digests(DataLoader(self.source, BATCH, **USUAL), self.groups))


def check(name: str, found: list[int], expected: frozenset[int], samples: int) -> None:
    """RuntimeError if a competitor delivers other pixels, a sample twice, or too few samples.

    An epoch may lack the last, partial batch.
    """
    foreign = sum(digest not in expected for digest in found)
    minimum = samples // BATCH * BATCH
    if foreign or len(set(found)) < len(found) or len(found) < minimum:
        raise RuntimeError(
            f"{name} delivered {len(found)} samples in an epoch, {len(set(found))} of them distinct, {foreign} with "
            f"other pixels than the source; expected {minimum} to {samples} samples of the source, each once. Correct "
            "the competitor, or exclude it with --only."
        )


def set_up(bench: Bench, only: list[str]) -> dict[str, Competitor | Bound]:
    """All installed competitors, each checked against the source. ValueError if --only matches none."""
    chosen = {
        name: make for name, make in bench.competitors().items() if not only or any(text in name for text in only)
    }
    if not chosen:
        raise ValueError(f"--only got {only}, expected parts of {list(bench.competitors())}. Name one of these.")
    expected, ready = bench.of_source(), {}
    for name, make in chosen.items():
        try:
            competitor = make()
        except ImportError as reason:
            print(f"{name} is skipped: {reason}. `make bench` installs it (requirements/bench.txt).", flush=True)
            continue
        except StillCachedError as reason:
            print(f"{name} is skipped: {reason}", flush=True)
            continue
        if isinstance(competitor, Competitor):
            found = list(digests(competitor.batches(1), bench.groups))
            check(name, found, expected, competitor.samples or len(expected))
            print(f"{name}: {len(found)} samples equal the source", flush=True)
        ready[name] = competitor
    return ready
