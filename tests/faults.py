"""Faults of shard sets, one function per fault: damage by disks, networks, incomplete copies and buggy builders.

Each function changes a set in place and returns texts that a finding must contain: shard, key and member, if they
apply. `reseal` updates the manifest to the changed bytes, like a builder with a bug.
"""

import hashlib
import io
import json
import tarfile
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from fakes.memory import memory_shards

from rspretrain.shardset.index import open_shards
from rspretrain.shardset.manifest import dump_manifest, load_manifest
from rspretrain.shardset.record import BLOCK

Rng = np.random.Generator
Member = tuple[str, bytes]


def tars(folder: Path) -> list[Path]:
    return sorted(folder.glob("*.tar"))


def pick(rng: Rng, folder: Path) -> Path:
    return tars(folder)[rng.integers(len(tars(folder)))]


def read_tar(path: Path) -> list[Member]:
    with tarfile.open(path) as tar:
        return [(info.name, tar.extractfile(info).read()) for info in tar]


def write_tar(path: Path, members: list[Member]) -> None:
    with tarfile.open(path, "w", format=tarfile.USTAR_FORMAT) as tar:
        for name, data in members:
            info = tarfile.TarInfo(name)
            info.size, info.mtime, info.mode = len(data), 0, 0o644
            tar.addfile(info, io.BytesIO(data))
    data = path.read_bytes()  # tarfile pads to 10,240 bytes
    size = sum(BLOCK + -(-len(d) // BLOCK) * BLOCK for _, d in members) + 2 * BLOCK
    path.write_bytes(data[:size])


def reseal(folder: Path) -> None:
    """Write a manifest whose checksums match the files on disk."""
    manifest, _ = load_manifest(folder)
    shards = []
    for entry in manifest.shards:
        data = (folder / entry.name).read_bytes()
        shards.append(
            entry.model_copy(update={"sha256": hashlib.sha256(data).hexdigest(), "bytes": len(data), "uniform": False})
        )
    index = hashlib.sha256((folder / "index.parquet").read_bytes()).hexdigest()
    manifest = manifest.model_copy(update={"shards": tuple(shards), "index_sha256": index})
    (folder / "manifest.json").write_bytes(dump_manifest(manifest))


def random_record(folder: Path, rng: Rng) -> tuple[Path, str, dict[str, tuple[int, int]]]:
    """A random record: path of its shard, key, and (offset, bytes) of its members."""
    shards = open_shards(folder)
    row = int(rng.integers(len(shards)))
    names = [*shards.groups, "cls", "json"]
    spans = {n: (int(shards.numbers(f"offset_{n}")[row]), int(shards.numbers(f"bytes_{n}")[row])) for n in names}
    name = shards.manifest.shards[int(shards.numbers("shard")[row])].name
    return folder / name, shards.keys(np.array([row]))[0], spans


def change(path: Path, position: int, data: bytes) -> None:
    content = bytearray(path.read_bytes())
    assert content[position : position + len(data)] != data, "the fault would change nothing"
    content[position : position + len(data)] = data
    path.write_bytes(content)


def flip(path: Path, position: int, bit: int) -> None:
    change(path, position, bytes([path.read_bytes()[position] ^ (1 << bit)]))


def flipped_anywhere(folder: Path, rng: Rng) -> list[str]:
    path = pick(rng, folder)
    flip(path, int(rng.integers(path.stat().st_size)), int(rng.integers(8)))
    return [path.name]


def flipped_pixels(folder: Path, rng: Rng) -> list[str]:
    path, key, spans = random_record(folder, rng)
    group = str(rng.choice([name for name in spans if name not in ("cls", "json")]))
    start, size = spans[group]
    flip(path, start + int(rng.integers(128, size)), int(rng.integers(8)))
    return [f"{path.name}:{key}.{group}.npy"]


def flipped_array_header(folder: Path, rng: Rng) -> list[str]:
    path, key, spans = random_record(folder, rng)
    group = str(rng.choice([name for name in spans if name not in ("cls", "json")]))
    flip(path, spans[group][0] + int(rng.integers(128)), int(rng.integers(8)))
    return [f"{path.name}:{key}.{group}.npy"]


def flipped_tar_header(folder: Path, rng: Rng) -> list[str]:
    path, _, spans = random_record(folder, rng)
    start = spans[str(rng.choice(list(spans)))][0] - BLOCK
    flip(path, start + int(rng.integers(BLOCK)), int(rng.integers(8)))
    return [f"{path.name}:"]


def flipped_json(folder: Path, rng: Rng) -> list[str]:
    path, key, spans = random_record(folder, rng)
    start, size = spans["json"]
    flip(path, start + int(rng.integers(size)), int(rng.integers(8)))
    return [f"{path.name}:{key}"]


def flipped_label(folder: Path, rng: Rng) -> list[str]:
    path, key, spans = random_record(folder, rng)
    flip(path, spans["cls"][0], int(rng.integers(8)))
    return [f"{path.name}:{key}.cls"]


def zeroed_block(folder: Path, rng: Rng) -> list[str]:
    path = pick(rng, folder)
    data = path.read_bytes()
    used = [i for i in range(0, len(data), BLOCK) if any(data[i : i + BLOCK])]
    change(path, int(rng.choice(used)), bytes(BLOCK))
    return [path.name]


def truncated(folder: Path, rng: Rng) -> list[str]:
    path = pick(rng, folder)
    data = path.read_bytes()
    path.write_bytes(data[: int(rng.integers(len(data)))])
    return [path.name]


def lengthened(folder: Path, rng: Rng) -> list[str]:
    path = pick(rng, folder)
    with path.open("ab") as file:
        file.write(rng.bytes(int(rng.integers(1, 2000))))
    return [path.name]


def swapped(folder: Path, rng: Rng) -> list[str]:
    one, other = (tars(folder)[i] for i in rng.choice(len(tars(folder)), 2, replace=False))
    first, second = one.read_bytes(), other.read_bytes()
    one.write_bytes(second)
    other.write_bytes(first)
    return [f"{one.name}: holds the bytes of {other.name}", f"{other.name}: holds the bytes of {one.name}"]


def missing_shard(folder: Path, rng: Rng) -> list[str]:
    path = pick(rng, folder)
    path.unlink()
    return [f"{path.name}: is missing"]


def extra_shard(folder: Path, rng: Rng) -> list[str]:
    path = folder / "memory-000099.tar"
    path.write_bytes(pick(rng, folder).read_bytes())
    return [f"{path.name}: is not in the manifest"]


def edited(
    folder: Path, rng: Rng, edit: Callable[[list[list[Member]]], list[list[Member]]]
) -> tuple[Path, list[list[Member]]]:
    """Rewrite a random shard with edited records; returns its path and the original records."""
    path = pick(rng, folder)
    members = read_tar(path)
    size = len({name.partition(".")[2] for name, _ in members})
    records = [members[i : i + size] for i in range(0, len(members), size)]
    write_tar(path, [member for record in edit([list(r) for r in records]) for member in record])
    return path, records


def key(record: list[Member]) -> str:
    return record[0][0].partition(".")[0]


def duplicated_key(folder: Path, rng: Rng) -> list[str]:
    path, records = edited(folder, rng, lambda records: [*records, records[0]])
    return [f"{path.name}:{key(records[0])}"]


def interleaved(folder: Path, rng: Rng) -> list[str]:
    def edit(records: list[list[Member]]) -> list[list[Member]]:
        one, other = records[:2]
        return [[one[0], other[0], *one[1:], *other[1:]], *records[2:]]

    path, records = edited(folder, rng, edit)
    return [f"{path.name}:{key(records[0])}"]


def split_over_shards(folder: Path, rng: Rng) -> list[str]:
    first, second = tars(folder)[:2]
    one, other = read_tar(first), read_tar(second)
    write_tar(first, one[:-2])
    write_tar(second, one[-2:] + other)
    lost = one[-1][0].partition(".")[0]
    return [f"{first.name}:{lost}", f"{second.name}:{lost}: is split"]


def lost_member(folder: Path, rng: Rng) -> list[str]:
    path, records = edited(folder, rng, lambda records: [records[0][1:], *records[1:]])
    return [f"{path.name}:{records[0][0][0]}: is missing"]


def foreign_member(folder: Path, rng: Rng) -> list[str]:
    def edit(records: list[list[Member]]) -> list[list[Member]]:
        return [[*records[0], (f"{key(records[0])}.notes.txt", b"mine")], *records[1:]]

    path, records = edited(folder, rng, edit)
    return [f"{path.name}:{key(records[0])}.notes.txt"]


def _array_changed(folder: Path, rng: Rng, change_array: Callable[[np.ndarray], np.ndarray]) -> list[str]:
    """Replace an array in the first record, and update the checksum in its JSON."""

    def edit(records: list[list[Member]]) -> list[list[Member]]:
        import xxhash

        name, data = records[0][0]
        stream = io.BytesIO()
        np.save(stream, change_array(np.load(io.BytesIO(data))))
        content = json.loads(records[0][-1][1])
        content["xxh3"][name.partition(".")[2].removesuffix(".npy")] = xxhash.xxh3_64_hexdigest(stream.getvalue())
        text = json.dumps(content).encode().ljust(len(records[0][-1][1]))
        return [[(name, stream.getvalue()), *records[0][1:-1], (records[0][-1][0], text)], *records[1:]]

    path, records = edited(folder, rng, edit)
    return [f"{path.name}:{records[0][0][0]}"]


def wrong_dtype(folder: Path, rng: Rng) -> list[str]:
    return _array_changed(folder, rng, lambda array: array.astype(np.int32))


def wrong_shape(folder: Path, rng: Rng) -> list[str]:
    return _array_changed(folder, rng, lambda array: np.ascontiguousarray(array[:, :-1]))


def nan_in_a_band(folder: Path, rng: Rng) -> list[str]:
    def with_nan(array: np.ndarray) -> np.ndarray:
        array = array.copy()
        array[1, 2, 3] = np.nan
        return array

    return _array_changed(folder, rng, with_nan)


def stale_index(folder: Path, rng: Rng) -> list[str]:
    """An outdated index: a wrong label, position, or offset."""
    table = pq.read_table(folder / "index.parquet")
    column = str(rng.choice(["split", "offset", "country", "left", "labels_all"]))
    values = table.column(column).to_pylist()
    row = int(rng.integers(len(values)))
    values[row] = {"split": "val", "country": "Mars", "labels_all": ["water", "water"]}.get(column, 123)
    number = table.column_names.index(column)
    table = table.set_column(number, column, pa.array(values, table.schema.field(column).type))
    pq.write_table(table, folder / "index.parquet")
    reseal(folder)
    return ["index.parquet" if column == "left" else f":{table.column('key')[row].as_py()}"]


def changed_index(folder: Path, rng: Rng) -> list[str]:
    path = folder / "index.parquet"
    flip(path, int(rng.integers(path.stat().st_size)), int(rng.integers(8)))
    return ["index.parquet: does not match the manifest"]


def missing_index(folder: Path, rng: Rng) -> list[str]:
    (folder / "index.parquet").unlink()
    return ["index.parquet: is missing"]


def foreign_manifest(folder: Path, rng: Rng) -> list[str]:
    other = folder.parent / "other"
    memory_shards(other, samples=len(open_shards(folder)), seed=1)
    (folder / "manifest.json").write_bytes((other / "manifest.json").read_bytes())
    return ["index.parquet: does not match the manifest", ".tar"]


def changed_manifest(folder: Path, rng: Rng) -> list[str]:
    path = folder / "manifest.json"
    flip(path, int(rng.integers(path.stat().st_size)), int(rng.integers(8)))
    return ["manifest.json"]


BYTES = [
    flipped_anywhere, flipped_pixels, flipped_array_header, flipped_tar_header, flipped_json, flipped_label,
    zeroed_block, truncated, lengthened,
]  # fmt: skip
STRUCTURE = [
    duplicated_key, interleaved, split_over_shards, lost_member, foreign_member, wrong_dtype, wrong_shape,
    nan_in_a_band,
]  # fmt: skip
FILES = [
    swapped, missing_shard, extra_shard, stale_index, changed_index, missing_index, foreign_manifest, changed_manifest,
]  # fmt: skip


def every_fault() -> Iterator[Callable[[Path, Rng], list[str]]]:
    yield from (*BYTES, *STRUCTURE, *FILES)
