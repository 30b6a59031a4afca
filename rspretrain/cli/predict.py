"""Label the samples of a shard set, or a folder of images, with an exported classifier.

    rspretrain predict --classifier runs/x/export/classifier --shards data/ben --split test --score --out table.csv
    torchrun --nproc-per-node 8 -m rspretrain.cli.predict --classifier … --shards s3://bucket/ben --out table.csv
    rspretrain predict --classifier … --images pictures --out labels.csv                     # whole images, one sensor
    rspretrain predict --classifier … --images s2=scenes/s2 s1=scenes/s1 --window 120 --out map.csv

Writes the CSV (key, probability of every class, labels) and, for georeferenced images, a .geojson of the footprints
beside it. A sensor of the classifier that is not given counts as missing, with a warning.
Exit status: 0 done, 1 done without images that could not be read (named on stderr), 2 nothing written, because inputs
do not match or cannot be read.
"""

import argparse
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rspretrain.cli.common import announce, check_files, command_parser, fail
from rspretrain.cli.main import run

if TYPE_CHECKING:
    from torch import Tensor

    from rspretrain.archives.base import Archive
    from rspretrain.evaluation.predictions import Predictions
    from rspretrain.nn.classifier_files import LabelSpec
    from rspretrain.patch import Fault
    from rspretrain.world import World


def parse(argv: Sequence[str] | None = None) -> argparse.Namespace:
    """The command line."""
    parser = command_parser("predict", __doc__)
    parser.add_argument("--classifier", type=Path, required=True, help="folder of an exported classifier")
    parser.add_argument(
        "--allow",
        nargs="+",
        default=[],
        metavar="PACKAGE.MODULE:CLASS",
        help="classifier classes of other packages that may be loaded",
    )
    source = parser.add_mutually_exclusive_group(required=True)
    source.add_argument("--shards", help="folder or URL of a shard set")
    source.add_argument(
        "--images",
        nargs="+",
        metavar="[SENSOR=]FOLDER",
        help="images of one sensor, or with --window scenes of several",
    )
    parser.add_argument("--out", type=Path, required=True, help="the CSV; the .geojson is written beside it")
    parser.add_argument("--split", help="split of the shard set; default: all samples")
    parser.add_argument("--filter", help="expression on the index's columns (docs/queries.md)")
    parser.add_argument("--score", action="store_true", help="print metrics against the labels of the shard set")
    parser.add_argument("--window", type=int, help="cut scenes into windows of this many pixels of the finest grid")
    parser.add_argument(
        "--option",
        nargs="+",
        default=[],
        metavar="NAME=VALUE",
        help="options of the images, as for `rspretrain build geotiff`",
    )
    parser.add_argument("--batch-size", type=int, default=128, help="images per batch on every rank")
    parser.add_argument("--local_rank", type=int, help=argparse.SUPPRESS)  # the deepspeed launcher passes it
    args = parser.parse_args(argv)
    if args.out.suffix != ".csv":
        parser.error(f"--out is {args.out}, expected a name that ends in .csv")
    if args.batch_size < 1:
        parser.error(f"--batch-size is {args.batch_size}, expected 1 at least")
    for flag in ("split", "filter", "score") if args.images else ("window", "option"):
        if getattr(args, flag):
            parser.error(f"--{flag} is for {'shard sets' if args.images else 'images'} only; remove it")
    return args


def main(argv: Sequence[str] | None = None) -> int:
    """Predict, and write the files."""
    args = parse(argv)
    announce(f"Loading PyTorch and {args.classifier} …")
    from safetensors import SafetensorError

    from rspretrain import world as distributed
    from rspretrain.shardset.index import CorruptSampleError

    world = distributed.start()
    try:
        check_files({"--out": args.out})
        return predict_all(args, world)
    except (ValueError, OSError, SafetensorError, CorruptSampleError) as error:
        return fail("predict", error)
    finally:
        distributed.stop()


def predict_all(args: argparse.Namespace, world: "World") -> int:
    """Predict and write; mismatches are found before any image is read."""
    import torch

    from rspretrain import world as distributed
    from rspretrain.archives.images import open_images
    from rspretrain.evaluation.predict import inputs_for, labels_for, predict, predict_patches, sample_corners
    from rspretrain.evaluation.predictions import Predictions, write_predictions
    from rspretrain.nn.classifier_files import label_spec_of, load_classifier
    from rspretrain.shardset.index import ShardSet, open_shards

    started = time.perf_counter()
    classifier, contract = load_classifier(args.classifier, args.allow)
    label_spec = label_spec_of(contract)
    source: ShardSet | Archive
    faults: list[Fault]
    if args.shards:
        source = open_shards(args.shards)
    else:
        source = open_images(args.images, sensors_of(contract), args.window, args.option)
    where = args.shards or " ".join(args.images)
    groups = list(source.groups.values()) if isinstance(source, ShardSet) else list(source.groups)
    inputs, missing = inputs_for(contract, groups, where)
    if missing and world.is_first:
        print(f"warning: {where} has no {', '.join(missing)}; the classifier treats them as missing", file=sys.stderr)
    args.out.parent.mkdir(parents=True, exist_ok=True)  # an unusable path fails now, not after hours of work
    crop_px = contract["crop_px"]
    settings = {"multi": label_spec.multi, "crop_px": crop_px, "batch_size": args.batch_size, "device": world.device}
    if isinstance(source, ShardSet):
        rows = source.select(args.split, args.filter)
        hot = labels_for(source, label_spec)[torch.from_numpy(rows)] if args.score else None
        probabilities = predict(classifier, inputs, source, rows, **settings)
        found, faults, excluded = Predictions(source.keys(rows), probabilities, sample_corners(source, rows)), [], 0
    else:
        hot, (found, faults, excluded) = None, predict_patches(classifier, inputs, source, **settings)
    for fault in faults:
        print(f"left out: {fault.name}: {fault.reason}", file=sys.stderr)
    if world.is_first:
        omitted = f"; {excluded:,} left out by --option" if excluded else ""
        print(f"{len(found.keys):,} images in {time.perf_counter() - started:.1f} s{omitted}")
        if hot is not None:
            print(scores(found, hot, label_spec))
        for path in write_predictions(args.out, found, label_spec):
            print(f"predictions  {path}")
    # Also waits for all ranks: torchrun kills the others as soon as one has failed, perhaps while the first writes.
    return int(distributed.sum_over_ranks(torch.tensor(len(faults))) > 0)


def sensors_of(contract: dict[str, Any]) -> list[str]:
    """The sensors of a classifier, in the order of its inputs."""
    return list(dict.fromkeys(one["sensor"] for one in contract["inputs"]))


def scores(found: "Predictions", hot: "Tensor", label_spec: "LabelSpec") -> str:
    """Summary metrics of the labelled samples ([N K] bool), in percent."""
    from rspretrain.evaluation.metrics import METRIC_TITLES, compute_scores, summary_metrics

    labelled = hot.any(dim=1)
    if not labelled.any():
        return f"no image has a label of {label_spec.nomenclature!r}, so there are no scores"
    metrics = summary_metrics(compute_scores(found.probabilities[labelled], hot[labelled], label_spec.multi))
    values = ", ".join(f"{METRIC_TITLES[name]} {100 * value:.1f}" for name, value in metrics)
    return f"scores of {int(labelled.sum()):,} labelled images, in percent: {values}"


if __name__ == "__main__":
    sys.exit(run("predict"))
