"""Real imagery through the whole path, where ../shared/data lies beside the repository."""

import json
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
DATA = ROOT.parent / "shared/data"


def run(*command: object) -> str:
    done = subprocess.run(
        [sys.executable, *map(str, command)], cwd=ROOT, capture_output=True, text=True, timeout=200, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@pytest.mark.slow
@pytest.mark.skipif(not (DATA / "bigearthnet-v1").is_dir(), reason="the real pairs of ../shared/data are not here")
def test_three_real_pairs_from_archive_to_dual_simclr(tmp_path):
    """Three pairs and the unpaired ones: six samples would be a batch, three are one that a step can be taken on."""
    s2, s1 = DATA / "bigearthnet-v1/BigEarthNet-v1.0", DATA / "bigearthnet-v1/BigEarthNet-S1-v1.0"
    sources = ("--source", f"S2={s2}", f"S1={s1}", f"splits={DATA / 'bigearthnet-v1-metadata'}")
    assert "3 of 3 patches" in run("shards/build.py", "bigearthnet", *sources, "--out", tmp_path / "shards")
    assert "every byte as it was built" in run("shards/verify.py", tmp_path / "shards")
    picture = tmp_path / "pair.png"
    sample = ("--sample", "s2b_msil2a_20170924t93020_69_24", "--png", picture)
    assert "Peatbogs" in run("shards/inspect.py", tmp_path / "shards", *sample)
    assert picture.stat().st_size > 20_000
    overrides = ("train.global_batch=3", "train.steps=4", "data.split=null", "data.streams=1", "backbone.name=resnet18")
    config = ("--config", "configs/pretrain/dual_simclr_bigearthnet.yaml", "watch.every=1", "watch.wandb=off")
    places = (f"data.shards={tmp_path / 'shards'}", f"run.dir={tmp_path / 'run'}", "strategy.precision=fp32")
    run("launchers/pretrain.py", *config, *overrides, *places, "objective.crop_px=60", "strategy.name=single")
    lines = [json.loads(line) for line in (tmp_path / "run/metrics.jsonl").read_text().splitlines()]
    assert [line["step"] for line in lines] == [1, 2, 3, 4]
    assert all(line["train/refused"] == 0 and line["train/loss"] < 20 for line in lines)
    assert sorted(path.name for path in (tmp_path / "run/export").iterdir()) == ["s1", "s2"]


@pytest.mark.skipif(not (DATA / "ucmerced").is_dir(), reason="UC-Merced of ../shared/data is not here")
def test_ucmerced_keeps_images_of_odd_size(tmp_path):
    for folder in ("harbor", "forest"):
        source = DATA / f"ucmerced/UCMerced_LandUse/Images/{folder}"
        shutil.copytree(source, tmp_path / f"archive/UCMerced_LandUse/Images/{folder}")
    shutil.copy(DATA / "ucmerced/LandUse_Multilabeled.txt", tmp_path / "archive")
    run("shards/build.py", "ucmerced", "--source", tmp_path / "archive", "--out", tmp_path / "shards")
    manifest = json.loads((tmp_path / "shards/manifest.json").read_text())
    assert manifest["samples"] == 200
    assert sorted(manifest["nomenclatures"]) == ["class", "multilabel"]
    assert manifest["groups"][0]["shape"] is None
