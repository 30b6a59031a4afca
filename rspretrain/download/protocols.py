"""Protocol-specific details: parts of URLs, options for time limits, and the meaning of errors.

Credentials and endpoints are found as each file system documents (AWS_…, GOOGLE_APPLICATION_CREDENTIALS,
fsspec's configuration). They are never in the configuration of a run, which is saved and printed.
"""

import logging
import re
from typing import Any

import fsspec

_FOR_GOOD = {400, 401, 403, 404, 405, 410, 416}  # HTTP status codes that a retry does not change


def is_url(path: str) -> bool:
    """Whether the path of a shard set is a URL."""
    return "://" in path


def child(url: str, name: str) -> str:
    """The URL of a file in the folder `url`. A query (an access token) stays at the end."""
    base, mark, query = url.partition("?")
    return f"{base.rstrip('/')}/{name}{mark}{query}"


def display_url(url: str) -> str:
    """A URL without user, password and query, for messages."""
    return re.sub(r"//[^/@]*@", "//", url.partition("?")[0])


def is_final(error: Exception) -> bool:
    """Whether retrying is pointless."""
    if isinstance(error, FileNotFoundError | PermissionError | IsADirectoryError):
        return True
    # gcsfs has neither a type nor a code for 403; botocore has a type per error.
    named = str(error).startswith("Forbidden:") or type(error).__name__ == "NoCredentialsError"
    return named or _status(error) in _FOR_GOOD


def _status(error: Exception) -> int | None:
    """The HTTP status of an error: `status` in aiohttp, `code` in gcsfs."""
    for name in ("status", "code"):
        value = getattr(error, name, None)
        if isinstance(value, int):
            return value
    return None


def describe_error(error: Exception) -> str:
    """The cause of a failed attempt, without secrets of URLs."""
    if isinstance(error, FileNotFoundError):
        return "there is no such file"
    status = _status(error)
    if status is not None:
        message = str(getattr(error, "message", "")).removesuffix(f", {status}")  # gcsfs appends it
        return f"the server answered {status} {message}".rstrip()
    text = " ".join(re.sub(r"(//)[^/@\s]*@|\?\S*", r"\1", str(error)).split())
    return f"{type(error).__name__}: {text}" if text and type(error) is not RuntimeError else text or repr(error)


def options(protocol: str, timeout_s: float) -> dict[str, Any]:
    """Options of a file system that set time limits, merged over the user's fsspec configuration."""
    own = fsspec.config.conf.get(protocol, {})
    if protocol in ("http", "https"):
        limit = _aiohttp_limit("timeout", timeout_s)
        # Without trust_env, aiohttp ignores http_proxy and ~/.netrc.
        return {"client_kwargs": {"trust_env": True, **own.get("client_kwargs", {}), **limit}}
    if protocol in ("s3", "s3a"):
        limits = {"connect_timeout": timeout_s, "read_timeout": timeout_s, "retries": {"total_max_attempts": 1}}
        return {"config_kwargs": {**own.get("config_kwargs", {}), **limits}, "max_concurrency": 1}
    if protocol in ("gs", "gcs"):
        if not (log := logging.getLogger("gcsfs")).level:
            log.setLevel(logging.CRITICAL)  # it logs a traceback per attempt; `transfer` reports the last error
        return _aiohttp_limit("requests_timeout", timeout_s)
    return {}


def get_options(protocol: str) -> dict[str, Any]:
    """Options of one download. Without them, gcsfs writes chunks into a file of full length, which hides progress."""
    return {"concurrency": 1} if protocol in ("gs", "gcs") else {}


def _aiohttp_limit(name: str, timeout_s: float) -> dict[str, Any]:
    """Time limits for aiohttp, whose default ends every download after five minutes. Empty if it is not installed."""
    try:
        import aiohttp
    except ImportError:
        return {}
    return {name: aiohttp.ClientTimeout(total=None, sock_connect=timeout_s, sock_read=timeout_s)}
