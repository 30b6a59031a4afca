"""Compression of shard arrays: size, encoding speed and decoding speed per core, on real imagery.

python benchmarks/compression.py DATA [--rounds 5]

DATA contains real patches in their archives' layouts, one folder per archive (see FOLDERS; missing ones are skipped). A
member is the .npy file of one group [C H W], as in a shard. Times are CPU times of one thread, the minimum of several
rounds. Decoding reads 64 MB of members into reused buffers, as a reader does. A `patch` is a whole sample: for
BigEarthNet-MM the 14 bands of a pair. `raw` is one copy of the bytes. The codecs of shards are the rows `zstd 3`, `bit
shuffle + lz4 9` and `bit shuffle + zstd 5` (rspretrain/shardset/codecs.py).
"""

import argparse
import functools
import time
import zlib
from collections.abc import Callable
from importlib.metadata import version
from pathlib import Path
from typing import NamedTuple

import numcodecs
import numpy as np
import rasterio
from PIL import Image
from rasterio.io import MemoryFile
from results import write_results

from rspretrain.archives.bigearthnet import BigEarthNet
from rspretrain.archives.raster import read_raster
from rspretrain.shardset.record import npy_header

MIN_ROUND_S = 0.1
MEMORY = 64 << 20  # bytes decoded before the first ones are repeated; a few patches would stay in the CPU cache
blosc, zstd = numcodecs.blosc, numcodecs.zstd
blosc.use_threads = False


class Member(NamedTuple):
    pixels: np.ndarray
    npy: bytes


class Method(NamedTuple):
    encode: Callable[[Member], bytes]
    decode: Callable[[bytes, np.ndarray], object]  # (encoded, buffer of the .npy file's size)


def member(pixels: np.ndarray) -> Member:
    return Member(pixels, npy_header(pixels.dtype.name, pixels.shape) + pixels.tobytes())


def stacked(folder: Path, pattern: str = "*.tif") -> list[Member]:
    """The files of a folder as one array per size and dtype, like the groups of a sensor."""
    groups: dict[tuple, list[np.ndarray]] = {}
    for path in sorted(folder.glob(pattern)):
        pixels = read_raster(path).pixels
        groups.setdefault((pixels.shape[1:], pixels.dtype), []).append(pixels)
    return [member(np.concatenate(bands)) for bands in groups.values()]


def bigearthnet_pairs(root: Path) -> list[list[Member]]:
    archive = BigEarthNet(s2=root / "BigEarthNet-v1.0", s1=root / "BigEarthNet-S1-v1.0")
    patches = (archive.read(entry) for entry in archive.entries()[0])
    return [[member(patch.images[group.name]) for group in archive.groups] for patch in patches]


def folders(root: Path, pattern: str = "*.tif") -> list[list[Member]]:
    """Each folder with rasters is a patch."""
    return [stacked(folder) for folder in sorted({path.parent for path in root.rglob(pattern)})]


def files(root: Path, pattern: str) -> list[list[Member]]:
    """Each file is a patch."""
    paths = sorted(root.rglob(pattern))
    if pattern.endswith(".jpg"):
        return [[member(np.ascontiguousarray(np.moveaxis(np.asarray(Image.open(path)), -1, 0)))] for path in paths]
    return [[member(np.ascontiguousarray(read_raster(path).pixels))] for path in paths]


FOLDERS: dict[str, tuple[str, Callable[[Path], list[list[Member]]]]] = {
    "BigEarthNet-MM pairs": ("bigearthnet-v1", bigearthnet_pairs),
    "BigEarthNet v2, S2": ("bigearthnet-v2/BigEarthNet-S2", folders),
    "BigEarthNet v2, S1": ("bigearthnet-v2/BigEarthNet-S1", folders),
    "SEN12MS pair": ("sen12ms", lambda root: [[each for file in files(root, "*.tif") for each in file]]),
    "EuroSAT, 13 bands": ("eurosat/EuroSAT_MS", functools.partial(files, pattern="*.tif")),
    "UC-Merced": ("ucmerced-original-tif", functools.partial(files, pattern="*.tif")),
    "Major-TOM, 12 bands": ("major-tom", folders),
}


def shuffled(compressor: bytes, level: int, how: int) -> Method:
    return Method(
        lambda each: blosc.compress(each.npy, compressor, level, how, 0, each.pixels.itemsize),
        lambda data, out: blosc.decompress(data, out),
    )


