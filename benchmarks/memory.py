"""Memory and arithmetic of a training step, per sample, for every shipped pretraining configuration but own_*.

    python benchmarks/memory.py

Nothing is timed and no GPU is needed. The objective's forward runs on the CPU, and every tensor that autograd keeps for
the backward is counted once (`torch.autograd.graph.saved_tensors_hooks`). Two batch sizes separate the bytes per
sample from those that do not grow with the batch. Operations are those of matrix products and convolutions, forward and
backward (`training_flops.count`); a multiplication and an addition are two.

`weights_mb` are weights, gradients and Adam's two moments in float32, and the weights of teachers. A device also needs
workspaces, copies of weights in bf16, and the batch itself. The last row repeats a step that `large_batch.py` measured.
"""

import argparse
from pathlib import Path
from typing import Any

import torch
from results import write_results
from torch import Tensor
from training_bench import BANDS
from training_flops import count

from rspretrain import config
from rspretrain.batch import Batch
from rspretrain.objectives import build_objective
from rspretrain.objectives.base import Objective, Progress
from rspretrain.sensors import Group

CONFIGS = Path(__file__).parents[1] / "configs/pretrain"
SMALL, LARGE = 2, 6  # samples of the two forwards
MB = 1e6


def pairs(px: int) -> list[Group]:
    """The groups of BigEarthNet-MM, on a grid of `px` pixels at 10 m."""
    s2 = [
        Group(name, "s2", bands, "uint16", (px // div,) * 2, 10.0 * div, "dn")
        for (name, bands), div in zip(BANDS.items(), (1, 2, 6), strict=True)
    ]
    return [Group("s1_10m", "s1", ("VV", "VH"), "float32", (px, px), 10.0, "db"), *s2]


def groups_of(settings: config.RunSettings) -> list[Group]:
    """Groups with the bands that a configuration reads."""
    if "rgb" in settings.sensors:
        return [Group("rgb", "rgb", ("R", "G", "B"), "uint8", (256, 256), 0.3, "grey")]
    if "B10" in settings.sensors["s2"].bands:  # SEN12MS: all bands at 10 m
        bands = tuple(settings.sensors["s2"].bands)
        return [pairs(256)[0], Group("s2_10m", "s2", bands, "uint16", (256, 256), 10.0, "dn")]
    return pairs(120)


def make_batch(groups: list[Group], samples: int) -> Batch:
    """Random pixels."""
    torch.manual_seed(0)
    images: dict[str, Tensor] = {}
    for group in groups:
        shape = (samples, len(group.bands), *group.shape)  # type: ignore[misc]
        dtype = getattr(torch, group.dtype)
        images[group.name] = (
            torch.randn(shape) * 4 - 12 if group.dtype == "float32" else torch.randint(255, shape).to(dtype)
        )
    return Batch(images, {}, torch.arange(samples), torch.arange(samples).numpy())


def saved_bytes(objective: Objective, batch: Batch, precision: str) -> int:
    """Bytes that autograd keeps from the forward for the backward, without parameters and buffers."""
    own = {tensor.untyped_storage().data_ptr() for tensor in (*objective.parameters(), *objective.buffers())}
    found: dict[int, int] = {}

    def pack(tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in own:
            found[storage.data_ptr()] = storage.nbytes()
        return tensor

    objective.prepare(Progress(10**6, 2 * 10**6, 10**5))
    hooks = torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor)
    with hooks, torch.autocast("cpu", torch.bfloat16, enabled=precision == "bf16"):
        loss = objective(batch).loss
    assert loss.requires_grad  # the graph is alive, so no address was used twice
    return sum(found.values())


def measure(name: str, settings: config.RunSettings, groups: list[Group], precision: str) -> dict[str, Any]:
    """The row of one configuration."""
    torch.manual_seed(0)
    objective = build_objective(settings.objective, settings.sensors, settings.backbone, groups)
    small, large = (saved_bytes(objective, make_batch(groups, samples), precision) for samples in (SMALL, LARGE))
    per_sample = (large - small) / (LARGE - SMALL)
    trained = sum(p.numel() for p in objective.parameters() if p.requires_grad)
    frozen = sum(p.numel() for p in objective.parameters()) - trained
    batch = make_batch(groups, SMALL)
    operations = count(lambda: objective(batch).loss.backward()) / SMALL
    raw = sum(image[0].numel() * image.element_size() for image in batch.images.values())
    return {
        "config": name,
        "objective": settings.objective.name,
        "backbone": settings.backbone.name,
        "precision": precision,
        "params_m": round(trained / 1e6, 2),
        "teacher_params_m": round(frozen / 1e6, 2),
        "weights_mb": round((16 * trained + 4 * frozen) / MB),
        "activations_mb_per_sample": round(per_sample / MB, 2),
        "gflop_per_sample": round(operations / 1e9, 1),
        "pixels_bytes_per_sample": raw,
        "global_batch": settings.train.global_batch,
    }


def like_large_batch() -> tuple[config.RunSettings, list[Group]]:
    """The step of large_batch.py."""
    s2 = ("B02", "B03", "B04", "B08")
    tree = {
        "run": {"dir": "unused"},
        "data": {"shards": "unused"},
        "sensors": {"s1": {"bands": ["VV", "VH"]}, "s2": {"bands": s2}},
        "backbone": {"name": "vit_sct", "args": {"patch_size": 6}},
        "objective": {"name": "dual_simclr", "crop_px": 24, "px": 24},
        "train": {"global_batch": 512, "steps": 1},
    }
    grids = [
        Group("s1_10m", "s1", ("VV", "VH"), "float32", (24, 24), 10.0, "db"),
        Group("s2_10m", "s2", s2, "uint16", (24, 24), 10.0, "dn"),
    ]
    return config.parse(tree), grids


def main() -> None:
    """All configurations, or those named."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", nargs="*", help="names of configurations")
    args = parser.parse_args()
    rows = []
    for path in sorted(CONFIGS.glob("*.yaml")):
        if path.stem.startswith("own_") or (args.only and path.stem not in args.only):
            continue
        settings = config.load(path, ["run.dir=unused"])
        precision = "fp32" if settings.strategy.precision == "fp32" else "bf16"  # auto: as on a GPU
        rows.append(measure(path.stem, settings, groups_of(settings), precision))
        print(rows[-1], flush=True)
    if not args.only:
        rows.append(measure("large_batch.py", *like_large_batch(), "fp32"))
        write_results("memory", rows, {"samples": [SMALL, LARGE]})


if __name__ == "__main__":
    main()
