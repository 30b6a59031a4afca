import shutil

import faults
import numpy as np
import pytest
from fakes.memory import memory_shards
from torture import times

from rspretrain.shardset.inspection.verify import verify


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    folder = tmp_path_factory.mktemp("verify") / "whole"
    memory_shards(folder, samples=20)
    return folder


def fault_lines(folder):
    return [f"{fault.name}: {fault.reason}" for fault in verify(folder)]


def expect(folder, wanted):
    found = fault_lines(folder)
    for text in wanted:
        assert any(text in line for line in found), f"{text!r} is not in {found}"
    return found


def test_an_intact_set_has_no_faults(whole):
    assert fault_lines(whole) == []
    assert verify(whole, workers=3) == []


def test_scenes_and_sets_without_locations(tmp_path):
    from fakes.memory import SCENE_GROUPS

    memory_shards(tmp_path, samples=9, groups=SCENE_GROUPS)
    assert fault_lines(tmp_path) == []


@pytest.mark.parametrize("fault", list(faults.every_fault()), ids=lambda fault: fault.__name__)
def test_every_fault_is_named(whole, tmp_path, fault):
    shutil.copytree(whole, tmp_path / "set")
    rng = np.random.default_rng(5)
    expect(tmp_path / "set", fault(tmp_path / "set", rng))


@pytest.mark.parametrize("fault", faults.STRUCTURE, ids=lambda fault: fault.__name__)
def test_a_wrong_structure_is_found_although_all_checksums_match(whole, tmp_path, fault):
    shutil.copytree(whole, tmp_path / "set")
    wanted = fault(tmp_path / "set", np.random.default_rng(6))
    faults.reseal(tmp_path / "set")
    expect(tmp_path / "set", wanted)


def test_two_hundred_random_faults(whole, tmp_path):
    rng = np.random.default_rng()
    every = list(faults.every_fault())
    for number in range(times(200, 5000)):
        folder = tmp_path / "set"
        shutil.copytree(whole, folder)
        state = rng.bit_generator.state
        fault = every[rng.integers(len(every))]
        wanted = fault(folder, rng)
        try:
            expect(folder, wanted)
        except AssertionError as error:
            raise AssertionError(f"fault {number}, {fault.__name__} with generator state {state}") from error
        shutil.rmtree(folder)
        shutil.rmtree(tmp_path / "other", ignore_errors=True)


def test_one_damaged_sample_is_one_line(whole, tmp_path):
    for fault in (faults.flipped_pixels, faults.flipped_label, faults.nan_in_a_band):
        shutil.copytree(whole, tmp_path / fault.__name__)
        wanted = fault(tmp_path / fault.__name__, np.random.default_rng(3))
        found = expect(tmp_path / fault.__name__, wanted)
        assert len([line for line in found if wanted[0] in line]) == 1


def test_messages_of_faults(whole, tmp_path):
    rng = np.random.default_rng(1)
    for fault, words in {
        faults.flipped_pixels: "has changed bytes",
        faults.nan_in_a_band: "has NaN or infinite pixels, by band: {'VH': 1}",
        faults.wrong_dtype: "has dtype int32, expected float32",
        faults.wrong_shape: "is (11, 12) pixels, expected (12, 12)",
        faults.duplicated_key: "occurs twice",
        faults.interleaved: "its members are separated by other members",
        faults.split_over_shards: "is split: some of its members are in memory-000000.tar",
        faults.foreign_manifest: "one of the two was changed, or is from another build",
    }.items():
        shutil.copytree(whole, tmp_path / fault.__name__)
        fault(tmp_path / fault.__name__, rng)
        expect(tmp_path / fault.__name__, [words])
        shutil.rmtree(tmp_path / "other", ignore_errors=True)
