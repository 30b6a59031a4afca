"""The laws of the design: one function each, run for every member of its kind."""

import json

import numpy as np

from rspretrain.archives.base import Archive
from rspretrain.patch import Patch
from rspretrain.shardset.index import decode_npy
from rspretrain.shardset.record import encode
from rspretrain.streaming.order import Order, rank_slice


def check_order(order: Order, epoch: int, world: int, accumulation: int, global_batch: int) -> None:
    """Law 3: every sample once an epoch; global batches are the same list for any world, accumulation and restart."""
    positions = np.arange(len(order))
    everything = order.samples(epoch, positions)
    assert sorted(everything.tolist()) == positions.tolist()
    seen = []
    for batch in range(-(-len(order) // global_batch)):
        listed = order.batch_positions(batch, global_batch)
        seen += listed.tolist()
        alone = order.samples(epoch, listed)
        assert alone.tolist() == everything[listed].tolist()
        if len(listed) < global_batch:
            continue  # the short batch is never split among ranks
        for ranks in (world, world * accumulation):
            parts = [order.samples(epoch, listed[rank_slice(global_batch, rank, ranks)]) for rank in range(ranks)]
            assert np.concatenate(parts).tolist() == alone.tolist()
    assert sorted(seen) == positions.tolist()
    restarted = Order(order.sizes, seed=order.seed, streams=order.streams, window=order.window)
    middle = len(order) // 2
    assert restarted.samples(epoch, positions[middle:]).tolist() == everything[middle:].tolist()


def check_record(archive: Archive, patch: Patch) -> None:
    """Law 2: decode(encode(x)) is x, bit for bit, and encoding is a function of the patch."""
    record, again = (encode(patch, archive.groups, archive.nomenclatures, archive.metadata_bytes) for _ in range(2))
    assert record == again
    for group in archive.groups:
        span = record.members[group.name]
        decoded = decode_npy(record.data[span.offset : span.offset + span.bytes])
        assert decoded.dtype == patch.images[group.name].dtype
        assert decoded.tobytes() == patch.images[group.name].tobytes()
    span = record.members["json"]
    metadata = json.loads(record.data[span.offset : span.offset + span.bytes])
    assert metadata["labels"] == {name: list(labels) for name, labels in patch.labels.items()}
    assert metadata["attributes"] == patch.attributes
