import hashlib
import threading
import time

import pytest
from servers import serving

from rspretrain.download.partial_file import Expected
from rspretrain.download.transfer import RetryPolicy, Source, Stopped, TransferError

pytestmark = pytest.mark.timeout(30)
DATA = bytes(range(256)) * 2000
WHOLE = Expected(len(DATA), hashlib.sha256(DATA).hexdigest())


@pytest.fixture
def server(tmp_path):
    (tmp_path / "set").mkdir()
    (tmp_path / "set" / "a.tar").write_bytes(DATA)
    with serving(tmp_path / "set") as running:
        yield running


def fetch(server, folder, expected=WHOLE, retries=2, timeout_s=0.4, name="a.tar", **more):
    source = Source(server.url, RetryPolicy(timeout_s, retries))
    return source.fetch(name, lambda attempt: folder / f"{attempt}.part", expected, **more)


@pytest.mark.parametrize("fault", ["500", "503", "429", "stall", "silent", "cut", "wrong", "long"])
def test_every_fault_is_retried(tmp_path, server, fault):
    server.faults["a.tar"] = [fault, fault]
    assert fetch(server, tmp_path).read_bytes() == DATA
    assert server.requests["a.tar"] == 3
    assert [path.name for path in tmp_path.glob("*.part")] == ["2.part"]  # other attempts leave no files


@pytest.mark.parametrize(
    ("fault", "cause"),
    [
        ("500", "the server answered 500"),
        ("stall", "(no byte arrived for 0.2 s|Timeout)"),
        ("cut", "(payload|bytes came)"),
        (
            "wrong",
            "the download has SHA-256 .*, the manifest says .*: it was damaged in transit, or the file behind the URL",
        ),
        ("long", "more than the expected|1560576 bytes arrived, the manifest says 512000"),
    ],
)
def test_the_final_error_names_url_cause_and_remedy(tmp_path, server, fault, cause):
    server.faults["a.tar"] = [f"{fault} forever"]
    with pytest.raises(
        TransferError, match=rf"{server.url}/a.tar could not be downloaded in 2 attempts .*{cause}"
    ) as caught:
        fetch(server, tmp_path, retries=1, timeout_s=0.2)
    assert "raise data.fetch_retries or data.fetch_timeout_s" in str(caught.value)
    assert not list(tmp_path.glob("*.part"))


@pytest.mark.parametrize(("fault", "cause"), [("404", "there is no such file"), ("403", "the server answered 403")])
def test_permanent_errors_are_not_retried(tmp_path, server, fault, cause):
    server.faults["a.tar"] = [f"{fault} forever"]
    with pytest.raises(
        TransferError, match=rf"/a.tar cannot be downloaded: {cause}.*Check the URL and its permissions"
    ):
        fetch(server, tmp_path)
    assert server.requests["a.tar"] == 1


def test_an_unreachable_server(tmp_path, server):
    server.kill()
    with pytest.raises(
        TransferError, match="could not be downloaded in 2 attempts .*ClientConnectorError.* Check network"
    ):
        fetch(server, tmp_path, retries=1)


def test_a_slow_network_is_no_stall(tmp_path, server):
    server.faults["a.tar"] = ["slow"]
    assert fetch(server, tmp_path, timeout_s=0.3, retries=0).read_bytes() == DATA


def test_a_download_can_be_cancelled(tmp_path, server):
    server.faults["a.tar"] = ["stall"]
    gave_up = threading.Event()
    threading.Timer(0.3, gave_up.set).start()
    started = time.monotonic()
    with pytest.raises(Stopped):
        fetch(server, tmp_path, timeout_s=60, stopped=gave_up.is_set)
    assert time.monotonic() - started < 3


def test_file_systems_without_an_event_loop(tmp_path):
    (tmp_path / "a.tar").write_bytes(DATA)
    (tmp_path / "parts").mkdir()
    source = Source(f"file://{tmp_path}", RetryPolicy(5, 1))
    assert source.read("a.tar") == DATA
    assert source.fetch("a.tar", lambda n: tmp_path / "parts" / f"{n}.part", WHOLE).read_bytes() == DATA
    with pytest.raises(TransferError, match="b.tar cannot be downloaded: there is no such file"):
        source.read("b.tar")


def test_unknown_protocols():
    with pytest.raises(
        ValueError, match=r"nosuch://x/y cannot be opened .*Expected a folder, or a URL of http, https, s3"
    ):
        Source("nosuch://x/y", RetryPolicy())
