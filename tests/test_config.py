from pathlib import Path

import pytest
import yaml

from rspretrain import config
from rspretrain.config import ConfigError
from rspretrain.downstream.labels import LabelSettings

ROOT = Path(__file__).parents[1]
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


@pytest.mark.parametrize(
    ("override", "told"),
    [
        ("optim.lrr=1", r"Unknown key 'optim.lrr'. Did you mean 'optim.lr'\?"),
        ("optimm.lr=1", r"Unknown key 'optimm'. Did you mean 'optim'\?"),
        ("objective.temprature=1", r"Unknown key 'objective.temprature'. Did you mean 'objective.temperature'\?"),
        ("sensors.rgb.band=1", r"Unknown key 'sensors.rgb.band'. Did you mean 'sensors.rgb.bands'\?"),
        ("train.weight_decay=1", r"Unknown key 'train.weight_decay'. Did you mean 'optim.weight_decay'\?"),
        ("run.qqq=1", r"Unknown key 'run.qqq'. Section 'run' has dir, name, seed."),
        ("optim.lr=fast", r"'optim.lr' is 'fast', expected a valid number, unable to parse string as a number"),
        ("train.global_batch=0", r"'train.global_batch' is 0, expected greater than 0"),
        (
            "strategy.name=fairscale",
            r"'strategy.name' is 'fairscale', expected 'auto', 'single', 'ddp', 'fsdp' or 'deepspeed'",
        ),
        ("objective.name=byoll", r"'objective' is .*'byoll'.*expected"),
        ("optim={schedule: step}", r"yaml: optim.step_epochs: got none with optim.schedule=step, .*=constant\.$"),
        (
            "objective={name: mae, px: 16, decoder_width: 100}",
            r"yaml: objective: decoder_width 100 is no multiple of decoder_heads 16, .* Change one of them\.$",
        ),
        ("optim.lr", r"Override 'optim.lr' is not of the form section.key=value, as in optim.lr=3e-4"),
        ("run.dir.x=1", r"Override 'run.dir.x=1': 'dir' holds 'runs/a', not a section"),
        ("optim.betas=[0.9", r"'optim.betas' is '\[0.9', expected "),
    ],
)
def test_errors_say_value_expectation_and_remedy(tmp_path, override, told):
    with pytest.raises(ConfigError, match=told):
        load(tmp_path, override)


def test_missing_keys_are_named(tmp_path):
    tree = {name: section for name, section in SMALL.items() if name != "train"} | {"run": {}}
    with pytest.raises(ConfigError, match=r"'run.dir' is missing and has no default.*'train' is missing"):
        config.load(write(tmp_path, tree))


@pytest.mark.parametrize(
    ("content", "told"),
    [("[1]", "holds list, expected sections"), ("a: [", "is not YAML"), (None, "cannot read .*No such file")],
)
def test_files_that_are_no_configuration(tmp_path, content, told):
    path = tmp_path / "run.yaml"
    if content is not None:
        path.write_text(content)
    with pytest.raises(ConfigError, match=told):
        config.load(path)


def test_what_is_dumped_loads_as_the_same(tmp_path):
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


@pytest.mark.parametrize("path", sorted((ROOT / "configs/pretrain").glob("*.yaml")), ids=lambda path: path.stem)
def test_every_configuration_of_the_repository_loads(path):
    config.load(path)


@pytest.mark.parametrize("path", sorted((ROOT / "configs/active_learning").glob("*.yaml")), ids=lambda path: path.stem)
def test_every_label_budget_loop_of_the_repository_loads(path):
    settings = config.load_active(path)
    assert settings.budget.budget == {"ucmerced": 440, "ucmerced_small": 180}[path.stem]  # the paper's, and its table's


def active(tmp_path, *overrides):
    tree = {**SMALL, "labels": {"nomenclature": "all"}, "run": {"dir": "runs/a", "seed": 5}}
    return config.parse_as(config.ActiveSettings, {k: v for k, v in tree.items() if k != "objective"}, overrides)


def test_a_round_is_a_fine_tuning_run_with_random_choices_of_its_own(tmp_path):
    settings = active(tmp_path, "run.name=x", "query.name=badge")
    first, second = settings.of_round(0), settings.of_round(1)
    assert (second.run.dir, second.run.name) == (Path("runs/a/rounds/01"), "x, round 1")
    assert second.labels.nomenclature == "all"
    assert config.parse_as(config.FinetuneSettings, yaml.safe_load(config.dump(second))) == second
    others = [
        active(tmp_path, override).of_round(0) for override in ("run.seed=6", "budget.seed=1", "query.name=random")
    ]
    assert len({one.run.seed for one in (first, second, *others)}) == 4  # query functions begin alike
    assert others[2].run.seed == first.run.seed


def test_an_oracle_is_given_by_its_name_or_as_a_section(tmp_path):
    assert active(tmp_path, "oracle=csv").oracle.name == "csv"
    assert active(tmp_path, "oracle.name=csv", "oracle.classes=[a, b]").oracle.classes == ("a", "b")
    with pytest.raises(ConfigError, match=r"'oracle.name' is 'me', expected 'table' or 'csv'"):
        active(tmp_path, "oracle=me")


@pytest.mark.parametrize("path", sorted((ROOT / "configs/finetune").glob("*.yaml")), ids=lambda path: path.stem)
def test_every_fine_tuning_configuration_of_the_repository_loads(path):
    config.load_finetune(path)


def test_texts_with_quotes_of_their_own_are_taken_as_they_are(tmp_path):
    settings = config.load(write(tmp_path), ["data.filter='Pastures' in labels_19 and lat > 50"])
    assert settings.data.filter == "'Pastures' in labels_19 and lat > 50"
