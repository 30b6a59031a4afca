"""Faults of real servers of each kind: a web server, an S3-compatible and a GCS-compatible store."""

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
    """What a run on the folder sees."""
    return seen(loader(settings(near, near)), STEPS)


@pytest.fixture(scope="module", params=["http", "s3", "gs"])
def kind(request, near):
    """A kind of URL, and how to put a server before what has the set."""
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
    """Of the set, as a user would write it, with everything else in the environment."""
    for name, value in (("ACCESS_KEY_ID", "k"), ("SECRET_ACCESS_KEY", "s"), ("DEFAULT_REGION", "us-east-1")):
        monkeypatch.setenv(f"AWS_{name}", value)
    monkeypatch.setenv("AWS_ENDPOINT_URL", server.url)
    monkeypatch.setenv("STORAGE_EMULATOR_HOST", server.url)
    monkeypatch.setitem(fsspec.config.conf, "gs", {"token": "anon"})
    return server.url if kind[0] == "http" else f"{kind[0]}://faults/set"


def test_faults_under_way_change_nothing(tmp_path, server, url, local):
    server.faults = {f"memory-00000{number}.tar": [fault] for number, fault in enumerate(FAULTS)}
    assert same(seen(loader(settings(url, tmp_path, fetch_timeout_s=0.5)), STEPS), local)
    assert set(server.shards().values()) == {2}


def test_a_server_that_dies_in_mid_epoch_and_comes_back(tmp_path, kind, server, url, local):
    server.faults = {f"memory-00000{number}.tar": ["slow forever"] for number in range(6)}
    back = []

    def die_and_come_back():
        while len(server.shards()) < 4:  # the fourth is under way
            time.sleep(0.01)
        server.kill()
        time.sleep(1)
        back.append(kind[1](server.port))

    death = threading.Thread(target=die_and_come_back)
    death.start()
    batches = seen(loader(settings(url, tmp_path, fetch_retries=8)), STEPS)
    death.join()
    with running(back[0]):
        assert same(batches, local)
        assert len(back[0].shards()) >= 3


@pytest.mark.parametrize(("answer", "cause"), [("404", "there is no such file"), ("403", ".*([Ff]orbidden| 403).*")])
def test_a_shard_that_is_not_there_or_not_for_us(tmp_path, server, url, answer, cause):
    server.faults["memory-000003.tar"] = [f"{answer} forever"]
    with pytest.raises(RuntimeError, match=rf"{url}/memory-000003.tar cannot be had: ({cause}). Check the URL and who"):
        seen(loader(settings(url, tmp_path)))
    assert server.requests["memory-000003.tar"] == 1


def test_nobody_listens(tmp_path, server, url):
    stream = loader(settings(url, tmp_path, fetch_retries=1))
    server.kill()
    with pytest.raises(
        RuntimeError, match=rf"{url}/memory-00000\d.tar could not be fetched in 2 attempts over .* Check"
    ):
        seen(stream)
    with pytest.raises(ValueError, match=rf"{url}/manifest.json could not be fetched in 2 attempts over .* Check the"):
        open_shards(url, settings(url, tmp_path, fetch_retries=1).remote_options())
