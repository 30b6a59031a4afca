"""One file from a URL: whole and verified, or an error that names the URL. For anything that fsspec opens.

An attempt that brings no byte for `timeout_s` is given up, whatever the file system's own patience; so is one that
brings too many bytes, too few, or wrong ones. Attempts follow each other with exponential back-off and jitter.
"""

import asyncio
import errno
import os
import random
import threading
import time
from collections import Counter
from collections.abc import Callable
from concurrent.futures import Future, wait
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import fsspec
from fsspec.asyn import AsyncFileSystem

from rspretrain.download.partial_file import Expected, PartialFile, WrongBytesError
from rspretrain.download.protocols import child, get_options, is_final, options, shown, told

T = TypeVar("T")
POLL_S = 0.05  # how often a transfer is looked at; it is never waited for longer than it takes
FIRST_BACKOFF_S, LONGEST_BACKOFF_S = 0.2, 30.0
SAME_BYTES = 3  # times that the same wrong bytes may come: no link damages a file twice in one way
_jitter = random.SystemRandom()  # nobody's seed: retries of many nodes must not fall together
_HERE = {errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EFBIG}  # about our disk, whoever raises them


class TransferError(RuntimeError):
    """A file that could not be had: names the URL, the cause and the remedy."""


class Stopped(RuntimeError):
    """Nobody waits for the transfer any more."""


@dataclass(frozen=True)
class Patience:
    """How long to wait, and how often to try again."""

    timeout_s: float = 60.0  # without a single byte
    retries: int = 8


class Source:
    """The file system behind a URL. ValueError where there is none of that kind, or its package is missing."""

    def __init__(self, url: str, patience: Patience) -> None:
        self.url, self.patience = url, patience
        self._protocol = url.partition("://")[0]
        self._open()

    def _open(self) -> None:
        self._process = os.getpid()
        try:
            limits = options(self._protocol, self.patience.timeout_s)
            self._fs, self._root = fsspec.core.url_to_fs(self.url, skip_instance_cache=True, **limits)
        except (ValueError, ImportError) as error:
            raise ValueError(
                f"{shown(self.url)} cannot be opened ({error}). Expected a folder, or a URL of http, https, s3, gs or "
                "another protocol that fsspec knows and whose package is installed: pip install 'rspretrain[remote]'."
            ) from None
        if hasattr(self._fs, "retries"):
            self._fs.retries = 1  # s3fs; there is one who tries again, and that is `fetch`

    def size(self, name: str) -> int | None:
        """Bytes of a file; None where nobody says."""
        return self._ask("info", child(self._root, name), lambda info: int(info["size"]))

    def sizes(self) -> dict[str, int] | None:
        """Bytes of all files by name; None where nobody says, as on a plain web server."""
        return None if self._protocol in ("http", "https") else self._ask("ls", self._root, _sizes, detail=True)

    def read(self, name: str) -> bytes:
        """The whole of a small file, such as a manifest."""
        url = child(self.url, name)
        path = child(self._root, name)

        def attempt(number: int) -> bytes:
            future = self._submit("cat_file", path)
            _watch(future, lambda: None, self.patience.timeout_s, lambda: False)
            return bytes(future.result())

        return self._again_and_again(url, attempt, lambda: False)

    def fetch(
        self, name: str, part: Callable[[int], Path], expected: Expected, stopped: Callable[[], bool] = lambda: False
    ) -> Path:
        """Download a file into `part(attempt)`, a new name for every attempt; returns the one that is verified.

        TransferError when every attempt failed, Stopped when `stopped` says so, OSError where the disk is at fault.
        """
        url = child(self.url, name)
        path = child(self._root, name)

        def attempt(number: int) -> Path:
            target = part(number)
            try:
                with closing(PartialFile(target, expected)) as incoming:
                    future = self._submit("get_file", path, str(target), **get_options(self._protocol))
                    _watch(future, incoming.look, self.patience.timeout_s, stopped)
                    incoming.verify()
            except BaseException:
                target.unlink(missing_ok=True)  # whoever still writes to it writes to nothing
                raise
            return target

        return self._again_and_again(url, attempt, stopped)

    def _ask(self, method: str, path: str, told: Callable[[Any], T], **options: object) -> T | None:
        """One question, once; None where there is no answer that `told` understands."""
        try:
            future = self._submit(method, path, **options)
            _watch(future, lambda: None, self.patience.timeout_s, lambda: False)
            return told(future.result())
        except Exception:
            return None

    def _submit(self, method: str, *arguments: str, **options: object) -> "Future[Any]":
        if os.getpid() != self._process:
            self._open()  # in a forked process, which has no event loop: a worker of torch's DataLoader
        if isinstance(self._fs, AsyncFileSystem):
            coroutine = getattr(self._fs, f"_{method}")(*arguments, **options)
            return asyncio.run_coroutine_threadsafe(coroutine, self._fs.loop)
        future: Future[Any] = Future()

        def run() -> None:
            try:
                future.set_result(getattr(self._fs, method)(*arguments, **options))
            except BaseException as error:
                future.set_exception(error)

        threading.Thread(target=run, name="transfer", daemon=True).start()
        return future

    def _again_and_again(self, url: str, attempt: Callable[[int], T], stopped: Callable[[], bool]) -> T:
        started, backoff_s = time.monotonic(), FIRST_BACKOFF_S
        wrong: Counter[str] = Counter()
        for number in range(self.patience.retries + 1):
            try:
                return attempt(number)
            except Stopped:
                raise
            except Exception as error:
                if isinstance(error, OSError) and error.errno in _HERE:
                    raise
                cause, final = told(error), is_final(error)
                wrong[cause] += isinstance(error, WrongBytesError)
            if final:
                raise TransferError(f"{shown(url)} cannot be had: {cause}. Check the URL and who may read it.")
            if wrong[cause] == SAME_BYTES:
                raise TransferError(
                    f"{shown(url)} is another file, {SAME_BYTES} times the same: {cause}. Upload the file of the build "
                    "whose manifest.json lies beside it."
                )
            if number < self.patience.retries:
                _sleep(backoff_s * _jitter.uniform(0.5, 1.0), stopped)
                backoff_s = min(2 * backoff_s, LONGEST_BACKOFF_S)
        raise TransferError(
            f"{shown(url)} could not be fetched in {self.patience.retries + 1} attempts over "
            f"{time.monotonic() - started:.0f} s; the last: {cause}. Check the link and the server, or raise "
            "data.fetch_retries or data.fetch_timeout_s."
        )


def _sizes(found: list[dict[str, Any]]) -> dict[str, int]:
    return {os.path.basename(each["name"]): int(each["size"]) for each in found if each["type"] == "file"}


def _watch(future: "Future[Any]", look: Callable[[], object], timeout_s: float, stopped: Callable[[], bool]) -> None:
    """Wait for a transfer; give it up when it stalls, `look` objects to what it sees, or nobody wants it any more."""
    seen, since = None, time.monotonic()
    try:
        while not wait([future], timeout=POLL_S).done:
            now = look()
            if now != seen:
                seen, since = now, time.monotonic()
            if stopped():
                raise Stopped("the transfer was given up")
            if time.monotonic() - since > timeout_s:
                raise TimeoutError(f"not a byte came for {timeout_s:g} s")
    except BaseException:
        future.cancel()
        raise
    future.result()


def _sleep(seconds: float, stopped: Callable[[], bool]) -> None:
    until = time.monotonic() + seconds
    while (left := until - time.monotonic()) > 0:
        if stopped():
            raise Stopped("the transfer was given up")
        time.sleep(min(POLL_S, left))
