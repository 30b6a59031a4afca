import numpy as np
import pytest
import torch
import webdataset
from fakes.memory import PAIR_GROUPS, MemoryArchive, memory_shards
from servers import serving
from torch.utils.data import DataLoader

import rspretrain
from rspretrain.streaming.dataset import ShardDataset


def test_samples_by_row_by_key_and_by_iteration(tmp_path):
    memory_shards(tmp_path, samples=20)
    shards, archive = rspretrain.open_shards(tmp_path), MemoryArchive()
    seen = []
    for patch in shards:
        original = archive.read(archive.entries()[0][int(patch.key[-5:])])
        for field in ("labels", "split", "crs", "bounds", "attributes"):
            assert getattr(patch, field) == getattr(original, field)
        assert all(np.array_equal(patch.images[group.name], original.images[group.name]) for group in PAIR_GROUPS)
        seen.append(patch.key)
    assert seen == shards.keys()
    assert shards[-1].key == shards[19].key == shards[seen[19]].key == seen[19]
    with pytest.raises(KeyError, match="has no sample 'Patch7'"):
        shards["Patch7"]
    with pytest.raises(IndexError, match=r"has 20 samples, expected a row in \[-20, 20\), got 20"):
        shards[20]


@pytest.mark.parametrize("workers", [0, 2])
def test_data_loader_over_a_selection(tmp_path, workers):
    shards = memory_shards(tmp_path, samples=40)
    data = ShardDataset(shards, split="train", filter="country == 'Finland'")
    assert len(data) == 16
    keys = []
    for batch in DataLoader(data, batch_size=4, num_workers=workers):
        for index, key in enumerate(batch["key"]):
            number = int(key[-5:])
            for group in PAIR_GROUPS:
                expected = torch.from_numpy(MemoryArchive().pixels(number, group))
                assert torch.equal(batch[group.name][index], expected)
            assert batch["labels_class"][index] == number % 3
            assert batch["labels_all"][index].tolist() == [1, 1, 1]  # odd numbers have all classes
        keys += batch["key"]
    assert sorted(keys) == [f"patch-{i:05d}" for i in range(40) if i % 2 and i % 5]


@pytest.mark.timeout(60)
def test_data_loader_workers_download_shards(tmp_path):
    memory_shards(tmp_path / "set", samples=40)
    with serving(tmp_path / "set") as server:
        shards = rspretrain.open_shards(server.url, cache_dir=tmp_path / "cache")
        assert shards[0].key in shards.keys()  # starts fsspec's event loop, which forked workers do not inherit
        found = [key for batch in DataLoader(ShardDataset(shards), batch_size=4, num_workers=2) for key in batch["key"]]
        assert found == shards.keys()
        assert set(server.shards().values()) == {1}


def test_transform_is_applied_to_every_sample(tmp_path):
    data = ShardDataset(memory_shards(tmp_path, samples=4), transform=lambda sample: sample["s1_10m"].mean())
    assert all(isinstance(data[i], torch.Tensor) for i in range(4))


def test_stock_webdataset_reads_the_urls(tmp_path):
    shards = memory_shards(tmp_path, samples=20)
    samples = webdataset.WebDataset(shards.urls(), shardshuffle=False).decode()
    assert [sample["__key__"] for sample in samples] == shards.keys()
