import pytest

from rspretrain.patch import Exclusion, Fault
from rspretrain.shardset.building.workdir import finished_report, lock_build, read_listing_faults, remove_workdir
from shardset.building.test_plan import plan_of


def test_one_builder_at_a_time(tmp_path):
    with (
        lock_build(tmp_path / "out", plan_of(), [], exclusive=True),
        pytest.raises(ValueError, match=r"Another process is building in .*out, expected none. Wait for it"),
        lock_build(tmp_path / "out", plan_of(), [], exclusive=False),
    ):
        pass
    with (
        lock_build(tmp_path / "out", plan_of(), [], exclusive=False),
        lock_build(tmp_path / "out", plan_of(), [], exclusive=False),
    ):
        pass  # parts of one build share a folder


def test_leftovers_of_a_killed_process_are_removed(tmp_path):
    listed = [Fault("Patch9", "is odd"), Exclusion("Patch3", "is cloudy")]
    with lock_build(tmp_path / "out", plan_of(), listed, exclusive=True):
        (tmp_path / "out/.build/memory-000000.tar.77.tmp").write_bytes(b"half")
    with lock_build(tmp_path / "out", plan_of(), [], exclusive=True):
        assert sorted(path.name for path in (tmp_path / "out/.build").iterdir()) == [
            "listing.json",
            "lock",
            "plan.json",
        ]
        assert read_listing_faults(tmp_path / "out") == listed
    remove_workdir(tmp_path / "out")
    assert list((tmp_path / "out").iterdir()) == []


def test_folders_with_other_files_are_not_changed(tmp_path):
    (tmp_path / "thesis.tex").write_text("mine")
    with (
        pytest.raises(ValueError, match=r"is not empty: it holds \['thesis.tex'\]"),
        lock_build(tmp_path, plan_of(), [], exclusive=True),
    ):
        pass
    assert [path.name for path in tmp_path.iterdir()] == ["thesis.tex"]
    assert finished_report(tmp_path, plan_of()) is None
