"""Merge the parts of a build, made on several nodes, to the shard set that a single node would have built."""

import hashlib
import shutil
from collections.abc import Callable, Sequence
from pathlib import Path

from rspretrain.files import atomic
from rspretrain.shardset.building.assemble import BuildReport, assemble
from rspretrain.shardset.building.plan import Plan, differences, load_plan
from rspretrain.shardset.building.receipt import Receipt, read_receipt, receipt_path, write_receipt
from rspretrain.shardset.building.workdir import finished_report, lock_build, read_listing_faults, remove_workdir
from rspretrain.shardset.manifest import BUILD_FOLDER, ShardEntry


def merge_parts(
    parts: Sequence[Path], out: Path, progress: Callable[[int, int], None] = lambda done, total: None
) -> BuildReport:
    """Merge parts into `out`, a new folder or one of the parts. Shards are linked, or copied and verified; parts stay.

    ValueError if parts have different plans, shards are missing, or two parts have different bytes of one shard.
    """
    plan = _common_plan(parts)
    if (report := finished_report(out, plan)) is not None:
        return report
    faults = read_listing_faults(parts[0])
    found = _find_shards(parts, plan)
    with lock_build(out, plan, faults, exclusive=True):
        for number, (folder, receipt) in enumerate(found):
            if folder.resolve() != out.resolve():
                _link_or_copy(receipt.entry, folder, out)
                write_receipt(out, receipt)
            progress(number + 1, len(found))
        report = assemble(plan, [receipt for _, receipt in found], faults, out)
        remove_workdir(out)
    return report


def _common_plan(parts: Sequence[Path]) -> Plan:
    plans: list[Plan] = []
    for folder in parts:
        plan = load_plan(folder)
        if plan is None:
            raise ValueError(
                f"{folder} is not a part of a build: it has no {BUILD_FOLDER}/plan.json. Expected a folder that "
                "`rspretrain build --part i/n` has written; check the path."
            )
        if plans and plan != plans[0]:
            raise ValueError(
                f"{parts[0]} and {folder} are parts of different builds; they differ in {differences(plans[0], plan)}. "
                "Build all parts from the same archive, with the same options."
            )
        plans.append(plan)
    return plans[0]


def _find_shards(parts: Sequence[Path], plan: Plan) -> list[tuple[Path, Receipt]]:
    """The folder and the receipt of each shard, in order."""
    groups = plan.sensor_groups()
    found: list[tuple[Path, Receipt]] = []
    missing = []
    for name in map(plan.shard_name, range(plan.num_shards)):
        held = [(folder, receipt) for folder in parts if (receipt := read_receipt(folder, name, groups)) is not None]
        if not held:
            missing.append(name)
            continue
        for folder, receipt in held[1:]:
            if receipt.entry != held[0][1].entry:
                raise ValueError(
                    f"{name} differs between {held[0][0]} and {folder}: their archives differ. Compare the archive "
                    "on both nodes, and build the wrong part again."
                )
        found.append(held[0])
    if missing:
        raise ValueError(
            f"{len(missing)} of {plan.num_shards} shards are in none of the parts, the first is {missing[0]}. Build "
            "the missing parts, or finish them with the command that started them; then merge again."
        )
    return found


def _link_or_copy(entry: ShardEntry, folder: Path, out: Path) -> None:
    """Link a shard into `out`, or copy and verify it if the part is on another file system."""
    source, target = folder / entry.name, out / entry.name
    if target.is_file() and receipt_path(out, entry.name).is_file():
        return
    target.unlink(missing_ok=True)
    try:
        target.hardlink_to(source)
        return
    except OSError:
        pass
    with atomic(target, temporary=out / BUILD_FOLDER / f"{entry.name}.tmp") as file, source.open("rb") as origin:
        shutil.copyfileobj(origin, file, 1 << 22)
        file.flush()
        with open(file.name, "rb") as copy:
            if hashlib.file_digest(copy, "sha256").hexdigest() != entry.sha256:
                raise ValueError(
                    f"{source} does not have the SHA-256 of its receipt: it was damaged after the build. Remove it "
                    "and finish the part again."
                )
