"""Cost of a training step, compared with its networks alone, with lightly, and with the peak of the device.

    python benchmarks/training.py                              # nine rows on a CPU thread, and lightly's modules
    python benchmarks/training.py --only byol --batch 8
    python benchmarks/training.py --suite gpu --precision bf16 --compile    # ViT-S/16, B/16, L/16 and ResNet-50
    python benchmarks/training.py --device cuda --backbone vit_large_patch16_224 --px 224 --batch 128 --only simclr \\
        --precision bf16 --compile

A row is one objective as the product trains it: its job, strategy and metric logger (training_bench.py) on shards of
random pixels. Rounds alternate between a whole step and the same network calls on prepared tensors, forward and
backward (training_networks.py). Ratios are taken within a round; values are medians.

`overhead_pct` is the time of the step without networks and optimizer, relative to the networks; the parts are
percentages of the step. `overhead_by_parts_pct` is the sum of the separately timed parts, without the backward of the
loss. It is robust when other jobs disturb the difference of two long times. Health metrics and logging happen every
tenth step (watch.every); their cost is spread over all steps. MFU uses counted operations (training_flops.py) and the
whole step. training_competitors.py has lightly's step. docs/training.md lists the parts that have not run on a GPU.
"""

import argparse
import gc
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from statistics import median

from rspretrain.allocator import keep_large_tensors

if __name__ == "__main__":
    keep_large_tensors()  # as `rspretrain pretrain` does; it applies to lightly, too

import torch
from results import FOLDER, write_results
from training_bench import CASES, PARTS, Case, Parts, Run, Setting, build, make_job
from training_competitors import COMPETITORS, VIEWS, make_comparison, time_both
from training_flops import count, formula, peak
from training_networks import Networks

from rspretrain.batch import Batch
from rspretrain.observe.sinks import WatchSettings

EVERY = WatchSettings().every
COUNTED = 2  # operations are counted for this many samples and scaled to the batch
GPU_SUITE = {"vit_small_patch16_224": 512, "vit_base_patch16_224": 256, "vit_large_patch16_224": 128, "resnet50": 512}


def clock(run: Callable[[], object], setting: Setting) -> float:
    setting.wait()
    started = setting.now()
    run()
    setting.wait()
    return setting.now() - started