def geotiff(each: Member) -> bytes:
    """A GeoTIFF with GDAL's usual compression: deflate with the predictor of the dtype."""
    bands, height, width = each.pixels.shape
    kind = {"count": bands, "height": height, "width": width, "dtype": each.pixels.dtype.name}
    predictor = 3 if each.pixels.dtype.kind == "f" else 2
    with MemoryFile() as file:
        with file.open(driver="GTiff", compress="deflate", predictor=predictor, interleave="band", **kind) as target:
            target.write(each.pixels)
        return file.read()


def read_geotiff(data: bytes, out: np.ndarray) -> None:
    with MemoryFile(data) as file, file.open() as source:
        source.read()


METHODS: dict[str, Method] = {
    "raw": Method(lambda each: each.npy, lambda data, out: np.copyto(out, np.frombuffer(data, np.uint8))),
    **{
        f"zstd {level}": Method(
            functools.partial(lambda level, each: zstd.compress(each.npy, level), level), zstd.decompress
        )
        for level in (1, 3, 9)
    },
    **{f"byte shuffle + zstd {level}": shuffled(b"zstd", level, blosc.SHUFFLE) for level in (1, 3, 5)},
    **{f"bit shuffle + zstd {level}": shuffled(b"zstd", level, blosc.BITSHUFFLE) for level in (1, 3, 5, 9)},
    **{f"bit shuffle + lz4 {level}": shuffled(b"lz4", level, blosc.BITSHUFFLE) for level in (1, 5, 9)},
    "deflate 6 (npz)": Method(lambda each: zlib.compress(each.npy, 6), lambda data, out: zlib.decompress(data)),
    "deflate GeoTIFF": Method(geotiff, read_geotiff),
}


def seconds(run: Callable[[], None], rounds: int) -> float:
    """CPU seconds of one run: the minimum over rounds of the mean."""
    started = time.process_time()
    run()
    repeats = max(1, int(MIN_ROUND_S / max(time.process_time() - started, 1e-6)))
    least = float("inf")
    for _ in range(rounds):
        started = time.process_time()
        for _ in range(repeats):
            run()
        least = min(least, (time.process_time() - started) / repeats)
    return least


def measure(method: Method, patches: list[list[Member]], rounds: int) -> dict[str, float | None]:
    members = [each for patch in patches for each in patch]
    encoded = [method.encode(each) for each in members]
    raw = sum(len(each.npy) for each in members)
    copies = max(1, MEMORY // raw)
    tasks = [
        (bytes(bytearray(data)), np.zeros(len(each.npy), np.uint8))
        for _ in range(copies)
        for data, each in zip(encoded, members, strict=True)
    ]

    def encode_all() -> None:
        for each in members:
            method.encode(each)

    def decode_all() -> None:
        for data, out in tasks:
            method.decode(data, out)

    encode_s, decode_s = seconds(encode_all, max(1, rounds // 2)), seconds(decode_all, rounds) / copies
    return {
        "share_of_raw": round(sum(map(len, encoded)) / raw, 4),
        "bytes_per_patch": round(sum(map(len, encoded)) / len(patches)),
        "encode_mb_per_s": None if encoded[0] is members[0].npy else round(raw / encode_s / 1e6),
        "decode_gb_per_s": round(raw / decode_s / 1e9, 2),
        "decode_patches_per_s": round(len(patches) / decode_s),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", type=Path)
    parser.add_argument("--rounds", type=int, default=5)
    args = parser.parse_args()
    rows = []
    with rasterio.Env(GDAL_PAM_ENABLED="NO"):
        for name, (folder, read) in FOLDERS.items():
            if not (args.data / folder).is_dir():
                continue
            patches = read(args.data / folder)
            for method, functions in METHODS.items():
                rows.append(
                    {
                        "images": name,
                        "patches": len(patches),
                        "method": method,
                        **measure(functions, patches, args.rounds),
                    }
                )
                print(*rows[-1].values(), sep="  ", flush=True)
    versions = {"numcodecs": version("numcodecs"), "gdal": rasterio.__gdal_version__, "zlib": zlib.ZLIB_RUNTIME_VERSION}
    write_results("compression", rows, {"rounds": args.rounds, "cpu_time": "one thread", **versions})


if __name__ == "__main__":
    main()
