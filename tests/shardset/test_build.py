import hashlib
import json
import os
import signal
import subprocess
import sys
import time

import numpy as np
import pytest
import webdataset
from fakes.memory import MemoryArchive

from rspretrain.shardset.build import build_shards
from rspretrain.shardset.index import open_shards
from rspretrain.shardset.verify import verify


def fingerprints(folder):
    return {path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in sorted(folder.iterdir())}


def test_bytes_do_not_depend_on_workers(tmp_path):
    archive = MemoryArchive(samples=30, broken={4: "nan", 17: "unreadable"})
    for workers in (1, 2):
        build_shards(archive, tmp_path / str(workers), samples_per_shard=7, workers=workers)
    assert fingerprints(tmp_path / "1") == fingerprints(tmp_path / "2")
    assert verify(open_shards(tmp_path / "1")) == []


def test_faults_are_named_and_the_rest_is_built(tmp_path):
    archive = MemoryArchive(samples=20, broken={4: "nan", 11: "dtype", 17: "unreadable"})
    report = build_shards(archive, tmp_path / "out", samples_per_shard=8)
    assert (report.found, report.written, len(report.faults)) == (20, 17, 3)
    written = json.loads((tmp_path / "out/build_report.json").read_text())
    assert sorted(fault["name"] for fault in written["faults"]) == ["Patch11", "Patch17", "Patch4"]
    assert len(open_shards(tmp_path / "out")) == 17


def test_stock_webdataset_reads_them(tmp_path):
    archive = MemoryArchive(samples=12)
    build_shards(archive, tmp_path / "out", samples_per_shard=5)
    urls = [str(path) for path in sorted((tmp_path / "out").glob("*.tar"))]
    samples = list(webdataset.WebDataset(urls, shardshuffle=False).decode())
    assert len(samples) == 12
    for sample in samples:
        number = int(sample["__key__"][-5:])
        assert sample["cls"] == number % 3
        assert sample["json"]["key"] == sample["__key__"]
        for group in archive.groups:
            np.testing.assert_array_equal(sample[f"{group.name}.npy"], archive.pixels(number, group))


def test_shuffled_shards_are_a_fair_sample(tmp_path):
    build_shards(MemoryArchive(samples=40), tmp_path / "mixed", samples_per_shard=10)
    build_shards(MemoryArchive(samples=40), tmp_path / "plain", samples_per_shard=10, shuffle=False)
    assert open_shards(tmp_path / "plain").keys() == [f"patch-{i:05d}" for i in range(40)]
    assert open_shards(tmp_path / "mixed").keys() != open_shards(tmp_path / "plain").keys()
    assert sorted(open_shards(tmp_path / "mixed").keys()) == open_shards(tmp_path / "plain").keys()


def test_output_that_is_not_empty(tmp_path):
    (tmp_path / "notes.txt").write_text("mine")
    with pytest.raises(ValueError, match=r"is not empty: it holds \['notes.txt'\].*choose another --out"):
        build_shards(MemoryArchive(), tmp_path)


def test_nothing_whole(tmp_path):
    archive = MemoryArchive(samples=2, broken={0: "nan", 1: "unreadable"})
    with pytest.raises(ValueError, match="No patch could be converted: 2 found, 2 left out; the first was Patch"):
        build_shards(archive, tmp_path / "out")


def test_a_killed_build_is_never_taken_for_a_whole_one(tmp_path):
    program = (
        "from pathlib import Path; from fakes.memory import MemoryArchive; from rspretrain.shardset.build import *;"
        f"build_shards(MemoryArchive(samples=20000), Path({str(tmp_path / 'out')!r}), samples_per_shard=50)"
    )
    process = subprocess.Popen([sys.executable, "-c", program], env={**os.environ, "PYTHONPATH": "tests"})
    while not list(tmp_path.glob("out/*000002.tar")):
        time.sleep(0.01)
    process.send_signal(signal.SIGKILL)
    process.wait()
    with pytest.raises(ValueError, match=r"is not a shard set: it has no manifest.json"):
        open_shards(tmp_path / "out")
