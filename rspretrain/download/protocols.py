"""What differs between kinds of URLs: their parts, the words for time limits, and what their errors mean.

Credentials and endpoints are read from where each file system looks for them (AWS_…, GOOGLE_APPLICATION_CREDENTIALS,
fsspec's own configuration), never from a run's configuration, which is saved and shown.
"""

import logging
import re
from typing import Any

import fsspec

_FOR_GOOD = {400, 401, 403, 404, 405, 410, 416}  # HTTP answers that another attempt does not change


def is_url(path: str) -> bool:
    """Whether a shard set lies behind a URL rather than in a folder."""
    return "://" in path


def child(url: str, name: str) -> str:
    """The URL of a file in the folder `url`. A query (an access token) stays at the end."""
    base, mark, query = url.partition("?")
    return f"{base.rstrip('/')}/{name}{mark}{query}"


def shown(url: str) -> str:
    """A URL without the secrets that it may carry: for messages."""
    return re.sub(r"//[^/@]*@", "//", url.partition("?")[0])


def is_final(error: Exception) -> bool:
    """Whether another attempt would end the same way."""
    if isinstance(error, FileNotFoundError | PermissionError | IsADirectoryError):
        return True
    # gcsfs has neither a type nor a number for 403; botocore has one type for each of its errors.
    named = str(error).startswith("Forbidden:") or type(error).__name__ == "NoCredentialsError"
    return named or _status(error) in _FOR_GOOD


def _status(error: Exception) -> int | None:
    """The HTTP answer behind an error: `status` of aiohttp's, `code` of gcsfs's."""
    for name in ("status", "code"):
        value = getattr(error, name, None)
        if isinstance(value, int):
            return value
    return None


def told(error: Exception) -> str:
    """The cause of a failed attempt in words, without the secrets of a URL."""
    if isinstance(error, FileNotFoundError):
        return "there is no such file"
    status = _status(error)
    if status is not None:
        message = str(getattr(error, "message", "")).removesuffix(f", {status}")  # gcsfs appends it
        return f"the server answered {status} {message}".rstrip()
    text = " ".join(re.sub(r"(//)[^/@\s]*@|\?\S*", r"\1", str(error)).split())
    return f"{type(error).__name__}: {text}" if text and type(error) is not RuntimeError else text or repr(error)


def options(protocol: str, timeout_s: float) -> dict[str, Any]:
    """Time limits in the words of a file system, over whatever the user's own fsspec configuration says."""
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
            log.setLevel(logging.CRITICAL)  # it tells every attempt's traceback; the last error is told by us
        return _aiohttp_limit("requests_timeout", timeout_s)
    return {}


def get_options(protocol: str) -> dict[str, Any]:
    """Of one download. gcsfs would fetch pieces into a file of full length: nobody could see whether it gets on."""
    return {"concurrency": 1} if protocol in ("gs", "gcs") else {}


def _aiohttp_limit(name: str, timeout_s: float) -> dict[str, Any]:
    """aiohttp would end every download after five minutes, however well it goes. Empty where it is not installed."""
    try:
        import aiohttp
    except ImportError:
        return {}
    return {name: aiohttp.ClientTimeout(total=None, sock_connect=timeout_s, sock_read=timeout_s)}
