"""SimCLR on UC-Merced, end to end, compared with lightly's SimCLR: linear-probe accuracy and images per second.

python benchmarks/simclr_ucmerced.py --source PATH [--epochs 20]

Both train timm's ResNet-18 from scratch on 64-pixel views of the same 1,680 images (every fifth image of each class is
held out), batch 128, for the same number of epochs on the same two cores, in sequence. The same probe (logistic
regression on pooled features of whole images at 64 px, 21 classes) evaluates both and a random network. Our run uses
shards and `deepspeed --num_accelerators 2 launchers/pretrain.py`. lightly's run follows its documentation
(SimCLRTransform, NTXentLoss, SimCLRProjectionHead) with a DataLoader over the image files and our optimizer, learning
rate and temperature. Rates are images over the time of the epochs; `wall_s` is the time of the whole process, imports
and start-up included. bf16 applies to arithmetic only; our fp32 run is listed, too.
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import torch
from results import write_results

from rspretrain.evaluation.probe import probe, reinitialised
from rspretrain.evaluation.splits import choose_data
from rspretrain.files import read_json
from rspretrain.nn.backbones import Backbone, BackboneSettings, create_backbone
from rspretrain.nn.weights import load_backbone
from rspretrain.shardset.index import ShardSet, open_shards
from rspretrain.transforms.inputs import NetworkInput, SensorInput, SensorSettings

ROOT = Path(__file__).parents[1]
PX, BATCH = 64, 128


def train_ours(shards: Path, run: Path, epochs: int, precision: str) -> dict[str, float]:
    command = [
        *("deepspeed", "--num_accelerators", "2", "launchers/pretrain.py"),
        *("--config", "configs/pretrain/simclr_ucmerced.yaml"),
        *(f"data.shards={shards}", f"run.dir={run}", f"train.epochs={epochs}", f"strategy.precision={precision}"),
    ]
    started = time.perf_counter()
    subprocess.run(command, cwd=ROOT, check=True)
    wall = time.perf_counter() - started
    summary = read_json(run / "summary.json")
    return {"images_per_s": summary["samples_per_s"], "wall_s": wall}


def train_lightly(images: Path, held_out: set[str], weights: Path, epochs: int) -> dict[str, float]:
    started = time.perf_counter()
    command = [sys.executable, __file__, "--lightly", str(weights), "--source", str(images), "--epochs", str(epochs)]
    result = subprocess.run(command, input=json.dumps(sorted(held_out)), text=True, stdout=subprocess.PIPE, check=True)
    return {**json.loads(result.stdout.splitlines()[-1]), "wall_s": time.perf_counter() - started}


def lightly_process(source: Path, weights: Path, epochs: int) -> None:
    """The competitor, in a separate process: lightly's modules, combined as in its documentation."""
    from rspretrain.nn.backbones import timm  # noqa: I001  (first: it makes torchvision importable for lightly)
    from lightly.loss import NTXentLoss
    from lightly.models.modules import SimCLRProjectionHead
    from lightly.transforms import SimCLRTransform
    from torch.utils.data import DataLoader
    from torchvision.datasets import ImageFolder

    held_out = set(json.loads(sys.stdin.read()))
    torch.manual_seed(0)
    data = ImageFolder(str(source), transform=SimCLRTransform(input_size=PX))
    data.samples = [item for item in data.samples if Path(item[0]).stem not in held_out]
    loader = DataLoader(data, BATCH, shuffle=True, drop_last=True, num_workers=2, persistent_workers=True)
    backbone, head = timm.create_model("resnet18", num_classes=0), SimCLRProjectionHead(512, 512, 128)
    criterion = NTXentLoss(temperature=0.1)
    optimizer = torch.optim.AdamW([*backbone.parameters(), *head.parameters()], lr=1e-3, weight_decay=1e-4)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, epochs * len(loader))
    images, started = 0, time.perf_counter()
    for _ in range(epochs):
        for (first, second), _ in loader:
            loss = criterion(head(backbone(first)), head(backbone(second)))
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            schedule.step()
            images += len(first)
    rate = images / (time.perf_counter() - started)
    torch.save(backbone.state_dict(), weights)
    print(json.dumps({"images_per_s": rate}))


def top1(backbone: Backbone, shards: ShardSet) -> float:
    settings = SensorSettings(bands=backbone.bands, normalise="imagenet")
    network_input = NetworkInput([SensorInput("rgb", settings, list(shards.groups.values()))])
    return 100.0 * probe(backbone, network_input, shards, choose_data(shards, "class")).linear.top1


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--source", type=Path, required=True, help="folder that contains UCMerced_LandUse")
    parser.add_argument("--epochs", type=int, default=20)
    parser.add_argument("--lightly", type=Path, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.lightly:
        return lightly_process(args.source, args.lightly, args.epochs)
    os.environ["PATH"] = f"{Path(sys.executable).parent}:{os.environ['PATH']}"
    with tempfile.TemporaryDirectory() as folder:
        compare(args.source, args.epochs, Path(folder))
    return None


def compare(source: Path, epochs: int, folder: Path) -> None:
    build = [sys.executable, "shards/build.py", "ucmerced", "--source", str(source.resolve()), "--out"]
    subprocess.run([*build, str(folder / "shards"), "--workers", "2"], cwd=ROOT, check=True)
    shards = open_shards(folder / "shards")
    held_out = set(shards.keys(shards.split_rows("holdout:test")))
    images = source / "UCMerced_LandUse/Images"
    lightly = train_lightly(images, held_out, folder / "lightly.pt", epochs)
    theirs = create_backbone(BackboneSettings(name="resnet18"), "rgb", ("R", "G", "B"), PX)
    random = top1(reinitialised(theirs, 0), shards)
    theirs.model.load_state_dict(torch.load(folder / "lightly.pt", weights_only=True))
    rows = [{"model": "random", "top1": random}, {"model": "lightly, fp32", "top1": top1(theirs, shards), **lightly}]
    for precision in ("bf16", "fp32"):
        ours = train_ours(shards.path, folder / precision, epochs, precision)
        backbone, _ = load_backbone(folder / precision / "export/rgb")
        rows.append({"model": f"rspretrain, {precision}", "top1": top1(backbone, shards), **ours})
        rows[-1]["rate_over_lightly"] = ours["images_per_s"] / lightly["images_per_s"]
        rows[-1]["wall_over_lightly"] = lightly["wall_s"] / ours["wall_s"]
    write_results("simclr_ucmerced", [{k: _rounded(v) for k, v in row.items()} for row in rows], {"epochs": epochs})


def _rounded(value: object) -> object:
    return round(value, 2) if isinstance(value, float) else value


if __name__ == "__main__":
    main()
