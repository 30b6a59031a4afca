"""The folder of an unfinished build: who works in it, under which plan, and what a killed process has left.

out/memory-000000.tar …          whole shards only
out/.build/plan.json             the plan; every process that works here has the same
out/.build/listing.json          what the archive's listing had to leave out
out/.build/<shard>.receipt       one for every finished shard
out/.build/<shard>.<pid>.tmp     a shard that is being written
out/.build/lock                  held by builders, exclusively by whoever assembles
"""

import contextlib
import fcntl
import json
import shutil
from collections.abc import Iterator
from pathlib import Path

from rspretrain.files import write_json
from rspretrain.patch import Exclusion, Fault
from rspretrain.shardset.building.assemble import REPORT_NAME, BuildReport, NothingWrittenError
from rspretrain.shardset.building.plan import Plan, differences, load_plan, store_plan
from rspretrain.shardset.manifest import BUILD_FOLDER, MANIFEST_NAME, load_manifest

LISTING_NAME = "listing.json"


@contextlib.contextmanager
def claim(out: Path, plan: Plan, faults: list[Fault], *, exclusive: bool) -> Iterator[None]:
    """Work in `out` under `plan`, alone if `exclusive`. The claim ends with the process, however it ends.

    ValueError where `out` holds something that is no build under this plan, or another process is at work there.
    """
    site = out / BUILD_FOLDER
    if not site.is_dir():
        _expect_empty(out)
        site.mkdir(parents=True, exist_ok=True)
    with (site / "lock").open("w") as lock:
        try:
            fcntl.flock(lock, (fcntl.LOCK_EX if exclusive else fcntl.LOCK_SH) | fcntl.LOCK_NB)
        except BlockingIOError:
            raise ValueError(
                f"Another process builds in {out} at this moment. Wait for it, or choose another --out."
            ) from None
        _settle(out, plan, faults)
        if exclusive:
            for leftover in site.glob("*.tmp"):
                leftover.unlink()
        try:
            yield
        except NothingWrittenError:  # a wrong folder, most likely: the next command will have another plan
            leave(out)
            raise


def _settle(out: Path, plan: Plan, faults: list[Fault]) -> None:
    found = load_plan(out)
    if found is None:
        kinds: dict[str, list[dict[str, str]]] = {kind.__name__: [] for kind in (Fault, Exclusion)}
        for fault in faults:
            kinds[type(fault).__name__].append(vars(fault))
        write_json(out / BUILD_FOLDER / LISTING_NAME, kinds, indent=None)
        store_plan(out, plan)
    elif found != plan:
        raise ValueError(
            f"{out} holds an unfinished build with another plan; what differs (there / now): "
            f"{differences(found, plan)}. Start the command that began it, or build into a new folder, or remove "
            "this one."
        )


def _expect_empty(out: Path) -> None:
    if out.exists() and any(path.name != REPORT_NAME for path in out.iterdir()):
        raise ValueError(
            f"{out} is not empty: it holds {sorted(p.name for p in out.iterdir())[:3]}. A shard set is built into a "
            "new or empty folder; choose another --out, or remove this one."
        )


def finished_report(out: Path, plan: Plan) -> BuildReport | None:
    """The report of a finished set that was built by this very plan; None where there is no finished set.

    ValueError where the finished set was built by another plan.
    """
    if not (out / MANIFEST_NAME).is_file():
        return None
    manifest, _ = load_manifest(out)
    if manifest.plan_sha256 != plan.sha256:
        raise ValueError(
            f"{out} is a finished shard set of another archive, another listing or other settings. A shard set is "
            "built into a new or empty folder; choose another --out, or remove this one."
        )
    leave(out)
    report = json.loads((out / REPORT_NAME).read_bytes())
    return BuildReport(
        out,
        report["found"],
        report["written"],
        [Fault(**fault) for fault in report["faults"]],
        [Fault(**fault) for fault in report["exclusions"]],
        len(manifest.shards),
        sum(entry.bytes for entry in manifest.shards),
    )


def read_listing_faults(out: Path) -> list[Fault]:
    """What the archive's listing had to leave out, as the first builder in `out` noted it."""
    content = json.loads((out / BUILD_FOLDER / LISTING_NAME).read_bytes())
    return [kind(**fault) for kind in (Fault, Exclusion) for fault in content[kind.__name__]]


def leave(out: Path) -> None:
    """The build is finished: its traces go."""
    shutil.rmtree(out / BUILD_FOLDER, ignore_errors=True)
