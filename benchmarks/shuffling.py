"""Shuffling quality: our order compared with a full permutation and with a shuffle buffer of 1,000 samples.

python benchmarks/shuffling.py [--samples 200000] [--mates 64]

The archive consists of scenes, each cut into `mates` tiles that are adjacent in the archive's order. For one epoch of
each method, three values are computed: the mean distance in the epoch of two tiles that are adjacent in the archive,
relative to a full permutation (N / 3); the fraction of such pairs closer than one batch; and the fraction of tiles in a
batch with another tile of their scene in it. No pixel is read.
"""

import argparse
import random

import numpy as np
import xxhash
from numpy.typing import NDArray
from results import write_results

from rspretrain.streaming.sampler import EpochSampler

SHARD, BATCH, BUFFER = 1024, 256, 1000
Ints = NDArray[np.int64]


def dealt(samples: int) -> Ints:
    """Archive positions in the order of shards, as a build assigns samples to shards by a hash of their keys."""
    hashed = sorted((xxhash.xxh3_64_intdigest(f"tile-{i:08d}".encode()), i) for i in range(samples))
    chunks = (sorted(i for _, i in hashed[start : start + SHARD]) for start in range(0, samples, SHARD))
    return np.array([number for chunk in chunks for number in chunk])


def ours(in_shards: Ints, window: int, streams: int) -> Ints:
    """One epoch of our sampler, in global batches."""
    starts = range(0, len(in_shards), SHARD)
    sizes = np.array([len(in_shards[start : start + SHARD]) for start in starts])
    order = EpochSampler(sizes, seed=0, streams=streams, window=window)
    positions = np.concatenate([order.batch_positions(batch, BATCH) for batch in range(-(-len(order) // BATCH))])
    return in_shards[order.samples(0, positions)]


def buffered(in_shards: Ints) -> Ints:
    """webdataset's shuffle: shuffled shards, then random samples from a buffer of 1,000."""
    rng = random.Random(0)
    shards = [in_shards[start : start + SHARD] for start in range(0, len(in_shards), SHARD)]
    rng.shuffle(shards)
    buffer: list[int] = []
    out: list[int] = []
    for number in np.concatenate(shards).tolist():
        buffer.append(number)
        if len(buffer) >= BUFFER:
            index = rng.randrange(len(buffer))
            buffer[index], buffer[-1] = buffer[-1], buffer[index]
            out.append(buffer.pop())
    rng.shuffle(buffer)
    return np.array(out + buffer)


def measure(sequence: Ints, mates: int) -> dict[str, float]:
    """Mean distance of archive neighbours over N/3, fraction of them within a batch, fraction of tiles with a mate."""
    samples = len(sequence)
    assert np.array_equal(np.sort(sequence), np.arange(samples)), "every sample once"
    position = np.empty(samples, dtype=np.int64)
    position[sequence] = np.arange(samples)
    distance = np.abs(np.diff(position))
    scenes = sequence[: samples // BATCH * BATCH].reshape(-1, BATCH) // mates
    with_mate = [np.isin(batch, np.flatnonzero(np.bincount(batch) > 1)).mean() for batch in scenes]
    return {
        "neighbour_distance": float(distance.mean() / (samples / 3)),
        "neighbours_within_a_batch": float((distance < BATCH).mean()),
        "tiles_with_a_mate_in_their_batch": float(np.mean(with_mate)),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--samples", type=int, default=200_000)
    parser.add_argument("--mates", type=int, default=64, help="tiles per scene")
    args = parser.parse_args()
    archive, mixed = np.arange(args.samples), dealt(args.samples)
    ways = {
        "full permutation": np.random.default_rng(0).permutation(args.samples),
        "ours, window 16": ours(mixed, 16, 1),
        "ours, window 16, 8 streams": ours(mixed, 16, 8),
        "ours, window 1": ours(mixed, 1, 1),
        "ours, window 16, built with --order archive": ours(archive, 16, 1),
        "buffer of 1,000, our shards": buffered(mixed),
        "buffer of 1,000, shards in archive order": buffered(archive),
    }
    rows = [{"order": name, **measure(sequence, args.mates)} for name, sequence in ways.items()]
    for row in rows:
        print(f"{row['order']:<46}" + "".join(f"{value:>12.4f}" for value in list(row.values())[1:]))
    write_results("shuffling", rows, {"samples": args.samples, "mates": args.mates, "shard": SHARD, "batch": BATCH})


if __name__ == "__main__":
    main()
