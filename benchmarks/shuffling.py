"""How well samples are mixed: our order against a full permutation and against a buffer of 1,000 samples.

python benchmarks/shuffling.py [--samples 200000] [--mates 64]

An archive of scenes, each cut into `mates` tiles that lie side by side in the archive's order. For one epoch of every
way to shuffle: how far apart (in positions of the epoch) two tiles end up that were neighbours in the archive, as a
share of what a full permutation gives (N / 3), the share of such pairs closer than one batch, and how many tiles of a
batch have a mate of their own scene in it, again against a full permutation. No pixel is read: it is arithmetic.
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
    """Archive numbers in the order of shards, as shards/build.py deals them by a hash of their keys."""
    hashed = sorted((xxhash.xxh3_64_intdigest(f"tile-{i:08d}".encode()), i) for i in range(samples))
    chunks = (sorted(i for _, i in hashed[start : start + SHARD]) for start in range(0, samples, SHARD))
    return np.array([number for chunk in chunks for number in chunk])


def ours(in_shards: Ints, window: int, streams: int) -> Ints:
    """One epoch in global batches."""
    starts = range(0, len(in_shards), SHARD)
    sizes = np.array([len(in_shards[start : start + SHARD]) for start in starts])
    order = EpochSampler(sizes, seed=0, streams=streams, window=window)
    positions = np.concatenate([order.batch_positions(batch, BATCH) for batch in range(-(-len(order) // BATCH))])
    return in_shards[order.samples(0, positions)]


def buffered(in_shards: Ints) -> Ints:
    """Stock webdataset: shards shuffled, then a buffer of 1,000 samples from which a random one is taken."""
    rng = random.Random(0)
    shards = [in_shards[start : start + SHARD] for start in range(0, len(in_shards), SHARD)]
    rng.shuffle(shards)
    buffer: list[int] = []
    out: list[int] = []
    for number in np.concatenate(shards).tolist():
        buffer.append(number)
        if len(buffer) >= BUFFER:
            place = rng.randrange(len(buffer))
            buffer[place], buffer[-1] = buffer[-1], buffer[place]
            out.append(buffer.pop())
    rng.shuffle(buffer)
    return np.array(out + buffer)


def measure(sequence: Ints, mates: int) -> dict[str, float]:
    """Mean distance of archive neighbours over N/3, share of them within a batch's length, tiles with a mate."""
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
    parser.add_argument("--mates", type=int, default=64, help="tiles of a scene")
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
