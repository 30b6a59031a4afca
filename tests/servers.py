"""Real servers for tests: files over HTTP, an S3-compatible store and a GCS-compatible store, with optional faults."""

import http.client
import itertools
import logging
import socket
import threading
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, suppress
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import unquote, urlsplit

import fsspec

# Faults: "500", "403", "stall" (half of the body, then nothing), "cut" (half of the body, then the connection closes),
# "wrong" (a flipped bit), "long" (an additional megabyte), "silent" (no response), "slow" (10 ms after every 8 KB).
CHUNK = 1 << 13
HOP_BY_HOP = {"connection", "keep-alive", "transfer-encoding", "content-length", "server", "date"}
Answer = tuple[int, dict[str, str], bytes]


class FileServer(ThreadingHTTPServer):
    """Serves a folder. Each GET of a file takes one of `faults[name]`; a fault that ends with "forever" is repeated."""

    daemon_threads = True
    allow_reuse_address = True

    def __init__(self, folder: Path, port: int = 0) -> None:
        self.folder = folder
        self.faults: dict[str, list[str]] = {}
        self.requests: Counter[str] = Counter()
        self.sent: Counter[str] = Counter()
        self.at_once, self.most_at_once = 0, 0
        self.lock = threading.Lock()
        self.connections: list[socket.socket] = []
        super().__init__(("127.0.0.1", port), _Handler)
        self.thread = threading.Thread(target=self.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True)
        self.thread.start()

    @property
    def port(self) -> int:
        return self.server_address[1]

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def answer(self, handler: BaseHTTPRequestHandler) -> Answer:
        """Status, headers and body of a response without faults."""
        path = self.folder / urlsplit(handler.path).path.lstrip("/")
        if not path.is_file():
            return 404, {}, b""
        body = path.read_bytes()
        low, _, high = handler.headers.get("Range", "bytes=0-").removeprefix("bytes=").partition("-")
        return 206 if "Range" in handler.headers else 200, {}, body[int(low) : int(high) + 1 if high else len(body)]

    def next_fault(self, name: str) -> str | None:
        with self.lock:
            self.requests[name] += 1
            left = self.faults.get(name, [])
            if left and left[0].endswith("forever"):
                return left[0].split()[0]
            return left.pop(0) if left else None

    def shards(self) -> Counter[str]:
        return Counter({name: count for name, count in self.requests.items() if name.endswith(".tar")})

    def process_request(self, request: socket.socket, client_address: object) -> None:
        with self.lock:
            self.connections.append(request)
        super().process_request(request, client_address)

    def handle_error(self, request: object, client_address: object) -> None:
        pass  # some tests need clients that disconnect

    def kill(self) -> None:
        """Stop the server and close all connections; new ones are refused."""
        self.shutdown()
        self.server_close()
        self.thread.join()
        for connection in self.connections:
            with suppress(OSError):
                connection.shutdown(socket.SHUT_RDWR)


class Front(FileServer):
    """A proxy in front of another server that adds faults."""

    def __init__(self, upstream: str, port: int = 0) -> None:
        self.upstream = urlsplit(upstream).netloc
        super().__init__(Path(), port)

    def answer(self, handler: BaseHTTPRequestHandler) -> Answer:
        body = handler.rfile.read(int(handler.headers.get("Content-Length", 0)))
        connection = http.client.HTTPConnection(self.upstream)
        try:
            connection.request(handler.command, handler.path, body, dict(handler.headers))
            found = connection.getresponse()
            data = found.read()
        finally:
            connection.close()
        headers = {name: value for name, value in found.getheaders() if name.lower() not in HOP_BY_HOP}
        if handler.command == "HEAD":
            headers["Content-Length"] = found.headers.get("Content-Length", "0")
        return found.status, headers, data


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: FileServer

    def log_message(self, *_: object) -> None:
        pass

    def do_GET(self) -> None:
        name = unquote(urlsplit(self.path).path).rpartition("/")[2]
        fault = self.server.next_fault(name)
        if fault == "silent":
            time.sleep(20)
            return
        status, headers, body = self.server.answer(self)
        if (fault or "").isdigit():
            status, headers, body = int(fault), {}, b""
        if fault == "wrong":
            body = body[:1000] + bytes([body[1000] ^ 1]) + body[1001:]
        if fault == "long":
            body += bytes(1 << 20)
        with self.server.lock:
            self.server.at_once += 1
            self.server.most_at_once = max(self.server.most_at_once, self.server.at_once)
        try:
            self._head(status, headers, len(body))
            self._send(name, body, fault)
        finally:
            with self.server.lock:
                self.server.at_once -= 1

    def do_HEAD(self) -> None:
        self._head(*(answer := self.server.answer(self))[:2], len(answer[2]))

    def do_POST(self) -> None:
        status, headers, body = self.server.answer(self)
        self._head(status, headers, len(body))
        self.wfile.write(body)

    do_PUT = do_DELETE = do_POST

    def _head(self, status: int, headers: dict[str, str], size: int) -> None:
        self.send_response(status)
        for name, value in ({"Content-Length": str(size)} | headers).items():
            self.send_header(name, value)
        self.end_headers()

    def _send(self, name: str, body: bytes, fault: str | None) -> None:
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
def running(server: FileServer) -> Iterator[FileServer]:
    try:
        yield server
    finally:
        server.kill()


def serving(folder: Path, port: int = 0) -> AbstractContextManager[FileServer]:
    """Serve the files of a folder over HTTP while the block runs."""
    return running(FileServer(folder, port))


@contextmanager
def object_store(folder: Path, bucket: str, name: str = "set") -> Iterator[str]:
    """An S3-compatible server with the files of a folder as s3://bucket/name/…; yields its endpoint."""
    from moto.server import ThreadedMotoServer

    logging.getLogger("werkzeug").setLevel(logging.ERROR)
    server = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    server.start()
    try:
        endpoint = "http://{}:{}".format(*server.get_host_and_port())
        store = fsspec.filesystem("s3", endpoint_url=endpoint, key="k", secret="s", skip_instance_cache=True)
        store.mkdir(bucket)
        for path in _files(folder):
            store.pipe(f"{bucket}/{name}/{path.name}", path.read_bytes())
        yield endpoint
    finally:
        server.stop()


@contextmanager
def google_store(folder: Path, bucket: str) -> Iterator[str]:
    """A GCS-compatible server with the files of a folder as gs://bucket/set/…; yields its endpoint."""
    from gcp_storage_emulator.server import create_server

    logging.getLogger("gcp_storage_emulator").setLevel(logging.ERROR)
    server = create_server("127.0.0.1", 0, in_memory=True, default_bucket=bucket)
    server.start()
    try:
        endpoint = "http://{}:{}".format(*server._api._httpd.server_address)
        store = fsspec.filesystem("gs", endpoint_url=endpoint, token="anon", skip_instance_cache=True)
        for path in _files(folder):
            store.pipe(f"{bucket}/set/{path.name}", path.read_bytes())
        yield endpoint
    finally:
        server.stop()


def _files(folder: Path) -> list[Path]:
    return [path for path in folder.iterdir() if path.is_file()]


def total_bytes(folder: Path) -> int:
    """The size of all files, without reservations of claims, while files are created and deleted."""
    total = 0
    for path in itertools.chain(folder.rglob("*.tar"), folder.rglob("*.part"), folder.rglob("*.parquet")):
        with suppress(FileNotFoundError):
            total += path.stat().st_size
    return total
