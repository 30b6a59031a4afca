"""A small label-budget loop on images whose classes can be seen, and people who fill its tables."""

import csv
import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from fakes.memory import PAIR_GROUPS

from engine.finetunes import CONFIG, Coloured
from rspretrain import config, world
from rspretrain.archives.base import Entry
from rspretrain.engine.active_learning import ActiveLearning, Standing, prepare_active
from rspretrain.patch import Patch
from rspretrain.shardset.building.build import build_shards
from rspretrain.shardset.index import open_shards
from rspretrain.world import World

BUDGET = "validation: {resamples: 50}\nbudget: {val: 6, test: 12, first: 4, per_round: 2, rounds: 2}"
GROUPS = PAIR_GROUPS[:2]  # few pictures to draw


class Unlabelled(Coloured):
    """The same images, of which nobody has said what they are."""

    def __post_init__(self) -> None:
        self.nomenclatures = {}

    def read(self, entry: Entry) -> Patch:
        return replace(super().read(entry), labels={})


def write_config(folder: Path, archive: Coloured | None = None) -> Path:
    """A shard set and the configuration of a loop on it, in `folder`."""
    build_shards(archive or Coloured(samples=60, groups=GROUPS), folder / "shards", samples_per_shard=8)
    path = folder / "active.yaml"
    text = f"run: {{dir: {folder}/run, seed: 3}}{CONFIG}{BUDGET}\n"
    path.write_text(text.replace("data: {", f"data: {{shards: {folder}/shards, "))
    return path


def loop(path: Path, *overrides: str, resume: bool = False) -> ActiveLearning:
    """The loop as this process or rank has it."""
    here = World(world.rank(), world.size(), world.rank(), torch.device("cpu"))
    return prepare_active(config.load_active(path, overrides), here, False, resume)


def run(path: Path, *overrides: str, resume: bool = False) -> tuple[Standing, list[str]]:
    """Run it; how it stands, and what it said."""
    said: list[str] = []
    return loop(path, *overrides, resume=resume).run(said.append), said


def state(folder: Path) -> dict[str, Any]:
    """Everything that a loop decided and found, and its last weights."""
    number = max(int(one.name) for one in (folder / "rounds").iterdir())
    checkpoint = next((folder / f"rounds/{number:02d}/checkpoints").glob("step_*"))
    told = json.loads((folder / "active.json").read_text())
    return {
        "pool": json.loads((folder / "pool.json").read_text()),
        "rounds": told["rounds"],
        "weights": (checkpoint / "weights.safetensors").read_bytes(),
    }


def fill(table: Path, shards: Path, *, but: dict[str, str | None] | None = None) -> None:
    """As a person who sees the labels `all` of the set `shards`. `but`: key -> another text, None: no row."""
    known, wrong = open_shards(shards), but or {}
    hot, names = known.labels("all"), known.nomenclatures["all"].names
    keys = [row["key"] for row in csv.DictReader(table.read_text("utf-8-sig").splitlines())]
    right = {key: ";".join(names[i] for i in hot[known.row_of_key[key]].nonzero()[0]) for key in keys}
    rows = [(key, text) for key in keys if (text := wrong.get(key, right[key])) is not None]
    with table.open("w", newline="", encoding="utf-8") as file:
        csv.writer(file).writerows([("key", "labels"), *rows])
