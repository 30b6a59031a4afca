import itertools
import time

import numpy as np
import pytest
import torch
from fakes.memory import memory_shards

from rspretrain.streaming.pipeline import Pipeline, WorkItem
from rspretrain.streaming.reader import JointReader, Reader
from rspretrain.streaming.sources import Sources


def pipeline(shards, **options):
    reader = JointReader(Sources({"set": shards}), [Reader(shards, ["s2_60m"])])
    options = {"threads": 2, "prefetch": 2, "device": torch.device("cpu")} | options
    return Pipeline(reader, ["s2_60m"], 4, **options)


def work(count):
    return (WorkItem(np.arange(4) + step % 12, np.arange(4)) for step in range(count))


@pytest.mark.parametrize("threads", [1, 3])
def test_batches_come_in_the_order_of_the_work(tmp_path, threads):
    made = pipeline(memory_shards(tmp_path, samples=16), threads=threads, prefetch=3)
    assert [batch.rows[0] for batch in made.run(work(10))] == list(range(10))


def test_a_batch_is_valid_until_the_next_is_requested(tmp_path):
    shards = memory_shards(tmp_path, samples=16)
    made = pipeline(shards, prefetch=1)
    for batch in made.run(work(8)):
        before = batch.images["s2_60m"].clone()
        time.sleep(0.01)
        assert torch.equal(batch.images["s2_60m"], before)


def test_wait_and_cpu_time_are_measured(tmp_path):
    made = pipeline(memory_shards(tmp_path, samples=16))
    for _ in itertools.islice(made.run(work(50)), 50):
        pass
    assert 0 < made.cpu_s < 5
    assert 0 < made.wait_s < 5


def test_errors_of_threads_reach_the_consumer(tmp_path):
    made = pipeline(memory_shards(tmp_path, samples=16))
    with pytest.raises(IndexError):
        list(made.run(iter([WorkItem(np.array([99, 99, 99, 99]), np.arange(4))])))
