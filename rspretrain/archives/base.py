"""What every archive offers: a cheap, ordered list of entries, and a reader that turns one entry into one patch."""

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
    """A list of class names that the labels of an archive are taken from. `multi` says if an image may have several."""

    names: tuple[str, ...]
    multi: bool


@dataclass(frozen=True)
class Entry:
    """One patch that can be read: its future key, its name in the archive, and what `read` needs to find it."""

    key: str
    name: str
    # The archive's own; picklable. Its repr is part of a build's fingerprint, so paths are relative to the sources.
    source: Any


class Archive(ABC):
    """One raw download. Listing is cheap and reads no pixels; reading is independent for every entry (and parallel)."""

    name: str  # "bigearthnet"
    groups: tuple[Group, ...]
    nomenclatures: dict[str, Nomenclature]
    # JSON members are padded with spaces to this size, so that all records of a shard have one stride (design.md D3).
    metadata_bytes: int
    # What `open_archive` was told beside the folders; it goes into the manifest.
    options: Mapping[str, str] = {}

    @abstractmethod
    def entries(self) -> tuple[list[Entry], list[Fault]]:
        """All patches in a fixed order (the same on every machine), and what is left out already here.

        Among the faults, an Exclusion is what the user's options leave out.
        """

    @abstractmethod
    def read(self, entry: Entry) -> Patch:
        """The patch, pixels equal to rasterio's. PatchError, naming the file, where it cannot be had whole."""


def is_text(name: str) -> bool:
    """Whether a file's name is UTF-8, not bytes of another encoding: no JSON can hold these."""
    return name == name.encode(errors="replace").decode()


def shown(name: str) -> str:
    """A file's name as it can be printed and stored: a byte that is no UTF-8 as `\\udce9`."""
    return name.encode(errors="backslashreplace").decode()


def unique_keys(wanted: Mapping[str, str], limit: int) -> dict[str, str]:
    """Name -> key, from the text that each name wants as its key; with a hash of the name where keys would be equal or
    longer than `limit` bytes. Names outside ASCII become dashes, so equal keys are common in some languages.
    """
    keys = {name: key_of(text) for name, text in wanted.items()}
    count = Counter(keys.values())
    return {
        name: key if count[key] == 1 and len(key) <= limit else _hashed(name, key, limit) for name, key in keys.items()
    }


def _hashed(name: str, key: str, limit: int) -> str:
    digest = xxhash.xxh3_64_hexdigest(name.encode())[:10]
    return f"{key[-(limit - len(digest) - 1) :]}-{digest}"  # the end of a path tells more than its start
