"""The loading benchmark measures nothing that does not deliver the source's pixels, and nothing cold that is not."""

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

sys.path.append(str(Path(__file__).parents[1] / "benchmarks"))

from loading import ratio, table
from loading_bench import Bench, check, digests, set_up
from loading_roofs import StaysWarmError, drop, resident

from rspretrain.sensors import Group

GROUPS = [
    Group("a", "s1", ("VV", "VH"), "float32", (4, 4), 10.0, "db"),
    Group("b", "s2", ("B02",), "uint16", (4, 4), 10.0, "dn"),
]


def batch_of(numbers: list[int]) -> dict[str, torch.Tensor]:
    """Samples that are told apart by their numbers alone."""
    one = torch.arange(32.0).reshape(2, 4, 4)
    return {
        "a": torch.stack([one + number for number in numbers]),
        "b": torch.stack([torch.full((1, 4, 4), number, dtype=torch.uint16) for number in numbers]),
    }


def test_digests_are_of_samples_in_any_order_and_batching():
    whole = list(digests([batch_of([0, 1, 2])], GROUPS))
    assert sorted(digests([batch_of([2]), batch_of([1, 0])], GROUPS)) == sorted(whole)
    assert len(set(whole)) == 3


@pytest.mark.parametrize("change", ["pixel", "bands", "pairs"])
def test_digests_see_a_changed_pixel_swapped_bands_and_swapped_partners(change):
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
    ("found", "told"),
    [
        ([*range(127), 999], "128 samples in an epoch, 128 different ones, 1 with other pixels"),
        ([*range(127), 0], "128 samples in an epoch, 127 different ones, 0 with other pixels"),
        ([*range(127)], "127 samples in an epoch, 127 different ones, 0 with other pixels"),
    ],
)
def test_other_pixels_repeated_and_lost_samples_are_refused(found, told):
    check("rival", list(range(128)), frozenset(range(130)), 130)
    with pytest.raises(RuntimeError) as error:
        check("rival", found, frozenset(range(130)), 130)
    assert str(error.value) == (
        f"rival delivered {told} than the source; expected 128 to 130 of the source, each once. Its figures would mean "
        "nothing: correct it, or leave it out with --only."
    )


def test_a_file_is_dropped_from_the_page_cache(tmp_path):
    if subprocess.check_output(["stat", "-f", "-c", "%T", tmp_path], text=True).strip() == "tmpfs":
        pytest.skip("a tmpfs is the page cache")
    path = tmp_path / "file"
    path.write_bytes(bytes(1 << 22))
    assert resident(path) == 1
    drop([path])
    assert resident(path) == 0


def test_a_file_that_stays_is_told(tmp_path):
    path = tmp_path / "file"
    path.write_bytes(bytes(1 << 22))
    mapped = np.memmap(path, np.uint8, "r")
    assert mapped.sum() == 0  # every page is in use
    with pytest.raises(StaysWarmError) as error:
        drop([path])
    assert str(error.value) == (
        f"100% of {path} stayed in the page cache, expected 1% at most. Set TMPDIR to a folder on a disk, and let no "
        "other process map it."
    )


def test_ratios_are_taken_within_a_round():
    assert ratio([10, 100, 30], [5, 50, 3]) == "2"


@pytest.mark.filterwarnings("ignore:Dataset has no geotransform", "ignore:.*fork.*:DeprecationWarning")
def test_an_archive_is_measured_and_who_is_missing_is_left_out(tmp_path, monkeypatch, capsys):
    monkeypatch.setitem(sys.modules, "litdata", None)
    monkeypatch.setattr("loading.LEAST_S", 0.02)
    bench = Bench(tmp_path, "scenes", 70)
    ready = set_up(bench, ["first touch", "litdata", "memcpy"])
    assert list(ready) == ["rspretrain, first touch", "one memcpy"]
    assert "litdata is left out: import of litdata halted" in capsys.readouterr().out
    with pytest.raises(
        ValueError, match=r"^--only got \['nobody'\], expected parts of \['rspretrain', .*\]. Name one of"
    ):
        set_up(bench, ["nobody"])
    ours, roof = table("scenes", bench, ready, rounds=1)
    assert ours["samples_per_s"] > 0
    assert (roof["times_memcpy"], roof["times_webdataset"]) == ("1", "")
