"""Measure the features of exported backbones: k-NN and a linear probe on the labels of a shard set.

    rspretrain probe --backbone runs/a/export/s1 runs/a/export/s2 --shards data/ben --random-baseline
    rspretrain probe --backbone runs/a/export/rgb --shards data/ucmerced --train-split holdout:train \\
        --test-split holdout:test --json runs/ucmerced.json

With several labels per sample: average precision and F1 (macro, micro). With one: top-1 accuracy and mean recall. Exit
status: 0 done, 2 backbone and shard set do not match, or one of them cannot be read.
"""

import argparse
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rspretrain.cli.common import announce, check_files, command_parser, fail
from rspretrain.cli.main import run

if TYPE_CHECKING:
    from rspretrain.evaluation.probe import ProbeResult
    from rspretrain.evaluation.splits import ProbeData
    from rspretrain.shardset.index import ShardSet


def parse(argv: Sequence[str] | None = None) -> argparse.Namespace:
    """The command line."""
    parser = command_parser("probe", __doc__)
    parser.add_argument("--backbone", type=Path, nargs="+", required=True, help="folders of exported backbones")
    parser.add_argument("--shards", required=True, help="folder or URL of a labelled shard set")
    parser.add_argument(
        "--nomenclature", help="label set; default: one label per sample before several, then fewest classes"
    )
    parser.add_argument("--train-split", help="default: train, or holdout:train where the archive has no splits")
    parser.add_argument("--test-split", help="default: test (or val), or holdout:test where the archive has no splits")
    parser.add_argument(
        "--random-baseline", action="store_true", help="also probe the same network with random weights"
    )
    parser.add_argument("--seed", type=int, default=0, help="seed of the random baseline")
    parser.add_argument("--batch-size", type=int, default=128, help="images per batch")
    parser.add_argument("--json", type=Path, help="output file; default: probe.json beside the first backbone")
    return parser.parse_args(argv)


def main(argv: Sequence[str] | None = None) -> int:
    """Probe, print a table, write the numbers."""
    args = parse(argv)
    announce(f"Loading PyTorch and {', '.join(map(str, args.backbone))} …")
    from safetensors import SafetensorError

    from rspretrain.shardset.index import CorruptSampleError

    try:
        check_files({"--json": numbers_path(args)})
        probe_all(args)
    except (ValueError, OSError, SafetensorError, CorruptSampleError) as error:
        return fail("probe", error)
    return 0


@dataclass(frozen=True)
class Probed:
    """The results of one backbone."""

    folder: Path
    architecture: str
    contract: dict[str, Any]
    results: "dict[str, ProbeResult]"  # "random", "pretrained"


def numbers_path(args: argparse.Namespace) -> Path:
    """The JSON file to write."""
    path: Path = args.json or args.backbone[0].parent / "probe.json"
    return path


def probe_all(args: argparse.Namespace) -> None:
    """Probe every backbone and write the results; cheap checks of all run before any image is read."""
    import torch

    from rspretrain.evaluation.probe import network_input_of, probe, reinitialised
    from rspretrain.evaluation.splits import choose_data
    from rspretrain.files import write_json
    from rspretrain.nn.weights import load_backbone
    from rspretrain.shardset.index import open_shards

    shards = open_shards(args.shards)
    data = choose_data(shards, args.nomenclature, args.train_split, args.test_split)
    loaded = [(folder, *load_backbone(folder)) for folder in args.backbone]
    inputs = [network_input_of(contract, shards) for _, _, contract in loaded]
    print(header(args, data))
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    started, probed = time.perf_counter(), []
    for (folder, backbone, contract), network_input in zip(loaded, inputs, strict=True):
        models = {"random": reinitialised(backbone, args.seed)} if args.random_baseline else {}
        results = {
            name: probe(model, network_input, shards, data, args.batch_size, device)
            for name, model in (models | {"pretrained": backbone}).items()
        }
        probed.append(Probed(folder, backbone.architecture, contract, results))
    print(f"\n{table(probed)}\n")
    if absent := absent_classes(probed):
        print(f"{absent} of {len(data.classes)} classes have no test sample; each counts as 0 in the macro averages\n")
    path = numbers_path(args)
    write_json(path, as_json(args, shards, probed))
    print(f"{time.perf_counter() - started:.1f} s")
    for each in probed:
        print(f"backbone     {each.folder}")
    print(f"numbers      {path}")


def header(args: argparse.Namespace, data: "ProbeData") -> str:
    """The lines above the table: data, labels and splits."""
    val = f", chosen on {len(data.val):,} (val)" if data.val is not None else ""
    left_out = f"; {data.num_unlabelled:,} samples without a label left out" if data.num_unlabelled else ""
    kind = "several labels per sample" if data.multi else "one label per sample"
    return (
        f"{args.shards}: labels {data.nomenclature!r}, {len(data.classes)} classes, {kind}{left_out}\n"
        f"trained on {len(data.train):,} ({data.train_split}){val}, tested on {len(data.test):,} ({data.test_split}); "
        "all values in percent"
    )


def absent_classes(probed: list[Probed]) -> int:
    """The number of classes without a test sample; only the macro averages of several labels count them."""
    from rspretrain.evaluation.metrics import MultiLabelScores

    scores = next(iter(probed[0].results.values())).linear
    return scores.num_without_positives if isinstance(scores, MultiLabelScores) else 0


def table(probed: list[Probed]) -> str:
    """One line per model."""
    from rspretrain.evaluation.metrics import METRIC_TITLES, summary_metrics

    lines = {
        f"{each.contract['sensor']} {each.architecture}, {name}": result
        for each in probed
        for name, result in each.results.items()
    }
    titles = [METRIC_TITLES[name] for name, _ in summary_metrics(next(iter(lines.values())).linear)]
    width, cell = max(map(len, lines)), max(map(len, titles)) + 2
    kinds = "".join(f"  {kind}".ljust(cell * len(titles)) for kind in ("linear probe", "nearest neighbours"))
    text = [" " * width + kinds.rstrip(), " " * width + "".join(f"{title:>{cell}}" for title in titles) * 2]
    for name, result in lines.items():
        values = [value for scores in (result.linear, result.knn) for _, value in summary_metrics(scores)]
        text.append(name.ljust(width) + "".join(f"{100 * value:>{cell}.1f}" for value in values))
    return "\n".join(text)


def as_json(args: argparse.Namespace, shards: "ShardSet", probed: list[Probed]) -> dict[str, Any]:
    """The results with their provenance."""
    return {
        "shards": str(args.shards),
        "manifest_sha256": shards.manifest_sha256,
        "random_seed": args.seed if args.random_baseline else None,
        "backbones": [
            {
                "folder": str(each.folder),
                "architecture": each.architecture,
                "contract": each.contract,
                "results": {name: result.as_dict() for name, result in each.results.items()},
            }
            for each in probed
        ],
    }


if __name__ == "__main__":
    sys.exit(run("probe"))
