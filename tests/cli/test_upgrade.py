import shutil
from pathlib import Path

ROOT = Path(__file__).parents[2]


def test_an_old_set_is_upgraded_once(tmp_path, command):
    shutil.copytree(ROOT / "tests/golden/v1/pairs", tmp_path / "old")
    assert "Run `rspretrain upgrade" in command("inspect", tmp_path / "old").stderr
    done = command("upgrade", tmp_path / "old")
    assert (done.returncode, "version 2, upgraded from version 1" in done.stdout) == (0, True)
    assert "nothing to do" in command("upgrade", tmp_path / "old").stdout
    assert command("verify", tmp_path / "old").returncode == 0
    assert command("upgrade", tmp_path).returncode == 2
