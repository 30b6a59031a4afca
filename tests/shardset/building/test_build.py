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
from torture import times

from rspretrain.shardset.building.build import Part, build_shards
from rspretrain.shardset.index import open_shards
from rspretrain.shardset.inspection.verify import verify


def fingerprints(folder):
    return {path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in sorted(folder.iterdir())}


def test_bytes_do_not_depend_on_workers(tmp_path):
    archive = MemoryArchive(samples=60, broken={4: "nan", 17: "unreadable", 21: "cloudy"})
    for workers in (1, 2, 8):
        build_shards(archive, tmp_path / str(workers), samples_per_shard=7, workers=workers)
    assert fingerprints(tmp_path / "1") == fingerprints(tmp_path / "2") == fingerprints(tmp_path / "8")
    assert verify(tmp_path / "1") == []


def test_faults_are_named_and_the_rest_is_built(tmp_path):
    archive = MemoryArchive(samples=20, broken={4: "nan", 11: "dtype", 17: "unreadable", 18: "cloudy"})
    report = build_shards(archive, tmp_path / "out", samples_per_shard=8)
    assert (report.found, report.written, len(report.faults), len(report.excluded)) == (20, 16, 3, 1)
    written = json.loads((tmp_path / "out/build_report.json").read_text())
    assert sorted(fault["name"] for fault in written["faults"]) == ["Patch11", "Patch17", "Patch4"]
    assert written["exclusions"] == [{"name": "Patch18", "reason": "clouds cover 80 %, more than max_cloud 50 %"}]
    assert len(open_shards(tmp_path / "out")) == 16


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


def test_shuffled_shards_are_random_samples(tmp_path):
    build_shards(MemoryArchive(samples=40), tmp_path / "mixed", samples_per_shard=10)
    build_shards(MemoryArchive(samples=40), tmp_path / "plain", samples_per_shard=10, shuffle=False)
    assert open_shards(tmp_path / "plain").keys() == [f"patch-{i:05d}" for i in range(40)]
    assert open_shards(tmp_path / "mixed").keys() != open_shards(tmp_path / "plain").keys()
    assert sorted(open_shards(tmp_path / "mixed").keys()) == open_shards(tmp_path / "plain").keys()


def test_output_that_is_not_empty(tmp_path):
    (tmp_path / "notes.txt").write_text("mine")
    with pytest.raises(ValueError, match=r"is not empty: it holds \['notes.txt'\].*choose another --out"):
        build_shards(MemoryArchive(), tmp_path)


def test_no_patch_can_be_converted(tmp_path):
    archive = MemoryArchive(samples=2, broken={0: "nan", 1: "unreadable"})
    with pytest.raises(ValueError, match="No patch could be converted: 2 found, 2 left out, 0 excluded; the first was"):
        build_shards(archive, tmp_path / "out")
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["build_report.json"]
    assert build_shards(MemoryArchive(samples=2), tmp_path / "out").written == 2  # the folder can be reused


PROGRAM = """
from pathlib import Path
from fakes.memory import MemoryArchive
from torture import times
from rspretrain.shardset.building.build import Part, build_shards
if __name__ == "__main__":
    build_shards(MemoryArchive(samples={samples}), Path({out!r}), samples_per_shard=40, workers={workers})
"""


def start_build(tmp_path, samples, workers):
    script = tmp_path / "build_it.py"  # a file, so that spawned workers can import it
    script.write_text(PROGRAM.format(samples=samples, out=str(tmp_path / "out"), workers=workers))
    path = os.pathsep.join(["tests", os.environ.get("PYTHONPATH", "")])
    return subprocess.Popen([sys.executable, script], env={**os.environ, "PYTHONPATH": path}, start_new_session=True)


@pytest.mark.slow
def test_twenty_kills_at_random_moments_leave_no_trace(tmp_path):
    samples = 8_000
    rng = np.random.default_rng()
    kills = times(20, 100)
    for kill in range(kills):
        process = start_build(tmp_path, samples, workers=1 + kill % 2)
        if kill == 0:
            while not list(tmp_path.glob("out/*000002.tar")):
                time.sleep(0.01)
        else:
            time.sleep(rng.uniform(0.2, 1.2))
        process.send_signal(signal.SIGKILL)  # workers exit by themselves
        process.wait()
        if not (tmp_path / "out/manifest.json").exists():
            with pytest.raises(ValueError, match=r"is an unfinished build: the manifest is written last"):
                open_shards(tmp_path / "out")
        for shard in tmp_path.glob("out/*.tar"):
            assert shard.read_bytes()[-1024:] == bytes(1024)  # no shard is ever partially written
    assert start_build(tmp_path, samples, workers=2).wait(timeout=120) == 0
    assert not (tmp_path / "out/.build").exists()
    build_shards(MemoryArchive(samples=samples), tmp_path / "undisturbed", samples_per_shard=40)
    assert fingerprints(tmp_path / "out") == fingerprints(tmp_path / "undisturbed")


def test_workers_end_with_their_parent(tmp_path):
    process = start_build(tmp_path, 100_000, workers=2)
    while not list(tmp_path.glob("out/*.tar")):
        time.sleep(0.01)
    process.send_signal(signal.SIGKILL)
    process.wait()
    deadline = time.monotonic() + 10
    while time.monotonic() < deadline:
        alive = subprocess.run(["ps", "-o", "pid=", "-s", str(process.pid)], capture_output=True, text=True).stdout
        if not alive.split():
            return
        time.sleep(0.1)
    pytest.fail(f"workers {alive} survive their parent")


def test_a_finished_set_is_not_changed(tmp_path):
    first = build_shards(MemoryArchive(samples=20, broken={3: "nan"}), tmp_path / "out", samples_per_shard=8)
    before = {path: path.stat().st_mtime_ns for path in (tmp_path / "out").iterdir()}
    calls = []
    archive = MemoryArchive(samples=20, broken={3: "nan"})
    again = build_shards(
        archive, tmp_path / "out", samples_per_shard=8, progress=lambda done, total: calls.append((done, total))
    )
    assert again == first
    assert {path: path.stat().st_mtime_ns for path in (tmp_path / "out").iterdir()} == before
    assert calls == [(20, 20)]
    with pytest.raises(ValueError, match="is a finished shard set of another archive, other entries or other sett"):
        build_shards(MemoryArchive(samples=21), tmp_path / "out", samples_per_shard=8)


def test_another_plan_does_not_continue_a_build(tmp_path):
    build_shards(MemoryArchive(), tmp_path / "out", samples_per_shard=8, part=Part(1, 2))
    with pytest.raises(
        ValueError, match=r"differences \(there / now\): samples_per_shard: 8 / 9; entries_sha256. Start"
    ):
        build_shards(MemoryArchive(), tmp_path / "out", samples_per_shard=9)
    with pytest.raises(ValueError, match=r"differences \(there / now\): entries: 40 / 41; entries_sha256"):
        build_shards(MemoryArchive(samples=41), tmp_path / "out", samples_per_shard=8)


def test_invalid_parts():
    with pytest.raises(ValueError, match="part 3/2 does not exist, expected i/n with 1 <= i <= n"):
        Part(3, 2)
