"""Parse a shard without its index: its records, their index rows, and all faults.

The result can be compared with an index, or turned into one. Damage is reported and skipped: parsing continues at the
next intact tar header.
"""

import functools
import itertools
import tarfile
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field

import xxhash
from pydantic import ValidationError

from rspretrain.archives.base import Nomenclature
from rspretrain.patch import Fault, PatchError
from rspretrain.sensors import Group
from rspretrain.shardset.manifest import Span
from rspretrain.shardset.record import (
    BLOCK,
    END_OF_TAR,
    NAME_LIMIT,
    Metadata,
    Record,
    check_image,
    decode_array,
    member_suffix,
    padded,
    tar_header,
)
from rspretrain.shardset.rows import Row, index_row


@dataclass(frozen=True)
class Contents:
    """The expected content of the records of a shard set."""

    groups: Sequence[Group]
    nomenclatures: Mapping[str, Nomenclature]
    codec: str

    @functools.cached_property
    def member_of(self) -> dict[str, str]:
        """Member suffix -> name: `s2_10m.npy` -> `s2_10m`."""
        names = [*(group.name for group in self.groups), "cls", "json"]
        return {member_suffix(name, self.codec): name for name in names}


@dataclass
class Scan:
    """The result of parsing one shard."""

    rows: list[Row] = field(default_factory=list)  # of complete records
    faults: list[Fault] = field(default_factory=list)  # named shard:key.member
    keys: dict[str, bool] = field(default_factory=dict)  # key -> whether all its members were found


@dataclass(frozen=True)
class _Member:
    key: str
    suffix: str
    header: int  # position of its tar header in bytes from the start of the shard
    size: int  # of its payload, which follows the header

    @property
    def payload(self) -> slice:
        start = self.header + BLOCK
        return slice(start, start + self.size)

    @property
    def end(self) -> int:
        return self.header + BLOCK + padded(self.size)


def scan_shard(data: memoryview, name: str, number: int, contents: Contents) -> Scan:
    """Parse the bytes of the shard `name`, number `number` of the set."""
    scan = Scan()
    members = list(_members(data, name, scan.faults))
    for key, run in itertools.groupby(members, key=lambda member: member.key):
        parts = list(run)
        missing = _check_members(parts, name, contents, scan.faults)
        if key in scan.keys:
            complete = not missing and scan.keys[key]
            reason = "occurs twice" if complete else "is not contiguous: its members are separated by other members"
            scan.faults.append(Fault(f"{name}:{key}", reason))
            continue
        scan.keys[key] = not missing
        if not missing:
            _add_row(data, parts, name, number, contents, scan)
    return scan


def _members(data: memoryview, name: str, faults: list[Fault]) -> Iterator[_Member]:
    """All members with an intact header, in order; anything else between them is a fault."""
    position, damaged = 0, False
    while position + BLOCK <= len(data):
        block = bytes(data[position : position + BLOCK])
        try:
            name_in_tar, size = _read_header(block)
        except tarfile.HeaderError as error:
            if not any(block) and len(data) - position <= len(END_OF_TAR) and not any(data[position:]):
                if len(data) - position < len(END_OF_TAR):
                    faults.append(Fault(name, "is truncated: a part of the end-of-tar marker is missing"))
                return
            if not damaged:
                faults.append(_damaged_header(block, position, name, str(error)))
            damaged, position = True, position + BLOCK
            continue
        damaged = False
        key, _, suffix = name_in_tar.partition(".")
        member = _Member(key, suffix, position, size)
        if member.payload.stop > len(data):
            available = max(len(data) - member.payload.start, 0)
            faults.append(Fault(f"{name}:{name_in_tar}", f"is truncated after {available} of {size} bytes"))
            return
        yield member
        position = member.end
    faults.append(Fault(name, "has no end-of-tar marker"))


def _read_header(block: bytes) -> tuple[str, int]:
    """Name and size of a member. tarfile.HeaderError if the header is damaged."""
    try:
        name, size = block[:NAME_LIMIT].rstrip(b"\0").decode("ascii"), int(block[124:135], 8)
        if tar_header(name, size) == block:  # ten times faster than tarfile
            return name, size
    except (ValueError, OverflowError):
        pass
    info = tarfile.TarInfo.frombuf(block, "utf-8", "backslashreplace")
    return info.name, info.size


