import hashlib
import os
from contextlib import closing

import pytest

from rspretrain.download.partial_file import FLUSH_BYTES, Expected, PartialFile, WrongBytesError

DATA = os.urandom(3_000_000)
WHOLE = Expected(len(DATA), hashlib.sha256(DATA).hexdigest())


def test_bytes_are_hashed_while_the_file_grows(tmp_path, monkeypatch):
    with closing(PartialFile(tmp_path / "a", WHOLE)) as incoming, (tmp_path / "a").open("wb", buffering=0) as file:
        assert incoming.poll() == (0, 0)
        for start in range(0, len(DATA), 1_000_000):
            file.write(DATA[start : start + 1_000_000])
            assert incoming.poll()[0] == start + 1_000_000
        monkeypatch.setattr(hashlib, "file_digest", None)  # the file is not read again
        incoming.verify()


def test_a_file_written_out_of_order_is_hashed_again(tmp_path):
    with closing(PartialFile(tmp_path / "a", WHOLE)) as incoming:
        with (tmp_path / "a").open("wb") as file:
            file.truncate(len(DATA))
            file.seek(1_000_000)
            file.write(DATA[1_000_000:])
            file.flush()
            incoming.poll()
            file.seek(0)
            file.write(DATA[:1_000_000])
        incoming.verify()


def test_a_replaced_file(tmp_path):
    with closing(PartialFile(tmp_path / "a", WHOLE)) as incoming:
        (tmp_path / "b").write_bytes(DATA)
        (tmp_path / "b").rename(tmp_path / "a")
        assert incoming.poll()[0] == len(DATA)
        incoming.verify()


def test_wrong_sizes_and_wrong_bytes(tmp_path):
    with closing(PartialFile(tmp_path / "a", WHOLE)) as incoming:
        (tmp_path / "a").write_bytes(DATA[1:])
        incoming.poll()
        with pytest.raises(RuntimeError, match="2999999 bytes arrived, the manifest says 3000000"):
            incoming.verify()
        (tmp_path / "a").write_bytes(DATA[1:] + b"x")
        with pytest.raises(
            WrongBytesError, match=r"the download has SHA-256 \w{12}…, the manifest says \w{12}…: it was damaged"
        ):
            incoming.verify()
        (tmp_path / "a").write_bytes(DATA + b"x")
        with pytest.raises(RuntimeError, match="more than the expected 3000000 bytes arrived"):
            incoming.poll()
    with closing(PartialFile(tmp_path / "b", Expected(limit=5))) as incoming:
        (tmp_path / "b").write_bytes(b"12345")
        incoming.poll()
        incoming.verify()


def test_bytes_are_flushed_regularly(tmp_path, monkeypatch):
    flushed = []
    monkeypatch.setattr(os, "fdatasync", lambda descriptor: flushed.append(os.fstat(descriptor).st_size))
    with closing(PartialFile(tmp_path / "a", Expected())) as incoming, (tmp_path / "a").open("wb", buffering=0) as file:
        for _ in range(5):
            file.write(bytes(FLUSH_BYTES // 2))
            incoming.poll()
    assert flushed == [FLUSH_BYTES, 2 * FLUSH_BYTES]
