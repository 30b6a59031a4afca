"""Download one file from a URL that fsspec opens: complete and verified, or an error that names the URL.

An attempt is cancelled if no byte arrives for `timeout_s`, whatever the time limit of the file system. It fails if the
file is too large, too small or has the wrong checksum. Retries have exponential back-off and jitter.
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
from rspretrain.download.protocols import child, describe_error, display_url, get_options, is_final, options

T = TypeVar("T")
POLL_S = 0.05  # interval between progress checks
FIRST_BACKOFF_S, LONGEST_BACKOFF_S = 0.2, 30.0
SAME_BYTES = 3  # after this many identical wrong downloads, the file itself is wrong: transit damage does not repeat
_jitter = random.SystemRandom()  # not seeded: retries of many nodes must not coincide
_HERE = {errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EFBIG}  # errors of the local disk


class TransferError(RuntimeError):
    """A failed download. The message has the URL, the cause and the remedy."""


class Stopped(RuntimeError):
    """The download was cancelled."""


@dataclass(frozen=True)
class RetryPolicy:
    """Time limit and number of retries of a download."""

    timeout_s: float = 60.0  # without a new byte
    retries: int = 8


class Source:
    """The file system behind a URL. ValueError if its protocol is unknown, or its package is missing."""

    def __init__(self, url: str, retry_policy: RetryPolicy) -> None:
        self.url, self.retry_policy = url, retry_policy
        self._protocol = url.partition("://")[0]
        self._open()

    def _open(self) -> None:
        self._process = os.getpid()
        try:
            limits = options(self._protocol, self.retry_policy.timeout_s)
            self._fs, self._root = fsspec.core.url_to_fs(self.url, skip_instance_cache=True, **limits)
        except (ValueError, ImportError) as error:
            raise ValueError(
                f"{display_url(self.url)} cannot be opened ({error}). Expected a folder, or a URL of http, https, s3, "
                "gs or another protocol of fsspec whose package is installed: pip install 'rspretrain[remote]'."
            ) from None
        if hasattr(self._fs, "retries"):
            self._fs.retries = 1  # s3fs; only `fetch` retries

    def size(self, name: str) -> int | None:
        """Size of a file in bytes; None if unknown."""
        return self._query("info", child(self._root, name), lambda info: int(info["size"]))

    def sizes(self) -> dict[str, int] | None:
        """Sizes of all files by name; None if unknown, as on a plain web server."""
        return None if self._protocol in ("http", "https") else self._query("ls", self._root, _sizes, detail=True)

    def read(self, name: str) -> bytes:
        """Read a small file, such as a manifest."""
        url = child(self.url, name)
        path = child(self._root, name)

        def attempt(number: int) -> bytes:
            future = self._submit("cat_file", path)
            _watch(future, lambda: None, self.retry_policy.timeout_s, lambda: False)
            return bytes(future.result())

        return self._retry(url, attempt, lambda: False)

    def fetch(
        self, name: str, part: Callable[[int], Path], expected: Expected, stopped: Callable[[], bool] = lambda: False
    ) -> Path:
        """Download a file to `part(attempt)`, a new path per attempt, and return the path of the verified file.

        TransferError if all attempts failed, Stopped when `stopped()` is true, OSError for errors of the local disk.
        """
        url = child(self.url, name)
        path = child(self._root, name)

        def attempt(number: int) -> Path:
            target = part(number)
            try:
                with closing(PartialFile(target, expected)) as partial:
                    future = self._submit("get_file", path, str(target), **get_options(self._protocol))
                    _watch(future, partial.poll, self.retry_policy.timeout_s, stopped)
                    partial.verify()
            except BaseException:
                target.unlink(missing_ok=True)  # a download that is still running writes to an unlinked file
                raise
            return target

        return self._retry(url, attempt, stopped)

    def _query(self, method: str, path: str, parse: Callable[[Any], T], **options: object) -> T | None:
        """Call a method of the file system once. None if it fails, or `parse` does."""
        try:
            future = self._submit(method, path, **options)
            _watch(future, lambda: None, self.retry_policy.timeout_s, lambda: False)
            return parse(future.result())
        except Exception:
            return None

    def _submit(self, method: str, *arguments: str, **options: object) -> "Future[Any]":
        if os.getpid() != self._process:
            self._open()  # a forked process has no event loop: a worker of torch's DataLoader
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

    def _retry(self, url: str, attempt: Callable[[int], T], stopped: Callable[[], bool]) -> T:
        started, backoff_s = time.monotonic(), FIRST_BACKOFF_S
        wrong: Counter[str] = Counter()
        for number in range(self.retry_policy.retries + 1):
            try:
                return attempt(number)
            except Stopped:
                raise
            except Exception as error:
                if isinstance(error, OSError) and error.errno in _HERE:
                    raise
                cause, final = describe_error(error), is_final(error)
                wrong[cause] += isinstance(error, WrongBytesError)
            if final:
                raise TransferError(
                    f"{display_url(url)} cannot be downloaded: {cause}. Check the URL and its permissions."
                )
            if wrong[cause] == SAME_BYTES:
                raise TransferError(
                    f"{display_url(url)} is not the file of the manifest, in {SAME_BYTES} identical downloads: "
                    f"{cause}. Upload the file of the build of that manifest.json."
                )
            if number < self.retry_policy.retries:
                _sleep(backoff_s * _jitter.uniform(0.5, 1.0), stopped)
                backoff_s = min(2 * backoff_s, LONGEST_BACKOFF_S)
        raise TransferError(
            f"{display_url(url)} could not be downloaded in {self.retry_policy.retries + 1} attempts over "
            f"{time.monotonic() - started:.0f} s; the last error: {cause}. Check network and server, or raise "
            "data.fetch_retries or data.fetch_timeout_s."
        )


def _sizes(found: list[dict[str, Any]]) -> dict[str, int]:
    return {os.path.basename(each["name"]): int(each["size"]) for each in found if each["type"] == "file"}


def _watch(future: "Future[Any]", poll: Callable[[], object], timeout_s: float, stopped: Callable[[], bool]) -> None:
    """Wait for a transfer; cancel it if it stalls, `poll` raises, or `stopped()` is true."""
    seen, since = None, time.monotonic()
    try:
        while not wait([future], timeout=POLL_S).done:
            now = poll()
            if now != seen:
                seen, since = now, time.monotonic()
            if stopped():
                raise Stopped("the transfer was cancelled")
            if time.monotonic() - since > timeout_s:
                raise TimeoutError(f"no byte arrived for {timeout_s:g} s")
    except BaseException:
        future.cancel()
        raise
    future.result()


def _sleep(seconds: float, stopped: Callable[[], bool]) -> None:
    until = time.monotonic() + seconds
    while (left := until - time.monotonic()) > 0:
        if stopped():
            raise Stopped("the transfer was cancelled")
        time.sleep(min(POLL_S, left))
