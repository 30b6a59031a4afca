import re
import subprocess
from pathlib import Path

import pytest
from mounts import small_disk

from rspretrain.output_paths import check_file, check_folder


def test_usable_paths_stay_as_they_are(tmp_path):
    check_folder(tmp_path, "--out")
    check_folder(tmp_path / "a/b", "--out")
    check_file(tmp_path / "a/b.csv", "--csv")
    (tmp_path / "old.csv").write_text("1")
    check_file(tmp_path / "old.csv", "--csv")
    assert [path.name for path in tmp_path.iterdir()] == ["old.csv"]


def test_a_file_in_the_way(tmp_path):
    (tmp_path / "file").write_text("")
    for path in (tmp_path / "file", tmp_path / "file/run", tmp_path / "file/runs/a"):
        with pytest.raises(ValueError, match=re.escape(f"run.dir: {path} cannot be used as a folder (")) as raised:
            check_folder(path, "run.dir")
        assert str(raised.value).endswith("is a file). Choose another run.dir.")
    with pytest.raises(
        ValueError, match=r"--csv: .*/file/a.csv cannot be written \(.*/file is a file\). Choose another"
    ):
        check_file(tmp_path / "file/a.csv", "--csv")
    with pytest.raises(ValueError, match=r"--csv: .* cannot be written \(it is a folder\). Choose another --csv."):
        check_file(tmp_path, "--csv")


def test_folders_without_permission(tmp_path):
    with pytest.raises(ValueError, match=r"--out: /proc/run cannot be used as a folder \(No such file or directory\)"):
        check_folder(Path("/proc/run"), "--out")
    with small_disk(tmp_path / "disk", "64k") as folder:
        subprocess.run(["mount", "-o", "remount,ro", folder], check=True)
        with pytest.raises(ValueError, match=r"cannot be used as a folder \(Read-only file system\)"):
            check_folder(folder / "run", "run.dir")
