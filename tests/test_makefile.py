"""`make` checks the Python version before it writes anything."""

import shutil
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]


@pytest.fixture
def make(tmp_path, monkeypatch):
    """Run make in a folder that has only the Makefile, with a python3 of the given version."""
    for name in ("MAKEFLAGS", "MAKELEVEL", "MFLAGS"):  # of `make test`, which runs these tests
        monkeypatch.delenv(name, raising=False)
    shutil.copy(ROOT / "Makefile", tmp_path)
    (tmp_path / "requirements").mkdir()
    for name in ("pyproject.toml", "requirements/base.txt"):
        (tmp_path / name).write_text("")

    def run(version: str, *arguments: str) -> subprocess.CompletedProcess[str]:
        python = tmp_path / f"python{version}"
        python.write_text(f"#!/bin/sh\necho {version}\n")
        python.chmod(0o755)
        command = ["make", *arguments, *([f"PYTHON={python}"] if version else [])]
        return subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=20, check=False)

    return run


@pytest.mark.parametrize("version", ["3.10", "3.14"])
def test_an_unsupported_version_is_one_sentence_and_leaves_nothing(make, tmp_path, version):
    done = make(version)
    assert done.returncode == 2
    assert done.stdout == ""
    assert done.stderr.count("\n") == 1
    assert f"python{version} is Python {version}, expected Python 3.11 to 3.13, as in: make PYTHON=" in done.stderr
    assert not (tmp_path / ".venv").exists()


def test_an_environment_of_another_python_is_built_again(make, tmp_path):
    (tmp_path / ".venv/lib/python3.11").mkdir(parents=True)
    (tmp_path / ".venv/installed-3.11").write_text("")
    assert make("3.11").stdout.startswith("rspretrain is installed in .venv. Activate it: source .venv/bin/activate")
    assert "Removing .venv" in make("3.12", "--dry-run").stdout
    assert make("", "--dry-run").stdout.startswith('echo "rspretrain is installed in .venv.')  # PYTHON not given
