"""Real imagery from archive to training, if ../shared/data is beside the repository."""

import glob
import io
import json
import shutil
import subprocess
import sys
import tarfile
from pathlib import Path

import numpy as np
import pytest
import rasterio
from rasterio.windows import Window, from_bounds

from rspretrain.archives import open_archive
from rspretrain.shardset.building.build import Part, build_shards
from rspretrain.shardset.building.merge import merge_parts
from rspretrain.shardset.inspection.verify import verify

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
    """Three complete pairs make a batch; unpaired patches are left out."""
    s2, s1 = DATA / "bigearthnet-v1/BigEarthNet-v1.0", DATA / "bigearthnet-v1/BigEarthNet-S1-v1.0"
    sources = ("--source", f"S2={s2}", f"S1={s1}", f"splits={DATA / 'bigearthnet-v1-metadata'}")
    assert "3 of 3 patches" in run("shards/build.py", "bigearthnet", *sources, "--out", tmp_path / "shards")
    assert "all bytes match their checksums" in run("shards/verify.py", tmp_path / "shards")
    picture = tmp_path / "pair.png"
    sample = ("--sample", "s2b_msil2a_20170924t93020_69_24", "--png", picture)
    assert "Peatbogs" in run("shards/inspect.py", tmp_path / "shards", *sample)
    assert picture.stat().st_size > 20_000
    overrides = ("train.global_batch=3", "train.steps=4", "data.split=null", "data.streams=1", "backbone.name=resnet18")
    config = ("--config", "configs/pretrain/dual_simclr_bigearthnet.yaml", "watch.every=1", "watch.wandb=off")
    paths = (f"data.shards={tmp_path / 'shards'}", f"run.dir={tmp_path / 'run'}", "strategy.precision=fp32")
    run("launchers/pretrain.py", *config, *overrides, *paths, "objective.crop_px=60", "strategy.name=single")
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


# Archive, samples, sources below ../shared/data, options. UC-Merced and AID are limited to these classes.
REAL = {
    "ucmerced": ("ucmerced", 200, ["root=ucmerced/UCMerced_LandUse/Images/{harbor,forest}"], []),
    "ucmerced-tif": ("ucmerced", 36, ["root=ucmerced-original-tif"], []),
    "aid": ("aid", 240, ["root=aid/AID/{Airport,Viaduct}"], []),
    "eurosat-rgb": ("eurosat", 100, ["root=eurosat"], ["bands=rgb"]),
    "eurosat-ms": ("eurosat", 3, ["root=eurosat"], ["bands=ms"]),
    "bigearthnet": ("bigearthnet", 3, ["s2=bigearthnet-v1", "s1=bigearthnet-v1"], []),
    "bigearthnet-alone": ("bigearthnet", 3, ["s2=bigearthnet-v1-unpaired"], []),
    "bigearthnet-v2": ("bigearthnet-v2", 2, ["metadata=bigearthnet-v2", "s2=bigearthnet-v2"], []),
    "sen12ms": ("sen12ms", 1, ["root=sen12ms"], []),
    "major-tom": ("geotiff", 25, ["s2=major-tom"], []),
    "ssl4eo-s12": ("geotiff", 18, ["s2=ssl4eo-s12/s2c"], ["window=120", "max_offset=0.5"]),
    "sen1floods11": ("geotiff", 16, [f"{name}=sen1floods11/{name.upper()}" for name in ("s2", "s1")], ["window=128"]),
}  # fmt: skip


S2 = ["B01", "B02", "B03", "B04", "B05", "B06", "B07", "B08", "B8A", "B09", "B10", "B11", "B12"]
# Number of each band in its file; EuroSAT has B8A last.
ORDERS = {1: [], 2: ["VV", "VH"], 3: ["R", "G", "B"], 13: S2, "eurosat": [*S2[:8], *S2[9:], "B8A"]}


@pytest.mark.filterwarnings("ignore::rasterio.errors.NotGeoreferencedWarning")
@pytest.mark.parametrize("case", REAL)
def test_real_pixels_in_one_process_and_in_parts(tmp_path, case):
    """One build and a build in two parts give the same bytes, which verify, and all pixels equal rasterio's."""
    name, count, sources, options = REAL[case]
    if not (DATA / sources[0].partition("=")[2].partition("/")[0]).is_dir():
        pytest.skip("the real archives of ../shared/data are not here")
    roots = {key: subset(tmp_path, text) for key, _, text in (source.partition("=") for source in sources)}
    archive = open_archive(name, [f"{key}={root}" for key, root in roots.items()], options)
    assert build_shards(archive, tmp_path / "whole", samples_per_shard=64).written == count
    for number in (1, 2):
        build_shards(archive, tmp_path / f"part{number}", samples_per_shard=64, part=Part(number, 2))
    merge_parts([tmp_path / "part1", tmp_path / "part2"], tmp_path / "merged")
    whole, merged = (
        {path.name: path.read_bytes() for path in (tmp_path / each).iterdir()} for each in ("whole", "merged")
    )
    assert whole == merged
    assert verify(tmp_path / "whole") == []
    assert check_pixels(tmp_path / "whole", roots) == count


def subset(folder, source):
    """`a/{b,c}`: a folder with links to b and c only."""
    path, _, names = source.partition("/{")
    if not names:
        return DATA / path
    for name in names.rstrip("}").split(","):
        (folder / "archive").mkdir(exist_ok=True)
        (folder / "archive" / name).symlink_to(DATA / path / name)
    return folder / "archive"


def check_pixels(shards, roots):
    """Compare every band of every sample with its source file; returns the number of samples."""
    files = {path for root in roots.values() for path in glob.glob(f"{root}/**/*.*", recursive=True)}
    count = 0
    for path in sorted(shards.glob("*.tar")):
        with tarfile.open(path) as tar:
            members = {member.name: tar.extractfile(member).read() for member in tar}
        for key in sorted({name.partition(".")[0] for name in members}):
            metadata, count = json.loads(members[f"{key}.json"]), count + 1
            for group, bands in metadata["bands"].items():
                pixels = np.load(io.BytesIO(members[f"{key}.{group}.npy"]))
                for number, band in enumerate(bands):
                    assert np.array_equal(pixels[number], band_of(files, metadata, band, pixels.shape[1:])), (key, band)
    return count


def band_of(files, metadata, band, shape):
    """[H W] of one band of a sample, found by the sample's metadata and read with rasterio alone."""
    about, sensor = metadata["attributes"], "s1" if band in ORDERS[2] else "s2"
    named = about.get("file") or about.get(f"{sensor}_name") or about.get(f"{sensor}_scene") or about["scene"]
    paths = [path for path in files if named.removeprefix(f"{sensor}/") in path]
    endings = tuple(f"{mark}{name}.tif" for mark in "/_" for name in (band, band.replace("B0", "B")))
    (path,) = [path for path in paths if len(paths) == 1 or path.endswith(endings)]
    with rasterio.open(path) as source:
        order = ORDERS["eurosat" if "EuroSAT_MS" in path else source.count]
        window = None
        if "row" in about:  # a tile
            window = from_bounds(*metadata["bounds"], source.transform)
            window = Window(round(window.col_off), round(window.row_off), *shape[::-1])
        return source.read(order.index(band) + 1 if source.count > 1 else 1, window=window)
