"""Faults of real servers: a web server, an S3-compatible store and a GCS-compatible store."""

import threading
import time

import fsspec
import pytest
from fakes.memory import memory_shards
from servers import FileServer, Front, google_store, object_store, running

from rspretrain.shardset.index import open_shards
from streaming.test_remote_stream import loader, same, seen, settings

pytestmark = pytest.mark.timeout(60)
FAULTS = ("500", "stall", "cut", "wrong", "long", "503")
STEPS = 9


@pytest.fixture(scope="module")
def near(tmp_path_factory):
    folder = tmp_path_factory.mktemp("near") / "set"
    memory_shards(folder, samples=48)
    return folder


@pytest.fixture(scope="module")
def local(near):
    """The batches of a run on the local folder."""
    return seen(loader(settings(near, near)), STEPS)


@pytest.fixture(scope="module", params=["http", "s3", "gs"])
def kind(request, near):
    """The protocol, and a function that starts a server with faults in front of the store."""
    stores = {"s3": object_store, "gs": google_store}
    if request.param == "http":
        yield "http", lambda port=0: FileServer(near, port)
        return
    with stores[request.param](near, "faults") as endpoint:
        yield request.param, lambda port=0: Front(endpoint, port)


@pytest.fixture
def server(kind):
    with running(kind[1]()) as front:
        yield front


@pytest.fixture
def url(kind, server, monkeypatch):
    """The URL of the set, as a user writes it; endpoints and credentials are environment variables."""
    for name, value in (("ACCESS_KEY_ID", "k"), ("SECRET_ACCESS_KEY", "s"), ("DEFAULT_REGION", "us-east-1")):
        monkeypatch.setenv(f"AWS_{name}", value)
    monkeypatch.setenv("AWS_ENDPOINT_URL", server.url)
    monkeypatch.setenv("STORAGE_EMULATOR_HOST", server.url)
    monkeypatch.setitem(fsspec.config.conf, "gs", {"token": "anon"})
    return server.url if kind[0] == "http" else f"{kind[0]}://faults/set"


def test_faults_during_a_run_do_not_change_batches(tmp_path, server, url, local):
    server.faults = {f"memory-00000{number}.tar": [fault] for number, fault in enumerate(FAULTS)}
    assert same(seen(loader(settings(url, tmp_path, fetch_timeout_s=0.5)), STEPS), local)
    assert set(server.shards().values()) == {2}


def test_a_server_that_restarts_within_an_epoch(tmp_path, kind, server, url, local):
    server.faults = {f"memory-00000{number}.tar": ["slow forever"] for number in range(6)}
    restarted = []

    def restart():
        while len(server.shards()) < 4:  # the fourth download has started
            time.sleep(0.01)
        server.kill()
        time.sleep(1)
        restarted.append(kind[1](server.port))

    restarting = threading.Thread(target=restart)
    restarting.start()
    batches = seen(loader(settings(url, tmp_path, fetch_retries=8)), STEPS)
    restarting.join()
    with running(restarted[0]):
        assert same(batches, local)
        assert len(restarted[0].shards()) >= 3


@pytest.mark.parametrize(("answer", "cause"), [("404", "there is no such file"), ("403", ".*([Ff]orbidden| 403).*")])
def test_missing_and_forbidden_shards(tmp_path, server, url, answer, cause):
    server.faults["memory-000003.tar"] = [f"{answer} forever"]
    with pytest.raises(
        RuntimeError, match=rf"{url}/memory-000003.tar cannot be downloaded: ({cause}). Check the URL and its"
    ):
        seen(loader(settings(url, tmp_path)))
    assert server.requests["memory-000003.tar"] == 1


def test_no_server(tmp_path, server, url):
    stream = loader(settings(url, tmp_path, fetch_retries=1))
    server.kill()
    with pytest.raises(
        RuntimeError, match=rf"{url}/memory-00000\d.tar could not be downloaded in 2 attempts over .* Check"
    ):
        seen(stream)
    with pytest.raises(
        ValueError, match=rf"{url}/manifest.json could not be downloaded in 2 attempts over .* Check net"
    ):
        open_shards(url, settings(url, tmp_path, fetch_retries=1).remote_options())
