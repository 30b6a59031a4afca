import itertools

import numpy as np
import pytest
import torch
from fakes.memory import PAIR_GROUPS, SCENE_GROUPS, MemoryArchive, memory_shards

from rspretrain.sensors import Group
from rspretrain.shardset.index import CorruptSampleError, open_shards
from rspretrain.streaming.loader import Loader
from rspretrain.streaming.reader import Buffers, Reader
from rspretrain.streaming.settings import DataSettings
from rspretrain.streaming.sources import Sources, open_sources
from rspretrain.world import World

LARGER = Group("s1_10m", "s1", ("VV", "VH"), "float32", (20, 16), 10.0, "db")


def make_buffers(shards, groups, count):
    sources = Sources({"set": shards})
    used = {name: sources.groups[name] for name in groups}
    images = {
        name: np.zeros((count, len(group.bands), *sources.canvas[name]), group.dtype) for name, group in used.items()
    }
    return Buffers(images, {name: np.zeros((count, 2), np.int64) for name in used if used[name].shape is None})


def test_pixels_of_uniform_shards(tmp_path):
    shards = memory_shards(tmp_path, samples=20)
    assert all(entry.uniform for entry in shards.manifest.shards)
    reader = Reader(shards, list(shards.groups))
    rows = np.array([19, 0, 7, 7, 3])
    buffers = make_buffers(shards, shards.groups, 6)
    reader.gather(rows, buffers, range(5))
    for index, key in enumerate(shards.keys(rows)):
        for group in PAIR_GROUPS:
            expected = MemoryArchive().pixels(int(key[-5:]), group)
            np.testing.assert_array_equal(buffers.images[group.name][index], expected)
    assert not buffers.images["s1_10m"][5].any()  # the rest of the buffer stays empty


def test_images_of_different_sizes_keep_all_their_pixels(tmp_path):
    shards = memory_shards(tmp_path, samples=12, groups=SCENE_GROUPS)
    reader = Reader(shards, ["rgb"])
    buffers = make_buffers(shards, ["rgb"], 12)
    reader.gather(np.arange(12), buffers, range(12))
    for index, key in enumerate(shards.keys()):
        expected = MemoryArchive(groups=SCENE_GROUPS).pixels(int(key[-5:]), SCENE_GROUPS[0])
        height, width = buffers.sizes["rgb"][index]
        assert (height, width) == expected.shape[1:]
        np.testing.assert_array_equal(buffers.images["rgb"][index, :, :height, :width], expected)


def flip_byte(path, position):
    data = bytearray(path.read_bytes())
    data[position] ^= 1
    path.write_bytes(bytes(data))


def test_damage_is_found_at_the_first_read(tmp_path):
    shards = memory_shards(tmp_path, samples=16)
    flip_byte(tmp_path / "memory-000001.tar", 700)
    reader = Reader(open_shards(tmp_path), ["s2_60m"])
    buffers = make_buffers(shards, ["s2_60m"], 8)
    reader.gather(np.arange(8), buffers, range(8))  # the other shard is intact
    with pytest.raises(CorruptSampleError, match=rf"Sample '{shards.keys()[8]}' of .*memory-000001.tar \(record 0, by"):
        reader.gather(np.arange(8, 16), buffers, range(8))


def test_verification_can_be_disabled(tmp_path):
    shards = memory_shards(tmp_path, samples=16)
    flip_byte(tmp_path / "memory-000001.tar", 700)
    reader = Reader(open_shards(tmp_path), ["s2_60m"], verify=False)
    reader.gather(np.arange(8, 16), make_buffers(shards, ["s2_60m"], 8), range(8))


def test_truncated_and_missing_shards(tmp_path):
    shards = memory_shards(tmp_path, samples=16)
    buffers = make_buffers(shards, ["s1_10m"], 1)
    shard = tmp_path / "memory-000001.tar"
    shard.write_bytes(shard.read_bytes()[:-600])
    reader = Reader(open_shards(tmp_path), ["s1_10m"])
    with pytest.raises(RuntimeError, match=r"memory-000001.tar has \d+ bytes, expected \d+: it was truncated"):
        reader.gather(np.array([9]), buffers, [0])
    shard.unlink()
    with pytest.raises(RuntimeError, match=r"cannot be opened .*, expected 8 samples"):
        Reader(open_shards(tmp_path), ["s1_10m"]).gather(np.array([9]), buffers, [0])


def test_unknown_group(tmp_path):
    with pytest.raises(ValueError, match=r"has no groups \['rgb'\], expected some of \['s1_10m', "):
        Reader(memory_shards(tmp_path, samples=4), ["rgb"])


def mixed_loader(folder, groups, **settings):
    data = DataSettings(
        sources=[{"shards": folder / "a", "weight": 0.6}, {"shards": folder / "b", "weight": 0.4}], window=2, **settings
    )
    return Loader(
        open_sources(data), data, groups, global_batch=8, seed=3, world=World(0, 1, 0, torch.device("cpu"))
    )  # fmt: skip


@pytest.mark.parametrize("other", [PAIR_GROUPS, (LARGER, PAIR_GROUPS[1])])
def test_mixture_reads_every_sample_from_its_own_set(tmp_path, other):
    archives = {"a": MemoryArchive(samples=20), "b": MemoryArchive(samples=20, seed=9, groups=other)}
    for name, archive in archives.items():
        memory_shards(tmp_path / name, samples=20, seed=archive.seed, groups=archive.groups)
    stream = mixed_loader(tmp_path, ["s1_10m", "s2_10m"])
    for batch in itertools.islice(stream.batches(), 6):
        for index, key in enumerate(stream.sources.keys(batch.rows)):
            name, _, patch = key.partition(":")
            for group in archives[name].groups[:2]:
                image = torch.from_numpy(archives[name].pixels(int(patch[-5:]), group))
                height, width = image.shape[1:]
                assert torch.equal(batch.images[group.name][index, :, :height, :width], image)
                if group.name in batch.sizes:
                    assert batch.sizes[group.name][index].tolist() == [height, width]
    assert ("s1_10m" in batch.sizes) == (other is not PAIR_GROUPS)


def test_mixture_of_images_of_different_sizes(tmp_path):
    for name in "ab":
        memory_shards(tmp_path / name, samples=20, groups=SCENE_GROUPS, seed=ord(name))
    batch = next(mixed_loader(tmp_path, ["rgb"]).batches())
    assert batch.sizes["rgb"].min() > 0


def test_a_replacement_comes_from_the_same_set(tmp_path):
    for name in "ab":
        memory_shards(tmp_path / name, samples=20)
    shard = tmp_path / "b" / "memory-000001.tar"
    data = bytearray(shard.read_bytes())
    data[700] ^= 1
    shard.write_bytes(data)
    stream = mixed_loader(tmp_path, ["s2_60m"], on_corrupt="quarantine")
    for _ in itertools.islice(stream.batches(), 10):
        pass
    ((row, replacement),) = stream.replacements.items()
    assert row == 20 + 8
    assert replacement >= 20
    assert stream.num_replaced >= 1
    (key,) = stream.sources.keys(np.array([row]))
    assert key.startswith("b:patch-")
