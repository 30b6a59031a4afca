"""The three cases of docs/own_data.md on tiny generated data: build, then a step with the configuration of each."""

import pytest
import torch
from fakes.geotiff import write_band_folder, write_s1
from fakes.scenes import write_folder

from docs.pages import blocks
from rspretrain import config
from rspretrain.cli import build
from rspretrain.engine.job import prepare
from rspretrain.engine.trainer import train
from rspretrain.shipped_configs import shipped
from rspretrain.world import World

TINY = ("backbone.name=test_resnet", "train.global_batch=8", "train.steps=1", "strategy.precision=fp32")
S2 = {"B02": 1, "B03": 1, "B04": 1, "B08": 1, "B11": 2}


def write_rgb(folder):
    write_folder(folder, per_class=6)
    return ["folder", "--source", str(folder)]


def write_s2(folder):
    write_band_folder(folder / "S2A_20220706", S2, height=48, width=96)
    return ["geotiff", "--source", f"s2={folder}", "--option", "window=16"]


def write_pairs(folder):
    write_band_folder(folder / "s2" / "S2A_20220706", S2, height=48, width=96)
    write_s1(folder / "s1" / "S1A_20220707.tif", height=48, width=96)
    return ["geotiff", "--source", f"s2={folder}/s2", f"s1={folder}/s1", "--option", "window=16"]


@pytest.mark.parametrize(
    ("name", "write", "size", "exports"),
    [
        ("own_rgb", write_rgb, "objective.px=16", {"rgb": ["R", "G", "B"]}),
        ("own_s2", write_s2, "objective.px=16", {"s2": list(S2)}),
        ("own_s1s2", write_pairs, "objective.crop_px=16", {"s1": ["VV", "VH"], "s2": list(S2)}),
    ],
)
def test_own_data_needs_shards_and_a_folder_for_the_run(tmp_path, name, write, size, exports):
    assert build.main([*write(tmp_path / "data"), "--out", str(tmp_path / "shards")]) == 0
    paths = (f"data.shards={tmp_path}/shards", f"run.dir={tmp_path}/run")
    settings = config.load(shipped("pretrain")[name], [*paths, *TINY, size])
    job = prepare(settings, World(0, 1, 0, torch.device("cpu")), False)
    assert {sensor: list(one.bands) for sensor, one in job.settings.sensors.items()} == exports
    finish = train(job, resume=False, log=print)
    assert finish.exports.keys() == exports.keys()


@pytest.mark.parametrize("name", ["own_rgb", "own_s2", "own_s1s2"])
def test_the_page_has_the_complete_commands_of_each_case(name):
    text = "".join(blocks("own_data", "bash"))
    assert f"rspretrain pretrain --config {name} data.shards=" in text
