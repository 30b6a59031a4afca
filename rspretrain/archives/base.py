"""The interface of an archive: a cheap, ordered list of entries, and a reader that turns one entry into one patch."""

from abc import ABC, abstractmethod
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import xxhash

from rspretrain.patch import Fault, Patch, key_of
from rspretrain.sensors import Group


@dataclass(frozen=True)
class Nomenclature:
    """The class names of an archive's labels. `multi`: whether an image may have several."""

    names: tuple[str, ...]
    multi: bool


@dataclass(frozen=True)
class Entry:
    """One patch of an archive: its key, its name in the archive, and its location for `read`."""

    key: str
    name: str
    # Private to the archive; picklable. Its repr is part of the plan's checksum: paths are relative to the sources, and
    # renaming a class or a field of it changes the manifest of a rebuilt set.
    source: Any


class Archive(ABC):
    """One raw download. Listing is cheap and reads no pixels. Entries are read independently, in parallel."""

    name: str  # "bigearthnet"
    groups: tuple[Group, ...]
    nomenclatures: dict[str, Nomenclature]
    # JSON members are padded with spaces to this size, so that all records of a shard have one stride and can be read
    # as one strided array.
    metadata_bytes: int
    # The options given to `open_archive`; the manifest records them.
    options: Mapping[str, str] = {}

    @abstractmethod
    def entries(self) -> tuple[list[Entry], list[Fault]]:
        """All patches in a fixed order (the same on every machine), and the faults found while listing.

        A patch that the user's options exclude is an Exclusion among the faults.
        """

    @abstractmethod
    def read(self, entry: Entry) -> Patch:
        """Read the patch; its pixels equal rasterio's. PatchError, naming the file, if any part cannot be read."""


def is_text(name: str) -> bool:
    """Whether the name of a file is valid UTF-8. JSON cannot hold other names."""
    return name == name.encode(errors="replace").decode()


def display_name(name: str) -> str:
    """The name of a file for printing and JSON: bytes that are not UTF-8 are escaped, as `\\udce9`."""
    return name.encode(errors="backslashreplace").decode()


def unique_keys(wanted: Mapping[str, str], limit: int) -> dict[str, str]:
    """Name -> key, from the wanted text of each key. A hash of the name is added to keys that are equal or longer than
    `limit` bytes. Characters outside ASCII become dashes, so equal keys are common in some languages.
    """
    keys = {name: key_of(text) for name, text in wanted.items()}
    count = Counter(keys.values())
    return {
        name: key if count[key] == 1 and len(key) <= limit else _hashed(name, key, limit) for name, key in keys.items()
    }


def _hashed(name: str, key: str, limit: int) -> str:
    digest = xxhash.xxh3_64_hexdigest(name.encode())[:10]
    return f"{key[-(limit - len(digest) - 1) :]}-{digest}"  # the end of a path is more specific than its start
