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


@pytest.mark.parametrize(
    ("override", "message"),
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
            r"strategy.name: Unknown strategy 'fairscale', expected one of auto, single, ddp, fsdp, deepspeed, or",
        ),
        ("objective.name=byoll", r"objective.name: Unknown objective 'byoll', expected one of byol, .*'byol'\?$"),
        ("objective.name=no_such:Mine", r"objective.name: The objective 'no_such:Mine': there is no package 'no_such'"),
        (
            "objective={name: byol, px: 32, sensor: s2}",
            r"yaml: 'objective.sensor' is not a setting of the objective byol; simclr has it \(Name .*\)\. "
            r"Leave it out, or set objective.name=simclr\.$",
        ),
        (
            "objective={name: byol, px: 32, center_momentum: 1}",
            r"is not a setting of the objective byol; dino, gsc_mim have it \(.*\)\. .* objective.name=dino\.$",
        ),
        ("objective.colour.q=1", r"Unknown key 'objective.colour.q'. Did you mean 'objective.colour.hue'\?"),
        ("objective=simclr", r"'objective' is 'simclr', expected a section, such as {name: byol}\."),
        ("optim={schedule: step}", r"yaml: optim.step_epochs: got none with optim.schedule=step, .*=constant\.$"),
        (
            "objective={name: mae, px: 16, decoder_width: 100}",
            r"yaml: objective: decoder_width 100 is not a multiple of decoder_heads 16, .* Change one of them\.$",
        ),
        (
            "labels.fraction=0.1",
            r"yaml: 'labels' is a section of fine-tuning and active learning, not of pretraining\. ",
        ),
        ("optim.lr", r"Override 'optim.lr' is not of the form section.key=value, as in optim.lr=3e-4"),
        ("run.dir.x=1", r"Override 'run.dir.x=1': 'dir' holds 'runs/a', not a section"),
        ("optim.betas=[0.9", r"'optim.betas' is '\[0.9', expected "),
    ],
)
def test_errors_say_value_expectation_and_remedy(tmp_path, override, message):
    with pytest.raises(ConfigError, match=message):
        load(tmp_path, override)


def test_missing_keys_are_named(tmp_path):
    tree = {name: section for name, section in SMALL.items() if name != "train"} | {"run": {}}
    with pytest.raises(ConfigError, match=r"'run.dir' is missing and has no default.*'train' is missing"):
        config.load(write(tmp_path, tree))


@pytest.mark.parametrize(
    ("content", "message"),
    [("[1]", "holds list, expected sections"), ("a: [", "is not YAML"), (None, "cannot read .*No such file")],
)
def test_files_that_are_no_configuration(tmp_path, content, message):
    path = tmp_path / "run.yaml"
    if content is not None:
        path.write_text(content)
    with pytest.raises(ConfigError, match=message):
        config.load(path)


def test_the_override_that_is_to_blame_is_named():
    with pytest.raises(
        config.ConfigError, match=r"^the configuration with objective\.name=byoll: objective\.name: Unknown"
    ):
        config.parse(SMALL, ["train.epochs=3", "objective.name=byoll"])
