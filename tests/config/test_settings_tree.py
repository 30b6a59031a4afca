from pathlib import Path

import pytest
import yaml

from rspretrain import config
from rspretrain.config import ConfigError

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


def active(tmp_path, *overrides):
    tree = {**SMALL, "labels": {"nomenclature": "all"}, "run": {"dir": "runs/a", "seed": 5}}
    return config.parse_as(config.ActiveSettings, {k: v for k, v in tree.items() if k != "objective"}, overrides)


@pytest.mark.parametrize("path", sorted((ROOT / "configs/pretrain").glob("*.yaml")), ids=lambda path: path.stem)
def test_every_configuration_of_the_repository_loads(path):
    config.load(path)


@pytest.mark.parametrize("path", sorted((ROOT / "configs/active_learning").glob("*.yaml")), ids=lambda path: path.stem)
def test_every_label_budget_loop_of_the_repository_loads(path):
    settings = config.load_active(path)
    # Those of the paper and of its table.
    assert settings.budget.num_labels == {"ucmerced": 440, "ucmerced_small": 180}[path.stem]


def test_a_round_is_a_fine_tuning_run_with_random_choices_of_its_own(tmp_path):
    settings = active(tmp_path, "run.name=x", "query.name=badge")
    first, second = settings.of_round(0), settings.of_round(1)
    assert (second.run.dir, second.run.name) == (Path("runs/a/rounds/01"), "x, round 1")
    assert second.labels.nomenclature == "all"
    assert config.parse_as(config.FinetuneSettings, yaml.safe_load(config.dump(second))) == second
    others = [
        active(tmp_path, override).of_round(0) for override in ("run.seed=6", "budget.seed=1", "query.name=random")
    ]
    assert (
        len({one.run.seed for one in (first, second, *others)}) == 4
    )  # all query functions start with the same images
    assert others[2].run.seed == first.run.seed


def test_an_oracle_is_given_by_its_name_or_as_a_section(tmp_path):
    assert active(tmp_path, "oracle=csv").oracle.name == "csv"
    assert active(tmp_path, "oracle.name=csv", "oracle.classes=[a, b]").oracle.classes == ("a", "b")
    with pytest.raises(ConfigError, match=r"'oracle.name' is 'me', expected 'table' or 'csv'"):
        active(tmp_path, "oracle=me")


@pytest.mark.parametrize("path", sorted((ROOT / "configs/finetune").glob("*.yaml")), ids=lambda path: path.stem)
def test_every_fine_tuning_configuration_of_the_repository_loads(path):
    config.load_finetune(path)