def _damaged_header(block: bytes, position: int, name: str, why: str) -> Fault:
    if not any(block):
        return Fault(name, f"has zeros instead of a tar header at byte {position}; tar readers stop there")
    text = block[:100].split(b"\0")[0].decode("ascii", "replace")
    return Fault(f"{name}:{text}", f"has a damaged tar header at byte {position} ({why})")


def _check_members(parts: list[_Member], name: str, contents: Contents, faults: list[Fault]) -> bool:
    """Report missing, unknown and repeated members of a record. Returns whether any is missing."""
    found = [part.suffix for part in parts]
    wanted = [member_suffix(group.name, contents.codec) for group in contents.groups] + ["json"]
    missing = [suffix for suffix in wanted if suffix not in found]
    key = parts[0].key
    faults += [Fault(f"{name}:{key}.{suffix}", "is missing") for suffix in missing]
    for suffix in found:
        if suffix not in contents.member_of:
            faults.append(Fault(f"{name}:{key}.{suffix}", "is a member that is not in the manifest"))
        elif found.count(suffix) > 1:
            faults.append(Fault(f"{name}:{key}.{suffix}", "occurs twice"))
    return bool(missing)


def _add_row(data: memoryview, parts: list[_Member], name: str, number: int, contents: Contents, scan: Scan) -> None:
    key = parts[0].key
    member_of = contents.member_of
    payloads = {member_of.get(part.suffix): data[part.payload] for part in parts}
    try:
        metadata = Metadata.model_validate_json(bytes(payloads["json"]))
    except ValidationError:
        scan.faults.append(Fault(f"{name}:{key}.json", "cannot be parsed"))
        return
    for member, reason in _wrong_members(key, payloads, metadata, contents):
        scan.faults.append(Fault(f"{name}:{key}.{member_suffix(member, contents.codec)}", reason))
    start = parts[0].header
    spans = {
        str(member_of.get(each.suffix)): Span(offset=each.payload.start - start, bytes=each.size) for each in parts
    }
    record = Record(data[start : parts[-1].end], spans)
    try:
        row = index_row(metadata.patch, record, shard=number, record_number=len(scan.rows), offset=start)
    except PatchError as error:
        scan.faults.append(Fault(f"{name}:{key}.json", str(error)))
        return
    scan.rows.append(row)


def _wrong_members(
    key: str, payloads: Mapping[str | None, memoryview], metadata: Metadata, contents: Contents
) -> Iterator[tuple[str, str]]:
    """(member, fault) for every damaged or inconsistent member of one record."""
    if metadata.key != key:
        yield "json", f"belongs to another sample, {metadata.key!r}"
    if metadata.bands != {group.name: group.bands for group in contents.groups}:
        yield "json", "has other bands than the manifest"
    for group in contents.groups:
        payload = payloads[group.name]
        try:
            check_image(decode_array(payload, contents.codec), group)
            fault = None
        except (ValueError, PatchError) as error:
            fault = str(error)
        if xxhash.xxh3_64_hexdigest(payload) != metadata.xxh3.get(group.name):
            yield group.name, "has changed bytes" + (f" ({fault})" if fault else "")
        elif fault:
            yield group.name, fault
    if "cls" in payloads and (fault := _wrong_label(bytes(payloads["cls"]), metadata, contents)):
        yield "cls", fault
    for name, labels in metadata.labels.items():
        if name not in contents.nomenclatures or not set(labels) <= set(contents.nomenclatures[name].names):
            yield "json", f"has labels {list(labels)} that are not in the nomenclature {name!r}"


def _wrong_label(payload: bytes, metadata: Metadata, contents: Contents) -> str | None:
    """The fault of the class number of a record; None if it matches the label in the JSON."""
    single = [(name, n) for name, n in contents.nomenclatures.items() if not n.multi]
    if not single:
        return "is unexpected: no nomenclature of the manifest has single labels"
    name, nomenclature = single[0]
    number = payload.decode("ascii", "replace")
    labels = metadata.labels.get(name, ())
    known = {str(i): label for i, label in enumerate(nomenclature.names)}
    return None if (known.get(number),) == labels else f"is {number!r}, its JSON has the labels {list(labels)}"
