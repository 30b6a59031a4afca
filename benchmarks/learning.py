"""Feature quality of each objective on scenes, compared with random networks, for three seeds.

    python benchmarks/learning.py --ucmerced PATH --aid PATH --work runs    # everything; keeps complete runs in `runs`
    python benchmarks/learning.py … --only 'aid/gsc_mim/*'                  # some runs, without writing results

All objectives for RGB scenes are trained on UC-Merced and AID in the product's loop: the same small ViT, views of 48
pixels, AdamW, the same number of steps and images. Then both probes (logistic regression, k-nearest neighbours) use
pooled features of whole images. Every fifth image of each class is held out from pretraining and probe training. The
learning rate of an objective is the better of two in a pilot run of half the length on UC-Merced, judged by k-nearest
neighbours within the training images. Runs take minutes on a CPU: they show which objectives learn, not which is best
at the length for which they were designed.
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
# The papers' settings are for weeks on a million images. 400 steps need faster teachers (0.99 instead of 0.996), heads
# and prototypes of the network's size, and no temperature warm-up of 30 epochs.
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
    """One pretraining run; the objective `random` means none."""

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
    """The trained backbone and its summary. Trains unless the run is complete."""
    if run.objective == "random":
        network = create_backbone(BackboneSettings(**BACKBONE), "rgb", ("R", "G", "B"), PX)  # type: ignore[arg-type]
        return reinitialised(network, run.seed), {}
    settings = settings_of(run, work)
    summary = settings.run.dir / "summary.json"
    if not summary.exists():
        job = prepare(settings, World(0, 1, 0, torch.device("cpu")), deepspeed_launcher=False)
        train(job, resume=settings.run.dir.exists(), log=lambda line: None)
    content = read_json(summary)
    return load_backbone(settings.run.dir / "export/rgb")[0], {
        "verdict": content["health"]["verdict"],
        "seconds": round(content["seconds"]),
    }


def measure(run: Run, work: Path) -> dict[str, Any]:
    """Probe scores of a run in percent, cached in a file."""
    warnings.filterwarnings("ignore")
    torch.set_num_threads(1)
    cached = work / run.name / "row.json"
    if cached.exists():
        return read_json(cached)
    backbone, training = backbone_of(run, work)
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
    row = {**asdict(run), **{name: round(value, 2) for name, value in found.items()}, **training}
    write_json(cached, row)
    return row


def build(archive: str, source: Path, work: Path) -> None:
    if (work / archive / "shards").exists():
        return
    command = [sys.executable, "shards/build.py", archive, "--source", str(source.resolve()), "--out"]
    subprocess.run([*command, str((work / archive / "shards").resolve()), "--workers", "2"], cwd=ROOT, check=True)


def summarise(rows: Iterable[dict[str, Any]]) -> list[dict[str, Any]]:
    """Mean and standard deviation over the seeds, one line per archive and objective."""
    groups: dict[tuple[str, str], list[dict[str, Any]]] = {}
    for row in rows:
        groups.setdefault((row["archive"], row["objective"]), []).append(row)
    lines = []
    for (archive, objective), some in groups.items():
        line: dict[str, Any] = {"archive": archive, "objective": objective, "lr": some[0]["lr"], "seeds": len(some)}
        for name in ("linear_top1", "knn_top1"):
            values = [row[name] for row in some]
            line |= {name: round(mean(values), 1), f"{name}_std": round(stdev(values), 1)}
        lines.append(line)
    return lines


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--ucmerced", type=Path, required=True, help="folder that contains UCMerced_LandUse")
    parser.add_argument("--aid", type=Path, required=True, help="folder that contains AID")
    parser.add_argument("--work", type=Path, help="folder for the runs; complete runs in it are not repeated")
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
