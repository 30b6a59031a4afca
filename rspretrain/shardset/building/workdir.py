"""The folder of an unfinished build: its lock, its plan, and leftovers of killed processes.

out/memory-000000.tar …          finished shards
out/.build/plan.json             the plan, the same for all processes of the build
out/.build/listing.json          faults found while listing the archive
out/.build/<shard>.receipt       one per finished shard
out/.build/<shard>.<pid>.tmp     a shard that is being written
out/.build/lock                  locked by all builders, exclusively by the process that finishes the set
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
def lock_build(out: Path, plan: Plan, faults: list[Fault], *, exclusive: bool) -> Iterator[None]:
    """Lock `out` for a build under `plan`, for this process alone if `exclusive`. The kernel frees the lock at exit.

    ValueError if `out` holds anything but a build under this plan, or another process builds there.
    """
    workdir = out / BUILD_FOLDER
    if not workdir.is_dir():
        _expect_empty(out)
        workdir.mkdir(parents=True, exist_ok=True)
    with (workdir / "lock").open("w") as lock:
        try:
            fcntl.flock(lock, (fcntl.LOCK_EX if exclusive else fcntl.LOCK_SH) | fcntl.LOCK_NB)
        except BlockingIOError:
            raise ValueError(
                f"Another process is building in {out}, expected none. Wait for it, or choose another --out."
            ) from None
        _check_or_store_plan(out, plan, faults)
        if exclusive:
            for leftover in workdir.glob("*.tmp"):
                leftover.unlink()
        try:
            yield
        except NothingWrittenError:  # probably a wrong source folder: the next command will have another plan
            remove_workdir(out)
            raise


def _check_or_store_plan(out: Path, plan: Plan, faults: list[Fault]) -> None:
    found = load_plan(out)
    if found is None:
        kinds: dict[str, list[dict[str, str]]] = {kind.__name__: [] for kind in (Fault, Exclusion)}
        for fault in faults:
            kinds[type(fault).__name__].append(vars(fault))
        write_json(out / BUILD_FOLDER / LISTING_NAME, kinds, indent=None)
        store_plan(out, plan)
    elif found != plan:
        raise ValueError(
            f"{out} holds an unfinished build with another plan; differences (there / now): "
            f"{differences(found, plan)}. Start the command that began it, build into a new folder, or remove this "
            "one."
        )


def _expect_empty(out: Path) -> None:
    if out.exists() and any(path.name != REPORT_NAME for path in out.iterdir()):
        raise ValueError(
            f"{out} is not empty: it holds {sorted(p.name for p in out.iterdir())[:3]}. A shard set is built into a "
            "new or empty folder; choose another --out, or remove this one."
        )


def finished_report(out: Path, plan: Plan) -> BuildReport | None:
    """The report of a finished set with the same plan; None if there is no finished set.

    ValueError if the finished set has another plan.
    """
    if not (out / MANIFEST_NAME).is_file():
        return None
    manifest, _ = load_manifest(out)
    if manifest.plan_sha256 != plan.sha256:
        raise ValueError(
            f"{out} is a finished shard set of another archive, other entries or other settings. A shard set is "
            "built into a new or empty folder; choose another --out, or remove this one."
        )
    remove_workdir(out)
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
    """The faults found while listing the archive, as stored by the first process of the build."""
    content = json.loads((out / BUILD_FOLDER / LISTING_NAME).read_bytes())
    return [kind(**fault) for kind in (Fault, Exclusion) for fault in content[kind.__name__]]


def remove_workdir(out: Path) -> None:
    """Remove the working files of a finished build."""
    shutil.rmtree(out / BUILD_FOLDER, ignore_errors=True)
