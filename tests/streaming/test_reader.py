import numpy as np
import pytest
from fakes.memory import PAIR_GROUPS, SCENE_GROUPS, MemoryArchive, memory_shards

from rspretrain.shardset.index import CorruptSampleError, open_shards
from rspretrain.streaming.reader import Buffers, Reader
from rspretrain.streaming.sources import Sources


def buffers_of(shards, groups, count):
    sources = Sources({"set": shards})
    kinds = {name: sources.groups[name] for name in groups}
    images = {
        name: np.zeros((count, len(group.bands), *sources.canvas[name]), group.dtype) for name, group in kinds.items()
    }
    return Buffers(images, {name: np.zeros((count, 2), np.int64) for name in kinds if kinds[name].shape is None})


def test_pixels_of_uniform_shards(tmp_path):
    shards = memory_shards(tmp_path, samples=20)
    assert all(entry.uniform for entry in shards.manifest.shards)
    reader = Reader(shards, list(shards.groups))
    rows = np.array([19, 0, 7, 7, 3])
    buffers = buffers_of(shards, shards.groups, 6)
    reader.gather(rows, buffers, range(5))
    for place, key in enumerate(shards.keys(rows)):
        for group in PAIR_GROUPS:
            expected = MemoryArchive().pixels(int(key[-5:]), group)
            np.testing.assert_array_equal(buffers.images[group.name][place], expected)
    assert not buffers.images["s1_10m"][5].any()  # nothing beyond the rows


def test_images_of_different_sizes_keep_all_their_pixels(tmp_path):
    shards = memory_shards(tmp_path, samples=12, groups=SCENE_GROUPS)
    reader = Reader(shards, ["rgb"])
    buffers = buffers_of(shards, ["rgb"], 12)
    reader.gather(np.arange(12), buffers, range(12))
    for place, key in enumerate(shards.keys()):
        expected = MemoryArchive(groups=SCENE_GROUPS).pixels(int(key[-5:]), SCENE_GROUPS[0])
        height, width = buffers.sizes["rgb"][place]
        assert (height, width) == expected.shape[1:]
        np.testing.assert_array_equal(buffers.images["rgb"][place, :, :height, :width], expected)


def flip_byte(path, position):
    data = bytearray(path.read_bytes())
    data[position] ^= 1
    path.write_bytes(bytes(data))


def test_damage_is_named_on_first_touch(tmp_path):
    shards = memory_shards(tmp_path, samples=16)
    flip_byte(tmp_path / "memory-000001.tar", 700)
    reader = Reader(open_shards(tmp_path), ["s2_60m"])
    buffers = buffers_of(shards, ["s2_60m"], 8)
    reader.gather(np.arange(8), buffers, range(8))  # the other shard is whole
    with pytest.raises(CorruptSampleError, match=rf"Sample '{shards.keys()[8]}' of .*memory-000001.tar \(record 0, by"):
        reader.gather(np.arange(8, 16), buffers, range(8))


def test_checks_can_be_switched_off(tmp_path):
    shards = memory_shards(tmp_path, samples=16)
    flip_byte(tmp_path / "memory-000001.tar", 700)
    reader = Reader(open_shards(tmp_path), ["s2_60m"], verify=False)
    reader.gather(np.arange(8, 16), buffers_of(shards, ["s2_60m"], 8), range(8))


def test_truncated_and_missing_shards(tmp_path):
    shards = memory_shards(tmp_path, samples=16)
    buffers = buffers_of(shards, ["s1_10m"], 1)
    shard = tmp_path / "memory-000001.tar"
    shard.write_bytes(shard.read_bytes()[:-600])
    reader = Reader(open_shards(tmp_path), ["s1_10m"])
    with pytest.raises(RuntimeError, match=r"memory-000001.tar has \d+ bytes, its manifest says \d+: it was cut off"):
        reader.gather(np.array([9]), buffers, [0])
    shard.unlink()
    with pytest.raises(RuntimeError, match=r"cannot be opened .*promises 8 samples"):
        Reader(open_shards(tmp_path), ["s1_10m"]).gather(np.array([9]), buffers, [0])


def test_unknown_group(tmp_path):
    with pytest.raises(ValueError, match=r"has no groups \['rgb'\]; it has \['s1_10m', "):
        Reader(memory_shards(tmp_path, samples=4), ["rgb"])
