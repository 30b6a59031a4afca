"""How much of a link reaches the batches: an epoch from an HTTP server through the cache, against a plain download.

python benchmarks/remote.py [--samples 3000] [--rounds 3] [--links 100 500 1000 0]

Generated samples of eight bands of 120 px (0.23 MB each) as raw shards of 100, served by a process of its own that
sends files with sendfile and lets all connections together have so many MB/s (0: as fast as it goes, which on one
machine is a race for its cores rather than a link). `plain` reads every file to the end over as many connections as the
loader has and throws the bytes away; `rspretrain` opens the set with an empty cache and delivers every batch of an
epoch: fetched, hashed, flushed to the disk, renamed, mapped, every record's checksum computed, collated. Rounds
alternate.
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
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from multiprocessing.connection import Connection
from pathlib import Path

sys.path.append(str(Path(__file__).parents[1] / "tests"))

import torch
from fakes.memory import MemoryArchive
from results import write_results

from rspretrain.sensors import Group
from rspretrain.shardset.build import build_shards
from rspretrain.shardset.index import open_shards
from rspretrain.streaming.loader import Loader
from rspretrain.streaming.settings import DataSettings
from rspretrain.world import World

BATCH, FETCHES, PIECE = 64, 8, 1 << 18
GROUPS = (Group("s2_10m", "s2", tuple(f"B{band:02d}" for band in range(1, 9)), "uint16", (120, 120), 10.0, "dn"),)


class Link:
    """A number of bytes a second that all connections share."""

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
    """A process of its own, for good."""
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


def plain(port: int, names: list[str]) -> float:
    """Seconds to read all files over FETCHES connections."""

    def read(name: str) -> None:
        connection = http.client.HTTPConnection("127.0.0.1", port)
        connection.request("GET", f"/{name}")
        answer, buffer = connection.getresponse(), bytearray(1 << 20)
        while answer.readinto(buffer):
            pass
        connection.close()

    started = time.perf_counter()
    with ThreadPoolExecutor(FETCHES) as pool:
        list(pool.map(read, names))
    return time.perf_counter() - started


def ours(port: int, cache: Path) -> float:
    """Seconds from nothing to the last batch of an epoch."""
    shutil.rmtree(cache, ignore_errors=True)
    data = DataSettings(shards=f"http://127.0.0.1:{port}", cache_dir=cache, fetches=FETCHES, window=8)
    started = time.perf_counter()
    shards = open_shards(data.shards, data.remote_options())
    world = World(0, 1, 0, torch.device("cpu"))
    loader = Loader(shards, data, list(shards.groups), global_batch=BATCH, seed=0, world=world)
    for _ in itertools.islice(loader.batches(), loader.steps_per_epoch):
        pass
    return time.perf_counter() - started


def measure(folder: Path, link: float, rounds: int, size: int) -> dict[str, float]:
    names = sorted(path.name for path in (folder / "shards").glob("*.tar"))
    rates: dict[str, list[float]] = {"plain": [], "rspretrain": []}
    with serving(folder / "shards", link) as port:
        for _ in range(rounds):
            rates["plain"].append(size / plain(port, names) / 1e6)
            rates["rspretrain"].append(size / ours(port, folder / "cache") / 1e6)
    middle = {name: statistics.median(values) for name, values in rates.items()}
    return {
        "link_mb_per_s": link,
        **{f"{name}_mb_per_s": round(value, 1) for name, value in middle.items()},
        "share": round(middle["rspretrain"] / middle["plain"], 3),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--samples", type=int, default=3000)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--links", type=float, nargs="+", default=[100, 500, 1000, 0], help="MB/s; 0: no limit")
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        build_shards(
            MemoryArchive(samples=args.samples, groups=GROUPS), folder / "shards", samples_per_shard=100, workers=1
        )
        size = sum(path.stat().st_size for path in (folder / "shards").glob("*.tar"))
        rows = [measure(folder, link, args.rounds, size) for link in args.links]
    write_results("remote", rows, {"samples": args.samples, "rounds": args.rounds, "bytes": size, "fetches": FETCHES})


if __name__ == "__main__":
    main()