def measure(case: Case, setting: Setting, shards: Path, folder: Path, rounds: int) -> dict[str, object]:
    """One row."""
    job = make_job(case, setting, shards, folder)
    objective = job.objective.to(setting.device).train()
    batches = job.loader.batches(0)
    few = next(batches).to(setting.device).split(setting.batch // COUNTED)[0]
    batches.close()  # type: ignore[attr-defined]
    objective.prepare(job.progress(2 * job.loader.steps_per_epoch))
    networks = Networks(objective, few, setting.autocast)
    flops = round(count(networks.run) * setting.batch / len(few))
    networks.clear()
    run = Run(job, setting)
    try:
        timed = time_rounds(run, rounds)
    finally:
        run.close()
        gc.collect()  # the patched methods form cycles that hold GPU memory
    by_formula = formula(objective, setting.batch)
    backbone = setting.cnn if case.cnn else setting.backbone
    return {
        "objective": case.name, "backbone": backbone, "px": setting.px, "batch": setting.batch,
        "params_m": round(sum(p.numel() for p in objective.parameters() if p.requires_grad) / 1e6, 2),
        **timed,
        "gflop_per_step": round(flops / 1e9, 2),
        "formula_over_count": round(by_formula / flops, 6) if by_formula else "",
    }  # fmt: skip


def time_rounds(run: Run, rounds: int) -> dict[str, object]:
    """Medians over rounds of the times of step, networks and parts, and of their ratios within rounds."""
    setting, parts = run.setting, Parts(run)
    batch = next(run.batches)
    networks = Networks(run.job.objective, batch, setting.autocast)
    steps, bare, overheads, by_parts = (list[float]() for _ in range(4))
    shares: dict[str, list[float]] = {part: [] for part in PARTS}
    for number in range(rounds + 1):
        bare.append(clock(networks.run, setting))
        networks.clear()
        with parts.watched():
            clocked = clock(lambda: run.take(batch), setting)
        # Timing the parts costs nothing on a CPU; on a GPU it adds synchronisation.
        steps.append(clocked if setting.device.type == "cpu" else clock(lambda: run.take(batch), setting))
        overheads.append(100 * ((steps[-1] - parts.seconds["optimizer"]) / bare[-1] - 1))
        for part, seconds in parts.seconds.items() if number else ():
            shares[part].append(100 * seconds / clocked)
        by_parts.append(100 * (sum(parts.seconds.values()) - parts.seconds["optimizer"]) / bare[-1])
    step_s, networks_s, watching = median(steps[1:]), median(bare[1:]), time_watching(run, batch)
    as_it_runs = run.as_it_runs(max(2, rounds // 2))
    written = sum(watching.values()) / EVERY  # seconds per step
    return {
        "step_s": round(step_s, 4), "networks_s": round(networks_s, 4),
        "overhead_pct": round(median(overheads[1:]) + 100 * written / networks_s, 1),
        "overhead_by_parts_pct": round(median(by_parts[1:]) + 100 * written / networks_s, 1),
        **{f"{part}_pct": round(median(values), 2) for part, values in shares.items() if part not in watching},
        **{f"{part}_ms": round(1e3 * seconds, 1) for part, seconds in watching.items()},
        "watching_pct": round(100 * written / step_s, 2),
        "samples_per_s": round(setting.batch / as_it_runs["step_s"], 1),
        "data_wait_pct": round(100 * as_it_runs["data_wait_share"], 2),
    }  # fmt: skip


def time_watching(run: Run, batch: Batch) -> dict[str, float]:
    """Extra seconds of a logged step, for health metrics and for the line of metrics."""
    parts, found = Parts(run), dict[str, float]()
    for _ in range(2):  # the first warms up
        with parts.watched():
            report = run.take(batch, watched=True)
        found = {"health": parts.seconds["health"], "line": clock(lambda: run.line(batch, report), run.setting)}  # noqa: B023
    return found


def compare(method: str, views: str, setting: Setting, shards: Path, folder: Path, rounds: int) -> dict[str, object]:
    """A row for lightly. With the same views its losses equal ours; with its own views they differ."""
    comparison, run = make_comparison(method, setting, shards, folder, views)
    try:
        found = time_both(comparison, rounds, setting.now)
    finally:
        run.close()
    ratios = [theirs / ours for ours, theirs in zip(found["ours"], found["lightly"], strict=True)]
    row = {
        "objective": method, "backbone": setting.backbone, "px": setting.px, "batch": setting.batch, "rival": views,
        "step_s": round(median(found["ours"]), 4), "lightly_s": round(median(found["lightly"]), 4),
        "lightly_over_ours": round(median(ratios), 3),
    }  # fmt: skip
    if views == VIEWS[0]:
        row |= {"first_loss": round(found["loss_ours"], 6), "lightly_first_loss": round(found["loss_lightly"], 6)}
    return row


def show(row: dict[str, object]) -> None:
    print("  ".join(f"{name} {value}" for name, value in row.items() if value != ""), flush=True)


def settings_of(args: argparse.Namespace) -> list[Setting]:
    """One setting per backbone: the given one, or those of the suite."""
    device = torch.device("cuda", 0) if args.device == "cuda" or args.suite == "gpu" else torch.device(args.device)
    if args.clock == "cpu" and (device.type != "cpu" or args.threads > 1):
        raise ValueError(
            f"--clock: got cpu on {device} with --threads {args.threads}, expected one thread on a CPU, whose time "
            "this clock measures. Set --clock wall."
        )
    network = {"backbone": args.backbone, "cnn": args.cnn, "px": args.px, "batch": args.batch}
    one = Setting(device, args.precision, args.compile, **network, threads=args.loader, clock=args.clock)
    if args.suite == "cpu":
        return [one]
    gpu = replace(one, px=224)
    return [replace(gpu, backbone=name, cnn=name, batch=batch) for name, batch in GPU_SUITE.items()]


def chosen(args: argparse.Namespace) -> list[Case]:
    default = ["simclr"] if args.suite == "gpu" else list(CASES)
    names = default if args.only is None else args.only
    unknown = [name for name in names if name not in CASES]
    if unknown:
        raise ValueError(f"--only: got {unknown}, expected some of {list(CASES)}. Choose from these.")
    return [CASES[name] for name in names]


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--suite", choices=["cpu", "gpu"], default="cpu", help="gpu: four backbones at 224 px, simclr")
    parser.add_argument("--only", nargs="*", default=None, metavar="OBJECTIVE", help=", ".join(CASES))
    parser.add_argument(
        "--rivals",
        nargs="*",
        default=None,
        metavar="METHOD",
        help="compare with lightly: simclr, byol; empty: no comparison",
    )
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--precision", choices=["fp32", "bf16"], default="fp32")
    parser.add_argument("--compile", action="store_true", help="torch.compile for every block")
    parser.add_argument("--backbone", default=Setting.backbone)
    parser.add_argument("--cnn", default=Setting.cnn, help="backbone of mma, which needs feature maps")
    parser.add_argument("--px", type=int, default=Setting.px)
    parser.add_argument("--batch", type=int, default=Setting.batch)
    parser.add_argument("--loader", type=int, default=Setting.threads, help="threads of the loader")
    parser.add_argument("--threads", type=int, default=1, help="threads of torch on a CPU")
    parser.add_argument("--clock", choices=["wall", "cpu"], default="wall", help="cpu: thread time, for busy machines")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--peak-tflops", type=float, help="peak of the device, if the table lacks it")
    parser.add_argument("--out", type=Path, default=FOLDER, help="folder of the results")
    parser.add_argument("--name", default=None, help="name of the results; default: training, or training_gpu")
    args = parser.parse_args(arguments)
    torch.set_num_threads(args.threads)
    rows = measure_all(args)
    settings = {
        name: str(value) if isinstance(value, Path) else value for name, value in vars(args).items() if name != "out"
    }
    name = args.name or ("training_gpu" if args.suite == "gpu" else "training")
    write_results(name, rows, settings, args.out)


def measure_all(args: argparse.Namespace) -> list[dict[str, object]]:
    rows: list[dict[str, object]] = []
    settings = settings_of(args)
    one = settings[0]
    rate = peak(one.device, args.precision, args.peak_tflops, one.now)
    rivals = args.rivals if args.rivals is not None else list(COMPETITORS) if args.device == "cpu" else []
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        shards = build(folder, max(2 * max(setting.batch for setting in settings), 64))
        for setting in settings:
            for case in chosen(args):
                rows.append(measure(case, setting, shards, folder / f"run{len(rows)}", args.rounds))
                show(rows[-1])
        for method in rivals if args.suite == "cpu" else []:
            for views in VIEWS:
                rows.append(compare(method, views, one, shards, folder / f"run{len(rows)}", args.rounds))
                show(rows[-1])
    # Other jobs may have disturbed the first measurement.
    rate = max(rate, peak(one.device, args.precision, args.peak_tflops, one.now))
    return [row | utilisation(row, rate) for row in rows]


def utilisation(row: dict[str, object], rate: float) -> dict[str, object]:
    """MFU of a row with counted operations, and the peak rate."""
    if "gflop_per_step" not in row:
        return {}
    mfu = 1e9 * float(row["gflop_per_step"]) / float(row["step_s"]) / rate
    return {"mfu_pct": round(100 * mfu, 1), "peak_tflops": round(rate / 1e12, 4)}


if __name__ == "__main__":
    main()
