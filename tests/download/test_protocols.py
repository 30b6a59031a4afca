import pytest
from aiohttp import ClientResponseError, RequestInfo
from gcsfs.retry import HttpError
from multidict import CIMultiDict, CIMultiDictProxy
from yarl import URL

from rspretrain.download.protocols import child, describe_error, display_url, get_options, is_final, is_url, options


def answer(status, message=""):
    request = RequestInfo(URL("http://h"), "GET", CIMultiDictProxy(CIMultiDict()))
    return ClientResponseError(request, (), status=status, message=message)


def test_urls_and_folders():
    assert is_url("s3://bucket/set")
    assert not is_url("/mnt/set")


def test_tokens_stay_at_the_end_of_urls_and_out_of_messages():
    assert child("https://h/set/?sig=abc", "a.tar") == "https://h/set/a.tar?sig=abc"
    assert display_url("https://me:secret@h/set/a.tar?sig=abc") == "https://h/set/a.tar"


@pytest.mark.parametrize(
    ("error", "cause", "final"),
    [
        (FileNotFoundError("x"), "there is no such file", True),
        (answer(404), "the server answered 404", True),
        (answer(403, "no"), "the server answered 403 no", True),
        (answer(503), "the server answered 503", False),
        (HttpError({"code": 401, "message": "who"}), "the server answered 401 who", True),
        (HttpError({"code": 500, "message": ""}), "the server answered 500", False),
        (OSError("Forbidden: https://h\nno"), "OSError: Forbidden: https://h no", True),
        (OSError("https://me:secret@h/a?sig=abc"), "OSError: https://h/a", False),
        (TimeoutError(), "TimeoutError()", False),
    ],
)
def test_errors_are_described_and_classified(error, cause, final):
    assert describe_error(error) == cause
    assert is_final(error) is final


def test_time_limits_per_protocol():
    assert options("https", 7.0)["client_kwargs"]["timeout"].sock_read == 7
    assert options("s3", 7.0)["config_kwargs"]["read_timeout"] == 7
    assert options("gs", 7.0)["requests_timeout"].total is None
    assert options("ftp", 7.0) == {}
    assert get_options("gs") == {"concurrency": 1}
