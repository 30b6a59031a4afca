"""The loading benchmark rejects competitors with other pixels, and cold files that are in the page cache."""

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

sys.path.append(str(Path(__file__).parents[1] / "benchmarks"))

from loading import ratio, table
from loading_bench import Bench, check, digests, set_up
from loading_bounds import StillCachedError, drop, resident

from rspretrain.sensors import Group

GROUPS = [
    Group("a", "s1", ("VV", "VH"), "float32", (4, 4), 10.0, "db"),
    Group("b", "s2", ("B02",), "uint16", (4, 4), 10.0, "dn"),
]


def batch_of(numbers: list[int]) -> dict[str, torch.Tensor]:
    """Samples that differ only by their numbers."""
    one = torch.arange(32.0).reshape(2, 4, 4)
    return {
        "a": torch.stack([one + number for number in numbers]),
        "b": torch.stack([torch.full((1, 4, 4), number, dtype=torch.uint16) for number in numbers]),
    }


def test_digests_do_not_depend_on_order_and_batches():
    whole = list(digests([batch_of([0, 1, 2])], GROUPS))
    assert sorted(digests([batch_of([2]), batch_of([1, 0])], GROUPS)) == sorted(whole)
    assert len(set(whole)) == 3


@pytest.mark.parametrize("change", ["pixel", "bands", "pairs"])
def test_digests_detect_changed_pixels_swapped_bands_and_swapped_pairs(change):
    batch = batch_of([0, 1])
    if change == "pixel":
        batch["b"][1, 0, 3, 3] = 9
    elif change == "bands":
        batch["a"] = batch["a"].flip(1)
    else:
        batch["b"] = batch["b"].flip(0)
    expected = set(digests([batch_of([0, 1])], GROUPS))
    assert not expected >= set(digests([batch], GROUPS))


@pytest.mark.parametrize(
    ("found", "message"),
    [
        ([*range(127), 999], "128 samples in an epoch, 128 of them distinct, 1 with other pixels"),
        ([*range(127), 0], "128 samples in an epoch, 127 of them distinct, 0 with other pixels"),
        ([*range(127)], "127 samples in an epoch, 127 of them distinct, 0 with other pixels"),
    ],
)
def test_other_pixels_repeated_and_lost_samples_are_refused(found, message):
    check("other", list(range(128)), frozenset(range(130)), 130)
    with pytest.raises(RuntimeError) as error:
        check("other", found, frozenset(range(130)), 130)
    assert str(error.value) == (
        f"other delivered {message} than the source; expected 128 to 130 samples of the source, each once. Correct "
        "the competitor, or exclude it with --only."
    )


def test_a_file_is_dropped_from_the_page_cache(tmp_path):
    if subprocess.check_output(["stat", "-f", "-c", "%T", tmp_path], text=True).strip() == "tmpfs":
        pytest.skip("a tmpfs is the page cache")
    path = tmp_path / "file"
    path.write_bytes(bytes(1 << 22))
    assert resident(path) == 1
    drop([path])
    assert resident(path) == 0


def test_a_file_that_stays_in_the_page_cache_is_an_error(tmp_path):
    path = tmp_path / "file"
    path.write_bytes(bytes(1 << 22))
    mapped = np.memmap(path, np.uint8, "r")
    assert mapped.sum() == 0  # every page is in use
    with pytest.raises(StillCachedError) as error:
        drop([path])
    assert str(error.value) == (
        f"100% of {path} stayed in the page cache, expected at most 1%. Set TMPDIR to a folder on a disk, and stop "
        "other processes that map its files."
    )


def test_ratios_are_taken_within_a_round():
    assert ratio([10, 100, 30], [5, 50, 3]) == "2"


@pytest.mark.filterwarnings("ignore:Dataset has no geotransform", "ignore:.*fork.*:DeprecationWarning")
def test_an_archive_is_measured_without_missing_packages(tmp_path, monkeypatch, capsys):
    monkeypatch.setitem(sys.modules, "litdata", None)
    monkeypatch.setattr("loading.MIN_ROUND_S", 0.02)
    bench = Bench(tmp_path, "scenes", 70)
    ready = set_up(bench, ["first touch", "litdata", "memcpy"])
    assert list(ready) == ["rspretrain, first touch", "one memcpy"]
    assert "litdata is skipped: import of litdata halted" in capsys.readouterr().out
    with pytest.raises(
        ValueError, match=r"^--only got \['nobody'\], expected parts of \['rspretrain', .*\]. Name one of"
    ):
        set_up(bench, ["nobody"])
    ours, bound = table("scenes", bench, ready, rounds=1)
    assert ours["samples_per_s"] > 0
    assert (bound["times_memcpy"], bound["times_webdataset"]) == ("1", "")
