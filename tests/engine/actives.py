"""A small label-budget loop on images with visible classes, and a stand-in for the people who fill in its CSVs."""

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
from rspretrain.engine.active_learning import ActiveLearning, LoopStatus, prepare_active
from rspretrain.patch import Patch
from rspretrain.shardset.building.build import build_shards
from rspretrain.shardset.index import open_shards
from rspretrain.world import World

BUDGET = "validation: {resamples: 50}\nbudget: {val: 6, test: 12, first: 4, per_round: 2, rounds: 2}"
GROUPS = PAIR_GROUPS[:2]  # small, to draw few pictures


class Unlabelled(Coloured):
    """The same images without labels."""

    def __post_init__(self) -> None:
        self.nomenclatures = {}

    def read(self, entry: Entry) -> Patch:
        return replace(super().read(entry), labels={})


def write_config(folder: Path, archive: Coloured | None = None) -> Path:
    """Build a shard set and write the configuration of a loop on it, in `folder`."""
    build_shards(archive or Coloured(samples=60, groups=GROUPS), folder / "shards", samples_per_shard=8)
    path = folder / "active.yaml"
    text = f"run: {{dir: {folder}/run, seed: 3}}{CONFIG}{BUDGET}\n"
    path.write_text(text.replace("data: {", f"data: {{shards: {folder}/shards, "))
    return path


def loop(path: Path, *overrides: str, resume: bool = False) -> ActiveLearning:
    """The loop of this process or rank."""
    this_world = World(world.rank(), world.size(), world.rank(), torch.device("cpu"))
    return prepare_active(config.load_active(path, overrides), this_world, False, resume)


def run(path: Path, *overrides: str, resume: bool = False) -> tuple[LoopStatus, list[str]]:
    """Run the loop; its status and log lines."""
    lines: list[str] = []
    return loop(path, *overrides, resume=resume).run(lines.append), lines


def state(folder: Path) -> dict[str, Any]:
    """The pool, the results and the last weights of a loop."""
    number = max(int(one.name) for one in (folder / "rounds").iterdir())
    checkpoint = next((folder / f"rounds/{number:02d}/checkpoints").glob("step_*"))
    return {
        "pool": json.loads((folder / "pool.json").read_text()),
        "rounds": json.loads((folder / "active.json").read_text())["rounds"],
        "weights": (checkpoint / "weights.safetensors").read_bytes(),
    }


def fill(table: Path, shards: Path, *, but: dict[str, str | None] | None = None) -> None:
    """Fill in a CSV with the labels `all` of the set `shards`. `but`: key -> another text; None: no row."""
    known, wrong = open_shards(shards), but or {}
    hot, names = known.labels("all"), known.nomenclatures["all"].names
    keys = [row["key"] for row in csv.DictReader(table.read_text("utf-8-sig").splitlines())]
    right = {key: ";".join(names[i] for i in hot[known.row_of_key[key]].nonzero()[0]) for key in keys}
    rows = [(key, text) for key in keys if (text := wrong.get(key, right[key])) is not None]
    with table.open("w", newline="", encoding="utf-8") as file:
        csv.writer(file).writerows([("key", "labels"), *rows])
