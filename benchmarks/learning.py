"""What each objective learns from scenes: frozen features against those of the same network at random, three seeds.

    python benchmarks/learning.py --ucmerced PATH --aid PATH --work runs    # everything; what lies in `runs` is kept
    python benchmarks/learning.py … --only 'aid/gsc_mim/*'                  # some runs, without writing results

Every objective that trains on RGB scenes, on UC-Merced and on AID, in the product's own loop: the same small ViT, views
of 48 pixels, AdamW, the same number of steps with the same number of images. Then the product's probes, logistic
regression and nearest neighbours, on pooled features of whole images; every fifth of every class is held out and was
seen by neither. An objective's rate is the better of two in a pilot run at half the length on UC-Merced, by the nearest
neighbours among the training images alone. A run of minutes on a CPU: it says which objectives learn, not which is best
at the length that they were made for.
"""

import argparse
import os
import subprocess
import sys
import tempfile
import warnings
from collections.abc import Iterable
from concurrent.futures import ProcessPoolExecutor
from dataclasses import asdict, dataclass
from fnmatch import fnmatch
from itertools import product
from pathlib import Path
from statistics import mean, stdev
from typing import Any

import torch
from results import write_results

from rspretrain import config
from rspretrain.engine.job import prepare
from rspretrain.engine.trainer import train
from rspretrain.evaluation.metrics import summary_metrics
from rspretrain.evaluation.probe import LabelledFeatures, extract_features, knn_probe, probe, reinitialised
from rspretrain.evaluation.splits import choose_data, holdout_mask
from rspretrain.files import read_json, write_json
from rspretrain.nn.backbones import Backbone, BackboneSettings, create_backbone
from rspretrain.nn.weights import load_backbone
from rspretrain.shardset.index import open_shards
from rspretrain.transforms.inputs import NetworkInput, SensorInput, SensorSettings
from rspretrain.world import World

ROOT = Path(__file__).parents[1]
PX, BATCH, STEPS, SEEDS = 48, 64, 400, (0, 1, 2)
RATES = (5e-4, 2e-3)
PILOT_SEED = 100
BACKBONE = {
    "name": "vit_tiny_patch16_224",
    "args": {"patch_size": 8, "embed_dim": 192, "depth": 4, "num_heads": 3},
}
# The paper's settings are for weeks on a million images. Teachers that follow faster (0.99 for 0.996), heads and
# prototypes of the network's size, and temperatures without a warm-up of 30 epochs are what 400 steps ask for.
SMALL = {"momentum": 0.99, "hidden": 512, "outputs": 1024, "temperature_epochs": 0}
GSC_MIM = {"name": "gsc_mim", **SMALL}
OBJECTIVES: dict[str, dict[str, Any]] = {
    "simclr": {"name": "simclr", "sensor": "rgb", "temperature": 0.2},
    "byol": {"name": "byol", "momentum": 0.99, "hidden": 1024},
    "moco_v3": {"name": "moco_v3", "momentum": 0.99, "hidden": 1024},
    "dino": {"name": "dino", **SMALL},
    "mae": {"name": "mae", "decoder_width": 128, "decoder_depth": 2, "decoder_heads": 4},
    "gsc_mim": GSC_MIM,
    "gsc_mim_colour": {**GSC_MIM, "photometric": "ibot"},  # iBOT's views; the paper names geometric ones only
}


@dataclass(frozen=True)
class Run:
    """One pretraining; `objective` random: none."""

    archive: str
    objective: str
    seed: int
    lr: float = 0.0
    steps: int = STEPS

    @property
    def name(self) -> str:
        return f"{self.archive}/{self.objective}/{self.seed}/{self.steps}/{self.lr:g}"


def settings_of(run: Run, work: Path) -> config.RunSettings:
    tree = {
        "run": {"dir": work / run.name, "seed": run.seed},
        "data": {"shards": work / run.archive / "shards", "split": "holdout:train", "threads": 1},
        "sensors": {"rgb": {"bands": ["R", "G", "B"], "normalise": "imagenet"}},
        "backbone": BACKBONE,
        "objective": {"px": PX, **OBJECTIVES[run.objective]},
        "optim": {"lr": run.lr, "lr_reference_batch": None, "warmup_epochs": 2, "weight_decay": 0.05, "clip_norm": 3.0},
        "strategy": {"name": "single", "precision": "bf16"},
        "train": {"global_batch": BATCH, "steps": run.steps, "checkpoint_minutes": None, "keep": 1},
        "watch": {"wandb": "off", "every": 25},
    }
    return config.parse(tree)


