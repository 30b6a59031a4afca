import shlex

import pytest
import torch
from fakes.memory import PAIR_GROUPS, SCENE_GROUPS, memory_shards

from rspretrain import config
from rspretrain.config import ConfigError
from rspretrain.engine.fit import misfits
from rspretrain.engine.job import prepare
from rspretrain.engine.run_dir import open_run_dir
from rspretrain.world import World

ALONE = World(0, 1, 0, torch.device("cpu"))
ALL = ("B01", "B02", "B03", "B04", "B05", "B06", "B07", "B08", "B8A", "B09", "B11", "B12")
SIMCLR = """
sensors: {s2: {bands: all, normalise: measured}}
backbone: {name: test_resnet}
objective: {name: simclr, sensor: s2, px: 8}
train: {global_batch: 8, epochs: 1}
strategy: {precision: fp32}
"""


@pytest.fixture(scope="module")
def few_bands(tmp_path_factory):
    """Ten samples of four Sentinel-2 bands in two shards."""
    return memory_shards(tmp_path_factory.mktemp("few") / "own", samples=10, groups=PAIR_GROUPS[1:2]).path


def job(folder, shards, *overrides):
    path = folder / "run.yaml"
    path.write_text(SIMCLR)
    return prepare(config.load(path, [f"data.shards={shards}", f"run.dir={folder}/run", *overrides]), ALONE, False)


def test_all_bands_are_those_of_the_shards_in_canonical_order(tmp_path, few_bands):
    pairs = memory_shards(tmp_path / "pairs", samples=16)
    assert job(tmp_path, few_bands).settings.sensors["s2"].bands == ("B02", "B03", "B04", "B08")
    made = job(tmp_path, pairs.path, "sensors.s2.bands=all")
    assert made.settings.sensors["s2"].bands == ALL
    assert set(made.settings.sensors["s2"].statistics) == set(made.settings.sensors["s2"].bands)


def test_resolved_bands_are_saved_and_resume_compares_them(tmp_path, few_bands):
    made = job(tmp_path, few_bands)
    open_run_dir(made.settings, ALONE, resume=False)
    assert config.load(tmp_path / "run" / "config.yaml").sensors["s2"].bands == ("B02", "B03", "B04", "B08")
    assert open_run_dir(job(tmp_path, few_bands).settings, ALONE, resume=True)
    with pytest.raises(ConfigError, match=r"sensors.s2.bands was \['B02', 'B03', 'B04', 'B08'\], now \['B02'\]"):
        open_run_dir(job(tmp_path, few_bands, "sensors.s2.bands=[B02]").settings, ALONE, resume=True)


def test_all_differences_are_one_error_and_its_overrides_fix_them(tmp_path, few_bands):
    wrong = (
        "data.split=val", "data.streams=64", "sensors.s2={bands: [B02, B03, B11], normalise: imagenet}",
        "train.global_batch=64",
    )  # fmt: skip
    with pytest.raises(ConfigError, match="does not fit the shard set own, which has 10 samples of s2_10m") as error:
        job(tmp_path, few_bands, *wrong)
    lines = str(error.value).split("\n")
    assert len([line for line in lines if line.startswith("  - ")]) == 5
    fixes = shlex.split(lines[-1].removeprefix("Overrides that fix all of it: "))
    assert fixes == [
        "data.split=null", "data.streams=2", "train.global_batch=10", "sensors.s2.bands=[B02,B03]",
        "sensors.s2.normalise=measured",
    ]  # fmt: skip
    made = job(tmp_path, few_bands, *wrong, *fixes)
    assert list(misfits(made.settings, made.sources, ALONE)) == []
    assert made.settings.sensors["s2"].bands == ("B02", "B03")
    assert made.total_steps == 1


def test_a_filter_without_samples_and_a_window_larger_than_the_images(tmp_path):
    pairs = memory_shards(tmp_path / "pairs", samples=16).path
    dual = ("sensors={s1: {bands: all}, s2: {bands: all}}", "objective={name: dual_simclr, crop_px: 40}")
    with pytest.raises(ConfigError, match="2 differences") as error:
        job(tmp_path, pairs, *dual, "data.filter=country == 'Mars'")
    fixes = shlex.split(str(error.value).split("fix all of it: ")[1])
    assert fixes == ["data.filter=null", "objective.crop_px=12"]
    assert job(tmp_path, pairs, *dual, "data.filter=country == 'Mars'", *fixes).total_steps == 2


def test_a_missing_sensor_is_replaced_by_the_only_other(tmp_path):
    scenes = memory_shards(tmp_path / "scenes", samples=16, groups=SCENE_GROUPS).path
    with pytest.raises(ConfigError, match=r"Sensor 's2' is not in the shard set, which has \['rgb'\]") as error:
        job(tmp_path, scenes)
    fixes = shlex.split(str(error.value).partition(" Override: ")[2])
    assert fixes == ["sensors={rgb: {bands: all, normalise: measured}}", "objective.sensor=rgb"]
    assert job(tmp_path, scenes, *fixes).settings.sensors["rgb"].bands == ("R", "G", "B")


def test_a_missing_sensor_of_two_has_no_override(tmp_path, few_bands):
    dual = ("sensors={s1: {bands: all}, s2: {bands: all}}", "objective={name: dual_simclr, crop_px: 8}")
    with pytest.raises(ConfigError, match="Sensor 's1' is not in the shard set") as error:
        job(tmp_path, few_bands, *dual)
    assert "Override" not in str(error.value)
