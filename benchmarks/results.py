"""Write benchmark results with their settings, machine and date. All benchmarks use it.

    write_results("loading", [{"reader": "ours", "pairs_per_s": 31000.0}, …], {"pairs": 2000})

writes benchmarks/results/loading.csv (the rows) and loading.json (rows, settings and machine).
"""

import csv
import json
import os
import platform
from collections.abc import Sequence
from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from rspretrain.files import write_json

FOLDER = Path(__file__).parent / "results"
PACKAGES = (
    "rspretrain", "torch", "numpy", "deepspeed", "webdataset", "rasterio", "timm", "lightly", "numcodecs", "xxhash",
    "lmdb", "safetensors", "litdata", "mosaicml-streaming",
)  # fmt: skip


def _cpu_model() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.processor() or platform.machine()
    names = [line.partition(":")[2].strip() for line in lines if line.startswith(("model name", "Model"))]
    return names[0] if names else platform.machine()


def _version(package: str) -> str | None:
    try:
        return version(package)
    except PackageNotFoundError:
        return None


def _accelerator() -> str | None:
    """Number and name of GPUs; None without a GPU or without torch."""
    try:
        import torch
    except ImportError:
        return None
    if not torch.cuda.is_available():
        return None
    return f"{torch.cuda.device_count()} x {torch.cuda.get_device_name(0)}"


def describe_machine() -> dict[str, Any]:
    """CPU, usable cores, memory, system and versions; no host name."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    return {
        "cpu": _cpu_model(),
        "cores": cores,
        "memory_gib": round(memory / 2**30, 1),
        "accelerator": _accelerator(),
        "system": f"{platform.system()} {platform.release().split('-')[0]} {platform.machine()}",
        "python": platform.python_version(),
        "packages": {name: found for name in PACKAGES if (found := _version(name))},
        "load_average": round(os.getloadavg()[0], 2),
        "date": datetime.now(UTC).strftime("%Y-%m-%d %H:%M UTC"),
    }


def write_results(
    name: str, rows: Sequence[dict[str, Any]], settings: dict[str, Any], folder: Path = FOLDER
) -> tuple[Path, Path]:
    """Write <name>.csv and <name>.json; returns both paths. Rows may have different columns."""
    if not rows:
        raise ValueError(f"Benchmark {name!r} got no rows, expected at least one. Check its selection of runs.")
    folder.mkdir(parents=True, exist_ok=True)
    table, full = folder / f"{name}.csv", folder / f"{name}.json"
    with table.open("w", newline="") as file:
        writer = csv.DictWriter(
            file, list(dict.fromkeys(column for row in rows for column in row)), lineterminator="\n"
        )
        writer.writeheader()
        writer.writerows(rows)
    content = {"benchmark": name, "settings": settings, "machine": describe_machine(), "rows": list(rows)}
    write_json(full, json.loads(json.dumps(content, default=str)), indent=1)  # paths become text
    print(f"\n{table.read_text()}\n{table}, {full}")
    return table, full