def backbone_of(run: Run, work: Path) -> tuple[Backbone, dict[str, Any]]:
    """The trained backbone and what its training said of itself; trains unless it lies there."""
    if run.objective == "random":
        network = create_backbone(BackboneSettings(**BACKBONE), "rgb", ("R", "G", "B"), PX)  # type: ignore[arg-type]
        return reinitialised(network, run.seed), {}
    settings = settings_of(run, work)
    summary = settings.run.dir / "summary.json"
    if not summary.exists():
        job = prepare(settings, World(0, 1, 0, torch.device("cpu")), deepspeed_launcher=False)
        train(job, resume=settings.run.dir.exists(), log=lambda line: None)
    told = read_json(summary)
    return load_backbone(settings.run.dir / "export/rgb")[0], {
        "verdict": told["health"]["verdict"],
        "seconds": round(told["seconds"]),
    }


def measure(run: Run, work: Path) -> dict[str, Any]:
    """Probe scores of a run in percent; kept in a file, so that nothing is computed twice."""
    warnings.filterwarnings("ignore")
    torch.set_num_threads(1)
    kept = work / run.name / "row.json"
    if kept.exists():
        return read_json(kept)
    backbone, told = backbone_of(run, work)
    shards = open_shards(work / run.archive / "shards")
    sensor = SensorSettings(bands=backbone.bands, normalise="imagenet")
    network_input = NetworkInput([SensorInput("rgb", sensor, list(shards.groups.values()))])
    data = choose_data(shards, "class")
    if run.seed == PILOT_SEED:
        y = torch.from_numpy(shards.labels("class"))[data.train]
        x, check = extract_features(backbone, network_input, shards, data.train), holdout_mask(y, multi=False)
        scores = knn_probe(LabelledFeatures(x[~check], y[~check]), LabelledFeatures(x[check], y[check]), multi=False)
        found = {"knn_top1": 100 * scores.top1}  # type: ignore[union-attr]
    else:
        result = probe(backbone, network_input, shards, data)
        found = {
            f"{kind}_{name}": 100 * value
            for kind, scores in (("linear", result.linear), ("knn", result.knn))
            for name, value in summary_metrics(scores)
        }
    row = {**asdict(run), **{name: round(value, 2) for name, value in found.items()}, **told}
    write_json(kept, row)
    return row


def build(archive: str, source: Path, work: Path) -> None:
    if (work / archive / "shards").exists():
        return
    command = [sys.executable, "shards/build.py", archive, "--source", str(source.resolve()), "--out"]
    subprocess.run([*command, str((work / archive / "shards").resolve()), "--workers", "2"], cwd=ROOT, check=True)


def summarise(rows: Iterable[dict[str, Any]]) -> list[dict[str, Any]]:
    """Mean and deviation over the seeds, a line for each archive and objective."""
    groups: dict[tuple[str, str], list[dict[str, Any]]] = {}
    for row in rows:
        groups.setdefault((row["archive"], row["objective"]), []).append(row)
    told = []
    for (archive, objective), some in groups.items():
        line: dict[str, Any] = {"archive": archive, "objective": objective, "lr": some[0]["lr"], "seeds": len(some)}
        for name in ("linear_top1", "knn_top1"):
            values = [row[name] for row in some]
            line |= {name: round(mean(values), 1), f"{name}_std": round(stdev(values), 1)}
        told.append(line)
    return told


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--ucmerced", type=Path, required=True, help="the folder that holds UCMerced_LandUse")
    parser.add_argument("--aid", type=Path, required=True, help="the folder that holds AID")
    parser.add_argument("--work", type=Path, help="a folder to keep; runs that lie there are not trained again")
    parser.add_argument("--only", nargs="+", default=["*"], help="names of runs, with * for any characters")
    parser.add_argument("--workers", type=int, default=len(os.sched_getaffinity(0)))
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as name, ProcessPoolExecutor(args.workers) as pool:
        work = args.work or Path(name)
        for archive in ("ucmerced", "aid"):
            build(archive, getattr(args, archive), work)

        def all_of(runs: list[Run]) -> list[dict[str, Any]]:
            rows = []
            for row in pool.map(measure, runs, [work] * len(runs)):
                rows.append(row)
                print(row, flush=True)
            return rows

        pilots = [
            Run("ucmerced", objective, PILOT_SEED, lr, STEPS // 2) for objective, lr in product(OBJECTIVES, RATES)
        ]
        piloted = all_of(pilots)
        best = {row["objective"]: row["lr"] for row in sorted(piloted, key=lambda row: row["knn_top1"])}
        runs = [
            Run(archive, objective, seed, best.get(objective, 0.0))
            for seed, archive, objective in product(SEEDS, ("ucmerced", "aid"), ("random", *OBJECTIVES))
        ]
        rows = all_of([run for run in runs if any(fnmatch(run.name, only) for only in args.only)])
    if args.only == ["*"]:
        settings = {"steps": STEPS, "batch": BATCH, "px": PX, "backbone": BACKBONE, "objectives": OBJECTIVES}
        write_results("learning_runs", [*piloted, *rows], settings)
        write_results("learning", summarise(rows), settings | {"pilot": piloted})


if __name__ == "__main__":
    main()
