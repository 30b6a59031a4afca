"""The competitors of the loading benchmark: our loader, and other loaders set up as their documentation recommends.

A competitor delivers shuffled batches of BATCH samples: a mapping with one tensor [B C H W] per group. Loaders with
processes use WORKERS persistent workers. Stores split into files use about SHARD_BYTES per file, the default of litdata
and mosaicml-streaming. All have the shard set's samples, uncompressed.
"""

import itertools
import multiprocessing
from collections.abc import Callable, Iterator, Mapping
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
import webdataset
from loading_archives import WORKERS, Kind, read_files
from safetensors.numpy import load, save
from torch.utils.data import DataLoader, Dataset, RandomSampler

from rspretrain.archives.base import Archive
from rspretrain.nn.torchvision_shim import ensure_torchvision
from rspretrain.sensors import Group
from rspretrain.shardset.index import ShardSet
from rspretrain.streaming.dataset import ShardDataset
from rspretrain.streaming.loader import Loader
from rspretrain.streaming.settings import DataSettings
from rspretrain.world import World

BATCH = 64
SHARD_BYTES = 64 << 20
FILES = 4480  # maximum number of source files per epoch for rasterio: 320 BigEarthNet-MM pairs, all of the others
Batches = Iterator[Mapping[str, torch.Tensor]]


class Competitor(NamedTuple):
    """`batches` yields the batches of a number of epochs; the last batch of an epoch may be partial or dropped."""

    settings: str
    batches: Callable[[int], Batches]
    prepare: Callable[[], None] | None = None  # runs untimed before every round, which is then one epoch
    samples: int | None = None  # samples per epoch, if fewer than the archive has

    def run(self, epochs: int) -> int:
        """Load `epochs` epochs; the number of delivered samples."""
        return sum(len(next(iter(batch.values()))) for batch in self.batches(epochs))


# DataLoader options of all competitors.
USUAL: dict[str, Any] = {"num_workers": WORKERS, "persistent_workers": True}
MAPPED: dict[str, Any] = {"batch_size": BATCH, **USUAL}


def epochs_of(loader: DataLoader) -> Callable[[int], Batches]:
    return lambda epochs: (batch for _ in range(epochs) for batch in loader)


def ours(shards: ShardSet) -> Competitor:
    """One loader for all rounds. Its first epoch verifies every sample; later ones do not repeat this.

    Each round starts without prefetched batches.
    """
    data = DataSettings(shards=shards.path, threads=WORKERS)
    world = World(0, 1, 0, torch.device("cpu"))
    loader = Loader(shards, data, list(shards.groups), global_batch=BATCH, seed=0, world=world)
    step = 0

    def batches(epochs: int) -> Batches:
        nonlocal step
        first, step = step, step + epochs * loader.steps_per_epoch
        for batch in itertools.islice(loader.batches(first), step - first):
            yield batch.images

    return Competitor(
        f"{WORKERS} threads, window of {data.window} shards, checksums known since the first epoch", batches
    )


def first_touch(shards: ShardSet, prepare: Callable[[], None] | None = None) -> Competitor:
    """A new loader per epoch, so that every epoch verifies all samples."""

    def batches(epochs: int) -> Batches:
        for _ in range(epochs):
            yield from ours(shards).batches(1)

    return Competitor(f"{WORKERS} threads, a new loader, every checksum computed", batches, prepare)


def stock_webdataset(shards: ShardSet, prepare: Callable[[], None] | None = None) -> Competitor:
    """The documented pipeline: shuffled shards and shuffle buffer, decoding and batching in the workers."""
    names = list(shards.groups)
    pipeline = (
        webdataset.WebDataset(shards.urls(), shardshuffle=len(shards.urls()))
        .shuffle(1000)
        .decode()
        .to_tuple(*(f"{name}.npy" for name in names))
        .map(lambda arrays: tuple(torch.from_numpy(array) for array in arrays))
        .batched(BATCH)
    )
    loader = webdataset.WebLoader(pipeline, batch_size=None, **USUAL)
    batches = epochs_of(loader)
    return Competitor(
        f"{WORKERS} workers, shards shuffled, buffer of 1000, batched in the workers",
        lambda epochs: (dict(zip(names, batch, strict=True)) for batch in batches(epochs)),
        prepare,
    )


def over_the_index(shards: ShardSet) -> Competitor:
    loader = DataLoader(ShardDataset(shards), shuffle=True, **MAPPED)
    names = list(shards.groups)
    batches = epochs_of(loader)
    return Competitor(
        f"{WORKERS} workers, ShardDataset, every checksum computed at every read",
        lambda epochs: ({name: batch[name] for name in names} for batch in batches(epochs)),
    )


