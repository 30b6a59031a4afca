"""The installed wheel works without the checkout, with the libraries of this environment."""

import os
import shutil
import subprocess
import sys
import sysconfig
import venv
from pathlib import Path

import pytest

from rspretrain import __version__

ROOT = Path(__file__).parents[2]
PIP = (sys.executable, "-m", "pip", "--quiet", "--disable-pip-version-check")


def build_wheel(folder: Path) -> Path:
    """Build from a copy of the sources, so that nothing is written into the checkout."""
    shutil.copytree(ROOT / "rspretrain", folder / "source/rspretrain", ignore=shutil.ignore_patterns("__pycache__"))
    for name in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, folder / "source")
    command = (
        *PIP,
        "wheel",
        "--no-deps",
        "--no-build-isolation",
        "--no-index",
        "--wheel-dir",
        folder,
        folder / "source",
    )
    subprocess.run(command, check=True, timeout=120)
    (wheel,) = folder.glob("*.whl")
    return wheel


@pytest.fixture(scope="module")
def installed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A virtual environment with the wheel, and with this environment's libraries but not its rspretrain."""
    folder = tmp_path_factory.mktemp("wheel")
    venv.create(folder / "venv")
    target = ("--python", folder / "venv/bin/python")
    subprocess.run((*PIP, *target, "install", "--no-deps", "--no-index", build_wheel(folder)), check=True, timeout=120)
    # The .pth files in the folder are not read; one of them may be that of an editable rspretrain.
    (packages,) = (folder / "venv/lib").glob("python*/site-packages")
    (packages / "libraries.pth").write_text(sysconfig.get_path("purelib") + "\n")
    return folder / "venv/bin"


@pytest.mark.slow
def test_from_an_empty_folder_to_probed_backbones(installed, tmp_path):
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    environment |= {"PATH": f"{installed}:{Path(sys.executable).parent}:{os.environ['PATH']}", "OMP_NUM_THREADS": "1"}

    def rspretrain(*arguments: str) -> str:
        command = (installed / "rspretrain", *arguments)
        done = subprocess.run(
            command, cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=200, check=False
        )
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout

    assert rspretrain("--version") == f"rspretrain {__version__}\n"
    command = (installed / "python", "-c", "import rspretrain; print(rspretrain.__file__)")
    found = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, check=True)
    assert found.stdout.startswith(str(installed.parent))
    assert "12 simulated pairs" in rspretrain("demo", "--pairs", "12")
    archive, shards = "data/demo/archive", "data/demo/shards"
    sources = ("--source", f"S2={archive}", f"S1={archive}", f"splits={archive}")
    assert "12 of 12 patches" in rspretrain("build", "bigearthnet", *sources, "--out", shards)
    small = (
        "train.steps=3",
        "train.global_batch=4",
        "backbone.name=test_resnet",
        "objective.crop_px=32",
        "objective.px=16",
    )
    quick = ("data.streams=1", "watch.wandb=off", "strategy.name=deepspeed")  # a shipped DeepSpeed file
    assert "backbone s2" in rspretrain("pretrain", "--config", "dual_simclr_demo", *small, *quick)
    assert "exported/s1" in rspretrain("export", "--run", "runs/demo", "--out", "exported")
    probe = ("probe", "--backbone", "exported/s1", "exported/s2", "--shards", shards)
    assert "linear probe" in rspretrain(*probe)
