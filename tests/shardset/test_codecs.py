"""Every codec is lossless, here and in stock webdataset, and checks sizes before it allocates."""

import io
import tarfile
import textwrap
from concurrent.futures import ThreadPoolExecutor

import numcodecs
import numpy as np
import pytest
import webdataset

from rspretrain.shardset import codecs
from rspretrain.shardset.codecs import CODECS, codec_of, decode, encode
from rspretrain.shardset.record import npy_header

COMPRESSED = [name for name in CODECS if name != "raw"]


def npy(dtype: str = "uint16", shape: tuple[int, ...] = (4, 60, 60), seed: int = 0) -> bytes:
    values = np.random.default_rng(seed).gamma(3.0, 30.0, shape).clip(0, 250).astype(dtype)
    return npy_header(dtype, shape) + values.tobytes()


@pytest.mark.parametrize("codec", CODECS)
@pytest.mark.parametrize("dtype", ["uint8", "uint16", "int16", "float32", "float64"])
@pytest.mark.parametrize("shape", [(1, 1, 1), (3, 7, 5), (12, 120, 120), (0, 4, 4)])
def test_decode_inverts_encode(codec, dtype, shape):
    data = npy(dtype, shape)
    member = encode(codec, data, np.dtype(dtype).itemsize)
    assert bytes(decode(codec, member)) == data
    assert encode(codec, data, np.dtype(dtype).itemsize) == member
    out = np.empty(len(data), np.uint8)
    decode(codec, member, out=out)
    assert out.tobytes() == data


@pytest.mark.parametrize("codec", COMPRESSED)
def test_compressed_arrays_are_smaller(codec):
    assert len(encode(codec, npy(), 2)) < 0.6 * len(npy())


@pytest.mark.parametrize("codec", CODECS)
def test_many_threads_at_once(codec):
    arrays = [npy(seed=seed) for seed in range(40)]
    with ThreadPoolExecutor(8) as pool:
        members = list(pool.map(lambda data: encode(codec, data, 2), arrays))
        decoded = list(pool.map(lambda member: bytes(decode(codec, member)), members * 5))
    assert members == [encode(codec, data, 2) for data in arrays]
    assert decoded == arrays * 5


@pytest.mark.parametrize("codec", CODECS)
def test_sizes_are_checked_before_allocation(codec):
    member = encode(codec, npy(), 2)
    size = len(npy())
    with pytest.raises(ValueError, match=rf"cannot be decoded as {codec} \(its decoded size is {size:,} bytes"):
        decode(codec, member, limit=size - 1)
    with pytest.raises(ValueError, match=rf"decoded size is {size:,} bytes, expected {size - 1:,} at most"):
        decode(codec, member, out=bytearray(size - 1))


@pytest.mark.parametrize(
    ("codec", "member"),
    [
        ("zstd", b"\x28\xb5\x2f\xfd\xe0" + (1 << 44).to_bytes(8, "little") + b"\x01\0\0"),
        ("bitshuffle-lz4", bytes([2, 1, 0x24, 2]) + b"\xff\xff\xff\x7e\0\0\1\0\x14\0\0\0" + bytes(4)),
    ],
)
def test_a_decompression_bomb_is_refused(codec, member):
    with pytest.raises(ValueError, match=r"its decoded size is [\d,]{13,} bytes, expected 1,073,741,824 at most"):
        decode(codec, member)


@pytest.mark.parametrize("codec", COMPRESSED)
def test_damage_is_detected_or_changes_pixels_only(codec):
    """A changed byte may change pixels (the checksum detects it), but never the length, and never crashes."""
    member, rng = encode(codec, npy(), 2), np.random.default_rng(0)
    for _ in range(2000):
        bad = bytearray(member)
        bad[rng.integers(min(len(bad), 40) if rng.random() < 0.5 else len(bad))] = rng.integers(256)
        try:
            size = len(decode(codec, bytes(bad), limit=1 << 20))
        except ValueError:
            continue
        assert size <= 1 << 20
    for cut in (b"", member[:4], member[:20], member[:-1], member + b"x"):
        with pytest.raises(ValueError, match=rf"A member of {len(cut):,} bytes cannot be decoded as {codec} .*verify"):
            decode(codec, cut)


def test_an_unknown_codec_is_named():
    with pytest.raises(
        ValueError, match=r"Unknown codec 'gzip'; expected one of \['raw', 'zstd', .*\]\. Choose one of these\."
    ):
        codec_of("gzip")


@pytest.mark.parametrize("codec", CODECS)
def test_stock_webdataset_reads_it_with_the_documented_decoder(codec, tmp_path):
    with tarfile.open(tmp_path / "a.tar", "w") as tar:
        for key in ("first", "second"):
            member = encode(codec, npy(seed=len(key)), 2)
            info = tarfile.TarInfo(f"{key}.s2_20m.{codec_of(codec).suffix}")
            info.size = len(member)
            tar.addfile(info, io.BytesIO(member))
    recipe = codecs.__doc__.partition("test_codecs.py:\n")[2]
    names = {"io": io, "np": np, "numcodecs": numcodecs, "webdataset": webdataset, "urls": str(tmp_path / "a.tar")}
    code, _, pipeline = textwrap.dedent(recipe).strip().rpartition("\n")
    exec(code, names)
    samples = list(eval(pipeline.replace("(urls)", "(urls, shardshuffle=False)"), names))
    assert [sample["__key__"] for sample in samples] == ["first", "second"]
    for sample in samples:
        expected = np.load(io.BytesIO(npy(seed=len(sample["__key__"]))))
        np.testing.assert_array_equal(sample[f"s2_20m.{codec_of(codec).suffix}"], expected, strict=True)
