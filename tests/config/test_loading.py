from pathlib import Path

import pytest
import yaml

from rspretrain import config
from rspretrain.config import ConfigError
from rspretrain.evaluation.labels import LabelSettings

ROOT = Path(__file__).parents[2]
SMALL = {
    "run": {"dir": "runs/a"},
    "data": {"shards": "shards/a"},
    "sensors": {"rgb": {"bands": ["R", "G", "B"]}},
    "objective": {"name": "simclr", "sensor": "rgb", "px": 64},
    "train": {"global_batch": 8},
}


def write(tmp_path, tree=SMALL, text=""):
    path = tmp_path / "run.yaml"
    path.write_text(yaml.safe_dump(tree) + text)
    return path


def load(tmp_path, *overrides):
    return config.load(write(tmp_path), overrides)


def test_overrides_are_yaml_and_exponents_are_numbers(tmp_path):
    settings = load(tmp_path, "optim.lr=3e-4", "sensors.rgb.bands=[B, R]", "data.split=null", "watch.wandb=off")
    assert settings.optim.lr == 3e-4
    assert settings.sensors["rgb"].bands == ("B", "R")
    assert (settings.data.split, settings.watch.wandb) == (None, "off")


def test_names_that_yaml_takes_for_numbers_are_names(tmp_path):
    settings = load(tmp_path, "run.name=2026", "data.split=1")
    assert (settings.run.name, settings.data.split) == ("2026", "1")
    assert LabelSettings(nomenclature=19).nomenclature == "19"  # BigEarthNet's


def test_exponents_in_the_file(tmp_path):
    assert config.load(write(tmp_path, text="optim: {lr: 3e-4, weight_decay: 1E-2, eps: 1.e-7}\n")).optim.eps == 1e-7


def test_a_dump_loads_as_the_same_settings(tmp_path):
    settings = load(tmp_path, "optim.lr=3e-7", "watch.wandb=off")
    (tmp_path / "saved.yaml").write_text(config.dump(settings))
    assert config.load(tmp_path / "saved.yaml") == settings


def test_resume_compares_what_would_change_the_mathematics(tmp_path):
    saved = tmp_path / "saved.yaml"
    saved.write_text(config.dump(load(tmp_path)))
    free = (
        "strategy.name=ddp",
        "watch.every=3",
        "data.threads=1",
        "data.shards=elsewhere",
        "train.epochs=7",
        "run.dir=b",
    )
    config.check_same(saved, load(tmp_path, *free))
    with pytest.raises(ConfigError, match=r"run.seed was 0, now 1; data.window was 16, now 4. Resume with the saved"):
        config.check_same(saved, load(tmp_path, "run.seed=1", "data.window=4"))


@pytest.mark.parametrize(
    ("kind", "sections", "message"),
    [
        (
            config.RunSettings,
            {"labels": {}, "tune": {}},
            "fine-tuning, expected one of pretraining, which has no labels",
        ),
        (
            config.RunSettings,
            {"budget": {}},
            "active learning, expected one of pretraining, which has no budget",
        ),
        (config.FinetuneSettings, {"query": {}}, r".*which has no query. Run it with `rspretrain active-learning`\.$"),
        (
            config.FinetuneSettings,
            {"objective": {}},
            r"pretraining, .* no objective. .* `rspretrain pretrain`",
        ),
        (
            config.ActiveSettings,
            {"objective": {}},
            "pretraining, expected one of active learning, which",
        ),
    ],
)
def test_a_configuration_of_another_kind_of_run_is_one_sentence(kind, sections, message):
    common = {name: section for name, section in SMALL.items() if name != "objective"}
    with pytest.raises(ConfigError, match=f"^x.yaml is a configuration of {message}"):
        config.parse_as(kind, common | sections, (), "x.yaml")


def test_texts_with_quotes_of_their_own_are_taken_as_they_are(tmp_path):
    settings = config.load(write(tmp_path), ["data.filter='Pastures' in labels_19 and lat > 50"])
    assert settings.data.filter == "'Pastures' in labels_19 and lat > 50"
