"""Loading speed over a network link: an epoch from an HTTP server through the cache, compared with plain downloads.

python benchmarks/remote.py [--samples 6000] [--rounds 3] [--links 100 500 1000 0] [--samples-per-shard 100]

Generated samples of eight bands of 120 px (0.23 MB each) are stored as raw shards and served by a separate process. It
sends files with sendfile and limits all connections together to a number of MB/s (0: no limit; on one machine this
measures its cores rather than a link). Three readers load the same bytes over the same number of connections, in turns:

    link          reads all responses and discards the bytes
    fsspec        the client library of rspretrain: get_file into an empty folder, without verification or flushing
    rspretrain    opens the set with an empty cache and delivers all batches of an epoch. Files are fetched, hashed,
                  flushed to disk, renamed and mapped; records are verified and collated. The time is from the first
                  request to the last batch, including the wait for the first window and the last collation.

`cpu_s_per_gb` is the CPU time of the reader without the server. On two cores, both together limit the rate.
"""

import argparse
import http.client
import itertools
import multiprocessing
import os
import shutil
import statistics
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from multiprocessing.connection import Connection
from pathlib import Path

sys.path.append(str(Path(__file__).parents[1] / "tests"))

import fsspec
import torch
from fakes.memory import MemoryArchive
from results import write_results

from rspretrain.sensors import Group
from rspretrain.shardset.building.build import build_shards
from rspretrain.shardset.index import open_shards
from rspretrain.streaming.loader import Loader
from rspretrain.streaming.settings import DataSettings
from rspretrain.world import World

BATCH, FETCHES, PIECE = 64, 8, 1 << 18
GROUPS = (Group("s2_10m", "s2", tuple(f"B{band:02d}" for band in range(1, 9)), "uint16", (120, 120), 10.0, "dn"),)


class Link:
    """A bandwidth limit in bytes per second, shared by all connections."""

    def __init__(self, bytes_per_s: float) -> None:
        self.bytes_per_s, self.free_at, self.lock = bytes_per_s, 0.0, threading.Lock()

    def take(self, size: int) -> None:
        if not self.bytes_per_s:
            return
        with self.lock:
            begin = max(self.free_at, time.monotonic() - 0.005)
            self.free_at = begin + size / self.bytes_per_s
        time.sleep(max(0.0, self.free_at - time.monotonic()))


def serve(folder: Path, bytes_per_s: float, port: Connection) -> None:
    """Serve `folder` forever, in a separate process."""
    link = Link(bytes_per_s)

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def log_message(self, *_: object) -> None:
            pass

        def do_GET(self) -> None:
            with (folder / self.path.lstrip("/")).open("rb") as file:
                size = os.fstat(file.fileno()).st_size
                self.send_response(200)
                self.send_header("Content-Length", str(size))
                self.end_headers()
                self.wfile.flush()
                sent = 0
                while sent < size:
                    piece = min(PIECE, size - sent)
                    link.take(piece)
                    sent += os.sendfile(self.connection.fileno(), file.fileno(), sent, piece)

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    server.handle_error = lambda *_: None  # clients may drop their connections
    port.send(server.server_address[1])
    server.serve_forever()


@contextmanager
def serving(folder: Path, megabytes_per_s: float) -> Iterator[int]:
    context = multiprocessing.get_context("spawn")
    mine, theirs = context.Pipe()
    process = context.Process(target=serve, args=(folder, megabytes_per_s * 1e6, theirs), daemon=True)
    process.start()
    try:
        yield mine.recv()
    finally:
        process.kill()
        process.join()


def link(port: int, names: list[str]) -> None:
    """Read all files over FETCHES connections."""

    def read(name: str) -> None:
        connection = http.client.HTTPConnection("127.0.0.1", port)
        connection.request("GET", f"/{name}")
        answer, buffer = connection.getresponse(), bytearray(1 << 20)
        while answer.readinto(buffer):
            pass
        connection.close()

    with ThreadPoolExecutor(FETCHES) as pool:
        list(pool.map(read, names))


def plain(port: int, names: list[str], folder: Path) -> None:
    """Download all files with FETCHES threads."""
    files = fsspec.filesystem("http", skip_instance_cache=True)
    folder.mkdir()
    with ThreadPoolExecutor(FETCHES) as pool:
        list(pool.map(lambda name: files.get_file(f"http://127.0.0.1:{port}/{name}", str(folder / name)), names))


def ours(port: int, cache: Path) -> float:
    """Load all batches of an epoch from an empty cache; seconds to the first batch."""
    started = time.perf_counter()
    data = DataSettings(shards=f"http://127.0.0.1:{port}", cache_dir=cache, fetches=FETCHES, window=8)
    shards = open_shards(data.shards, data.remote_options())
    world = World(0, 1, 0, torch.device("cpu"))
    loader = Loader(shards, data, list(shards.groups), global_batch=BATCH, seed=0, world=world)
    first_s = 0.0
    for _ in itertools.islice(loader.batches(), loader.steps_per_epoch):
        first_s = first_s or time.perf_counter() - started
    return first_s


def timed(size: int, work: Callable[[], float | None]) -> dict[str, float]:
    """MB/s, CPU seconds of this process per GB, and seconds to the first batch, which `work` returns."""
    started, cpu_s = time.perf_counter(), time.process_time()
    first_s = work()
    rate = size / (time.perf_counter() - started) / 1e6
    return {
        "mb_per_s": rate,
        "cpu_s_per_gb": (time.process_time() - cpu_s) / size * 1e9,
        "first_batch_s": first_s or 0.0,
    }


def measure(folder: Path, limit: float, rounds: int, size: int) -> list[dict[str, object]]:
    names, target = sorted(path.name for path in (folder / "shards").glob("*.tar")), folder / "target"
    found: dict[str, list[dict[str, float]]] = {}
    with serving(folder / "shards", limit) as port:
        reader = {
            "link": lambda: link(port, names),
            "fsspec": lambda: plain(port, names, target),
            "rspretrain": lambda: ours(port, target),
        }
        for turn in range(rounds + 1):  # the first turn imports modules and allocates memory
            for name, work in reader.items():
                shutil.rmtree(target, ignore_errors=True)
                measured = timed(size, work)
                if turn:
                    found.setdefault(name, []).append(measured)
    middle = {
        name: {key: statistics.median(each[key] for each in values) for key in values[0]}
        for name, values in found.items()
    }
    return [
        {
            "link_mb_per_s": limit,
            "reader": name,
            **{key: round(value, 2) for key, value in values.items()},
            "share_of_link": round(values["mb_per_s"] / middle["link"]["mb_per_s"], 3),
            "share_of_fsspec": round(values["mb_per_s"] / middle["fsspec"]["mb_per_s"], 3),
        }
        for name, values in middle.items()
    ]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--samples", type=int, default=6000)
    parser.add_argument("--samples-per-shard", type=int, default=100)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--links", type=float, nargs="+", default=[100, 500, 1000, 0], help="MB/s; 0: no limit")
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as temporary:
        folder, archive = Path(temporary), MemoryArchive(samples=args.samples, groups=GROUPS)
        build_shards(archive, folder / "shards", samples_per_shard=args.samples_per_shard, workers=1)
        size = sum(path.stat().st_size for path in (folder / "shards").glob("*.tar"))
        rows = [row for limit in args.links for row in measure(folder, limit, args.rounds, size)]
    settings = {"samples": args.samples, "samples_per_shard": args.samples_per_shard, "rounds": args.rounds}
    write_results("remote", rows, {**settings, "bytes": size, "fetches": FETCHES})


if __name__ == "__main__":
    main()
