"""How fast samples become batches: our reader, stock webdataset and rasterio on the same pairs, in one run.

python benchmarks/loading.py [--pairs 2000] [--rounds 5]

A generated archive in BigEarthNet-MM's layout (2 + 12 bands, 14 GeoTIFFs a pair), once as it is and once as raw
shards, both in the page cache. Every competitor delivers shuffled batches of 64 pairs with all bands as torch tensors.
Rounds alternate between competitors, so that a noisy neighbour hits all of them. `first touch` is an epoch in which
every sample's checksum is computed; afterwards a run does not compute it again.
"""

import argparse
import itertools
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import rasterio
import torch
import webdataset
from results import write_results
from torch.utils.data import DataLoader, Dataset

from rspretrain.archives.bigearthnet import S1_GROUPS, S2_GROUPS, BigEarthNet
from rspretrain.archives.demo import write_demo
from rspretrain.shardset.build import build_shards
from rspretrain.shardset.index import ShardSet, open_shards
from rspretrain.streaming.loader import Loader
from rspretrain.streaming.settings import DataSettings
from rspretrain.world import World

BATCH, WORKERS = 64, 2
GROUPS = S1_GROUPS + S2_GROUPS


class GeoTiffs(Dataset):
    """What a careful user writes without shards: every band of a pair read with rasterio in a DataLoader's worker."""

    def __init__(self, archive: BigEarthNet) -> None:
        self.sources = [
            {"s1": archive.s1 / entry.source.s1, "s2": archive.s2 / entry.source.s2} for entry in archive.entries()[0]
        ]

    def __len__(self) -> int:
        return len(self.sources)

    def __getitem__(self, number: int) -> dict[str, torch.Tensor]:
        sample = {}
        for group in GROUPS:
            folder = self.sources[number][group.sensor]
            bands = []
            for band in group.bands:
                with rasterio.open(folder / f"{folder.name}_{band}.tif") as source:
                    bands.append(source.read(1))
            sample[group.name] = torch.from_numpy(np.stack(bands))
        return sample


def ours(shards: ShardSet) -> Callable[[], int]:
    """One loader for all rounds: its first epoch checks every sample, later ones do not need to."""
    data = DataSettings(shards=shards.path, threads=WORKERS)
    world = World(0, 1, 0, torch.device("cpu"))
    loader = Loader(shards, data, list(shards.groups), global_batch=BATCH, seed=0, world=world)
    batches = loader.batches()
    return lambda: sum(len(batch) for batch in itertools.islice(batches, loader.steps_per_epoch))


def first_touch(shards: ShardSet) -> Callable[[], int]:
    """A new loader every round, so that every sample is checked in it."""
    return lambda: ours(shards)()


def stock_webdataset(shards: ShardSet) -> Callable[[], int]:
    """The documented pipeline: shuffle, decode, batch in workers."""
    urls = [str(shards.path / entry.name) for entry in shards.manifest.shards]
    members = [f"{group.name}.npy" for group in GROUPS]
    pipeline = (
        webdataset.WebDataset(urls, shardshuffle=len(urls))
        .shuffle(1000)
        .decode()
        .to_tuple(*members)
        .map(lambda arrays: tuple(torch.from_numpy(array) for array in arrays))
        .batched(BATCH, partial=False)
    )
    loader = webdataset.WebLoader(pipeline, batch_size=None, num_workers=WORKERS)
    return lambda: sum(len(batch[0]) for batch in loader)


def plain_rasterio(archive: BigEarthNet, pairs: int) -> Callable[[], int]:
    """GeoTIFFs through a DataLoader; fewer pairs, because the rate is low and constant."""
    loader = DataLoader(
        GeoTiffs(archive),
        BATCH,
        num_workers=WORKERS,
        sampler=torch.utils.data.RandomSampler(range(len(archive.entries()[0])), num_samples=pairs),
    )
    return lambda: sum(len(batch["s1_10m"]) for batch in loader)


def memcpy(shards: ShardSet) -> Callable[[], int]:
    """The same bytes moved by one numpy copy from the mapped shards: the roof over every loader on this machine."""
    maps = [np.memmap(shards.path / entry.name, np.uint8, "r") for entry in shards.manifest.shards]
    buffer = np.empty(max(len(each) for each in maps), np.uint8)

    def run() -> int:
        for each in maps:
            np.copyto(buffer[: len(each)], each)
        return len(shards)

    return run


def rates(competitors: dict[str, Callable[[], int]], rounds: int) -> Iterator[tuple[str, list[float]]]:
    """Pairs per second of every competitor in every round, after one round that warms the page cache."""
    measured: dict[str, list[float]] = {name: [] for name in competitors}
    for number in range(rounds + 1):
        for name, run in competitors.items():
            started = time.perf_counter()
            pairs = run()
            if number:
                measured[name].append(pairs / (time.perf_counter() - started))
    yield from measured.items()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--pairs", type=int, default=2000)
    parser.add_argument("--rounds", type=int, default=5)
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder)
        write_demo(root / "archive", args.pairs, seed=0, workers=WORKERS)
        archive = BigEarthNet(s2=root / "archive", s1=root / "archive")
        build_shards(archive, root / "shards", samples_per_shard=250, workers=WORKERS)
        shards = open_shards(root / "shards")
        competitors = {
            "rspretrain": ours(shards),
            "rspretrain, first touch": first_touch(shards),
            "webdataset, 2 workers": stock_webdataset(shards),
            "rasterio, 2 workers": plain_rasterio(archive, min(320, args.pairs)),
            "one memcpy": memcpy(shards),
        }
        rows = [
            {
                "loader": name,
                "pairs_per_s": round(statistics.median(values)),
                "slowest": round(min(values)),
                "fastest": round(max(values)),
            }
            for name, values in rates(competitors, args.rounds)
        ]
    by_name = {row["loader"]: row["pairs_per_s"] for row in rows}
    for row in rows:
        row["times_webdataset"] = round(row["pairs_per_s"] / by_name["webdataset, 2 workers"], 1)
        row["times_rasterio"] = round(row["pairs_per_s"] / by_name["rasterio, 2 workers"], 1)
    write_results("loading", rows, {"pairs": args.pairs, "rounds": args.rounds, "batch": BATCH})


if __name__ == "__main__":
    main()
