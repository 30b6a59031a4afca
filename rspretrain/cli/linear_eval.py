"""GSC-MIM's linear evaluation: a linear layer on frozen ViT features, trained on 1 % of the images of every class.

    rspretrain linear-eval --backbone runs/gsc_mim_aid/export/rgb --shards data/aid --random-baseline

docs/methods.md, Linear evaluation. Trains on max(1, round(0.01 n)) of the n training images of every class and tests on
the test split (every fifth image if an archive has no splits): top-1 accuracy, mean over five draws. The JSON lists the
keys of the training images. Features are computed once from whole images, without the training crops of eval_linear.py.
GSC-MIM and DINO export the teacher, as the protocol requires; for other runs: rspretrain export --whose teacher.

Exit status: 0 done, 2 backbone and shard set do not match, or one of them cannot be read.
"""

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rspretrain.cli.common import announce, check_files, command_parser, fail
from rspretrain.cli.main import run

if TYPE_CHECKING:
    from rspretrain.evaluation.labels import FinetuneData
    from rspretrain.evaluation.linear_eval import LinearEvaluation
    from rspretrain.nn.backbones import Backbone
    from rspretrain.shardset.index import ShardSet

NAME = "linear-eval"


def main(argv: Sequence[str] | None = None) -> int:
    """Evaluate, print a table, write the numbers."""
    args = parse(argv)
    announce(f"Loading PyTorch and {args.backbone} …")
    from safetensors import SafetensorError

    from rspretrain.shardset.index import CorruptSampleError

    try:
        check_files({"--json": numbers_path(args)})
        evaluate_all(args)
    except (ValueError, OSError, SafetensorError, CorruptSampleError) as error:
        return fail(NAME, error)
    return 0


def numbers_path(args: argparse.Namespace) -> Path:
    """The JSON file to write."""
    path: Path = args.json or args.backbone.parent / "linear_eval.json"
    return path


def parse(argv: Sequence[str] | None = None) -> argparse.Namespace:
    """The command line."""
    parser = command_parser(NAME, __doc__)
    parser.add_argument("--backbone", type=Path, required=True, help="folder of an exported ViT")
    parser.add_argument("--shards", required=True, help="folder or URL of a shard set with one label per image")
    parser.add_argument("--fraction", type=float, default=0.01, help="fraction of the training images of every class")
    parser.add_argument("--draws", type=int, default=5, help="random draws of training images, with seeds 0, 1, …")
    parser.add_argument(
        "--features", choices=("auto", "cls4", "cls_patches"), default="auto",
        help="class tokens of the last four blocks, or class token and mean patch token of the last; auto: by width",
    )  # fmt: skip
    parser.add_argument("--nomenclature", help="label set; default: the one with the fewest classes")
    parser.add_argument("--train-split", help="default: train, or holdout:train where the archive has no splits")
    parser.add_argument("--test-split", help="default: test (or val), or holdout:test where the archive has no splits")
    parser.add_argument(
        "--random-baseline", action="store_true", help="also evaluate the same network with random weights"
    )
    parser.add_argument("--batch-size", type=int, default=128, help="images per batch")
    parser.add_argument("--json", type=Path, help="output file; default: linear_eval.json beside the backbone")
    args = parser.parse_args(argv)
    if args.draws < 1:
        parser.error(f"--draws is {args.draws}, expected 1 at least; the default is 5")
    return args


def evaluate_all(args: argparse.Namespace) -> None:
    """Evaluate and write the results; cheap checks run before any image is read."""
    import torch

    from rspretrain.evaluation.linear_eval import draw_training_sets, evaluate
    from rspretrain.evaluation.probe import network_input_of, reinitialised
    from rspretrain.files import write_json
    from rspretrain.nn.tokens import TokenFeatures, default_features
    from rspretrain.nn.weights import load_backbone
    from rspretrain.shardset.index import open_shards

    shards = open_shards(args.shards)
    labels = {"nomenclature": args.nomenclature, "train_split": args.train_split, "test_split": args.test_split}
    draws = draw_training_sets(shards, args.fraction, range(args.draws), labels)
    backbone, contract = load_backbone(args.backbone)
    network_input = network_input_of(contract, shards)
    kind = default_features(backbone) if args.features == "auto" else args.features
    models: dict[str, Backbone] = {"random": reinitialised(backbone, 0)} if args.random_baseline else {}
    models["pretrained"] = backbone
    networks = {name: TokenFeatures(model, kind) for name, model in models.items()}
    print(header(args, shards, contract, kind, draws))
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    found = {
        name: evaluate(network, network_input, shards, draws, args.batch_size, device)
        for name, network in networks.items()
    }
    print(f"\n{table(found)}\n")
    path = numbers_path(args)
    write_json(path, as_json(args, shards, contract, kind, found))
    print(f"backbone     {args.backbone}")
    print(f"numbers      {path}")


def header(
    args: argparse.Namespace, shards: "ShardSet", contract: dict[str, Any], kind: str, draws: "dict[int, FinetuneData]"
) -> str:
    """The lines above the table: data, labels, backbone and features."""
    data = next(iter(draws.values()))
    network = exported(contract)
    hint = " (the protocol uses the teacher: rspretrain export --whose teacher)" if network == "student" else ""
    return (
        f"{args.shards}: labels {data.nomenclature!r}, {len(data.classes)} classes; trained on {len(data.train):,} "
        f"images, {args.fraction:.3g} of every class, tested on {len(data.test):,}; {len(draws)} draws\n"
        f"{contract['sensor']} backbone, {network or 'one network'}{hint}; features {kind}; all values in percent"
    )


def exported(contract: dict[str, Any]) -> str | None:
    """ "student" or "teacher", as recorded in the export; None if the objective had one network."""
    objective = contract["provenance"].get("objective")
    return objective.get("export") if isinstance(objective, dict) else None


def table(found: "dict[str, LinearEvaluation]") -> str:
    """One line per model: mean, deviation, every draw."""
    lines = [f"{'':<12}{'top-1':>14}   draws"]
    for name, one in found.items():
        mean, std = one.top1
        top1 = f"{100 * mean:.1f}" + ("" if std is None else f" ± {100 * std:.1f}")
        each = "".join(f"{100 * draw.scores.top1:>7.1f}" for draw in one.draws)
        lines.append(f"{name:<12}{top1:>14} {each}")
    return "\n".join(lines)


def as_json(
    args: argparse.Namespace,
    shards: "ShardSet",
    contract: dict[str, Any],
    kind: str,
    found: "dict[str, LinearEvaluation]",
) -> dict[str, Any]:
    """The results with their provenance."""
    from rspretrain.evaluation.linear_eval import EPOCHS, LR, MOMENTUM

    return {
        "shards": str(args.shards),
        "manifest_sha256": shards.manifest_sha256,
        "backbone": str(args.backbone),
        "network": exported(contract),
        "contract": contract,
        "features": kind,
        "fraction": args.fraction,
        "optimizer": {"name": "sgd", "lr": LR, "momentum": MOMENTUM, "weight_decay": 0.0, "epochs": EPOCHS},
        "deviations": "whole images, no random crops or flips in training: features are computed once; full batch",
        "results": {name: one.as_dict() for name, one in found.items()},
    }


if __name__ == "__main__":
    sys.exit(run(NAME))
