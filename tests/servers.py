"""Real servers for tests: files over HTTP with ranges and faults on request, and an S3-compatible store."""

import itertools
import logging
import threading
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import fsspec

# What a request meets: "500", "403", "stall" (half of the body, then nothing), "cut" (half, then the end), "wrong"
# (a flipped bit), "long" (a megabyte too much), "silent" (never an answer), "slow" (10 ms after every 8 KB).
CHUNK = 1 << 13


class FileServer(ThreadingHTTPServer):
    """Serves a folder. `faults[name]` are met by the requests for that file, one each; the last stays where it ends
    with "forever"."""

    daemon_threads = True
    allow_reuse_address = True

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.faults: dict[str, list[str]] = {}
        self.requests: Counter[str] = Counter()
        self.sent: Counter[str] = Counter()
        self.at_once, self.most_at_once = 0, 0
        self.lock = threading.Lock()
        super().__init__(("127.0.0.1", 0), _Handler)

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_address[1]}"

    def next_fault(self, name: str) -> str | None:
        with self.lock:
            self.requests[name] += 1
            left = self.faults.get(name, [])
            if left and left[0].endswith("forever"):
                return left[0].split()[0]
            return left.pop(0) if left else None

    def shards(self) -> Counter[str]:
        return Counter({name: count for name, count in self.requests.items() if name.endswith(".tar")})

    def handle_error(self, request: object, client_address: object) -> None:
        pass  # clients that give up are the point of some tests


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: FileServer

    def log_message(self, *_: object) -> None:
        pass

    def do_GET(self) -> None:
        name = self.path.lstrip("/").partition("?")[0]
        fault = self.server.next_fault(name)
        if fault == "silent":
            time.sleep(20)
            return
        path = self.server.folder / name
        if (fault or "").isdigit() or not path.is_file():
            self.send_response(int(fault) if fault else 404)
            self.send_header("Content-Length", "0")
            self.end_headers()
            return
        body = self._body(path.read_bytes(), fault)
        with self.server.lock:
            self.server.at_once += 1
            self.server.most_at_once = max(self.server.most_at_once, self.server.at_once)
        try:
            self._send(name, body, fault)
        finally:
            with self.server.lock:
                self.server.at_once -= 1

    def _body(self, body: bytes, fault: str | None) -> bytes:
        if fault == "wrong":
            return body[:1000] + bytes([body[1000] ^ 1]) + body[1001:]
        if fault == "long":
            return body + bytes(1 << 20)
        low, high = self._range(len(body))
        return body[low:high]

    def _range(self, size: int) -> tuple[int, int]:
        low, _, high = self.headers.get("Range", "bytes=0-").removeprefix("bytes=").partition("-")
        return int(low), int(high) + 1 if high else size

    def _send(self, name: str, body: bytes, fault: str | None) -> None:
        self.send_response(206 if "Range" in self.headers else 200)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        if fault in ("stall", "cut"):
            self.wfile.write(body[: len(body) // 2])
            if fault == "stall":
                time.sleep(20)
            self.close_connection = True
            return
        for start in range(0, len(body), CHUNK):
            self.wfile.write(body[start : start + CHUNK])
            if fault == "slow":
                time.sleep(0.01)
        self.server.sent[name] += 1


@contextmanager
def serving(folder: Path) -> Iterator[FileServer]:
    server = FileServer(folder)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True)
    thread.start()
    try:
        yield server
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


@contextmanager
def object_store(folder: Path, bucket: str) -> Iterator[str]:
    """An S3-compatible server that holds the files of a folder as s3://bucket/set/…; its endpoint."""
    from moto.server import ThreadedMotoServer

    logging.getLogger("werkzeug").setLevel(logging.ERROR)
    server = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    server.start()
    try:
        endpoint = "http://{}:{}".format(*server.get_host_and_port())
        store = fsspec.filesystem("s3", endpoint_url=endpoint, key="k", secret="s", skip_instance_cache=True)
        store.mkdir(bucket)
        for path in folder.iterdir():
            store.pipe(f"{bucket}/set/{path.name}", path.read_bytes())
        yield endpoint
    finally:
        server.stop()


def total_bytes(folder: Path) -> int:
    """Of all files on the disk, claims' reservations left out, while others come and go."""
    total = 0
    for path in itertools.chain(folder.rglob("*.tar"), folder.rglob("*.part"), folder.rglob("*.parquet")):
        with suppress(FileNotFoundError):
            total += path.stat().st_size
    return total