class SourceFiles(Dataset[dict[str, torch.Tensor]]):
    """The archive's original files, read with rasterio."""

    def __init__(self, kind: Kind, archive: Archive) -> None:
        self.samples = [
            {group.name: kind.files(archive, entry, group) for group in archive.groups}
            for entry in archive.entries()[0]
        ]

    def __len__(self) -> int:
        return len(self.samples)

    def __getitem__(self, number: int) -> dict[str, torch.Tensor]:
        return {name: torch.from_numpy(read_files(files)) for name, files in self.samples[number].items()}


def plain_rasterio(source: SourceFiles) -> Competitor:
    """Limits the samples per epoch for archives with many files, because the rate is low and constant."""
    files = sum(len(each) for each in source.samples[0].values())
    samples = min(len(source), FILES // files)
    loader = DataLoader(source, sampler=RandomSampler(source, num_samples=samples), **MAPPED)
    settings = f"{WORKERS} workers, source files of a sample: {files}, samples of an epoch: {samples}"
    return Competitor(settings, epochs_of(loader), samples=samples)


class Lmdb(Dataset[dict[str, torch.Tensor]]):
    """rico-hdl's layout, opened as ConfigILM does: one safetensors blob per patch with one tensor per band."""

    def __init__(self, folder: Path, keys: list[str], groups: list[Group]) -> None:
        self.folder, self.keys, self.groups = folder, keys, groups
        self.sensors = list(dict.fromkeys(group.sensor for group in groups))
        self.env: Any = None  # each worker opens its own

    def __len__(self) -> int:
        return len(self.keys)

    def __getitem__(self, number: int) -> dict[str, torch.Tensor]:
        import lmdb

        if self.env is None:
            self.env = lmdb.open(
                str(self.folder), readonly=True, lock=False, meminit=False, readahead=False, max_spare_txns=16
            )
        bands: dict[str, np.ndarray] = {}
        with self.env.begin(write=False, buffers=True) as transaction:
            for sensor in self.sensors:
                bands |= load(bytes(transaction.get(f"{self.keys[number]}/{sensor}".encode())))
        stacks = {group.name: np.stack([bands[band] for band in group.bands]) for group in self.groups}
        return {name: torch.from_numpy(stack) for name, stack in stacks.items()}


def lmdb_safetensors(shards: ShardSet, folder: Path) -> Competitor:
    import lmdb

    groups = list(shards.groups.values())
    with lmdb.open(str(folder), map_size=1 << 40) as env, env.begin(write=True) as transaction:
        for patch in shards:
            values: dict[str, dict[str, np.ndarray]] = {}
            for group in groups:
                bands = zip(group.bands, patch.images[group.name], strict=True)
                values.setdefault(group.sensor, {}).update((name, np.ascontiguousarray(band)) for name, band in bands)
            for sensor, value in values.items():
                transaction.put(f"{patch.key}/{sensor}".encode(), save(value))
    loader = DataLoader(Lmdb(folder, shards.keys(), groups), shuffle=True, **MAPPED)
    return Competitor(f"{WORKERS} workers, a blob a patch, a tensor a band, no readahead, no lock", epochs_of(loader))


def tensors_of(shards: ShardSet, row: int) -> dict[str, torch.Tensor]:
    return {name: torch.from_numpy(np.array(image)) for name, image in shards[row].images.items()}


def litdata(shards: ShardSet, folder: Path) -> Competitor:
    """Chunks of tensors, read in place from a local folder through mapped files."""
    ensure_torchvision()
    import litdata

    method = multiprocessing.get_start_method()
    rows = list(range(len(shards)))
    litdata.optimize(
        partial(tensors_of, shards), rows, str(folder), chunk_bytes=SHARD_BYTES, num_workers=WORKERS, verbose=False
    )
    multiprocessing.set_start_method(method, force=True)  # litdata.optimize sets it to spawn globally
    dataset = litdata.StreamingDataset(str(folder), shuffle=True)
    loader = litdata.StreamingDataLoader(dataset, **MAPPED)
    return Competitor(f"{WORKERS} workers, chunks of 64 MB, shuffle, tensors", epochs_of(loader))


def mosaicml_streaming(shards: ShardSet, folder: Path) -> Competitor:
    """MDS shards with one column of static shape per group; default shuffle_algo (py1e) and block size."""
    ensure_torchvision()
    import streaming

    columns = {
        group.name: f"ndarray:{group.dtype}:{','.join(map(str, (len(group.bands), *group.shape)))}"
        for group in shards.groups.values()
    }
    with streaming.MDSWriter(out=str(folder), columns=columns, size_limit=SHARD_BYTES) as writer:
        for patch in shards:
            writer.write({name: np.array(image) for name, image in patch.images.items()})
    dataset = streaming.StreamingDataset(local=str(folder), shuffle=True, batch_size=BATCH)
    settings = f"{WORKERS} workers, shards of 64 MB, shuffle (py1e), batch_size set"
    return Competitor(settings, epochs_of(DataLoader(dataset, **MAPPED)))
