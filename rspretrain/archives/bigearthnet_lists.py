"""The CSV files of BigEarthNet v1 (official splits, pairs, snow, cloud), and the random split of K-Branch CNN.

docs/methods.md, BigEarthNet v1. Files may be plain or bzip2. A row names a Sentinel-2 patch, and optionally its
Sentinel-1 partner in either order, so files with one and with two columns both work.
"""

import bz2
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

import numpy as np
import xxhash

from rspretrain.rng import mix, mix_array

SPLITS = ("train", "val", "test")
Flag = Literal["snow", "cloud"]
FLAG_FILES: dict[Flag, str] = {"snow": "patches_with_seasonal_snow", "cloud": "patches_with_cloud_and_shadow"}

_STRIPPED = str.maketrans("", "", ' \t"')


@dataclass(frozen=True)
class Lists:
    """The content of the CSV files: split and flags by Sentinel-2 name, and Sentinel-2 partner by Sentinel-1 name."""

    split_of: dict[str, str] = field(default_factory=dict)
    partner_of: dict[str, str] = field(default_factory=dict)
    flagged: dict[Flag, frozenset[str]] = field(default_factory=dict)  # only flags whose list exists

    def flag(self, flag: Flag, s2_name: str | None) -> bool | None:
        """Whether a patch is in the list of a flag; None without a list or a name."""
        return s2_name in self.flagged[flag] if flag in self.flagged and s2_name else None


def read_lists(folder: Path | None, *, splits: bool = True, partners: bool = True) -> Lists:
    """Read all lists in `folder`. ValueError if a split file is missing (unless `splits` is off) or splits overlap."""
    lists = Lists()
    if folder is None:
        return lists
    for split in SPLITS:
        path = _csv(folder, split)
        if path is None:
            if not splits:
                continue
            raise ValueError(
                f"{folder} holds no {split}.csv (or .csv.bz2), expected a file for each of {SPLITS}. Add it."
            )
        for s2, s1 in _rows(path):
            earlier = lists.split_of.setdefault(s2, split)
            if earlier != split:
                raise ValueError(f"{path}: {s2} is in {earlier} too, expected disjoint splits. Repair the files.")
            if s1 and partners:
                lists.partner_of[s1] = s2
    mapping = _csv(folder, "s1_s2_mapping") if partners else None
    lists.partner_of.update({s1: s2 for s2, s1 in _rows(mapping) if s1} if mapping else {})
    for flag, stem in FLAG_FILES.items():
        if path := _csv(folder, stem):
            lists.flagged[flag] = frozenset(s2 for s2, _ in _rows(path))
    return lists


def random_splits(names: Iterable[str], seed: int) -> dict[str, str]:
    """A 60/20/20 split of a set of patches: name -> split, a pure function of the set and the seed.

    Patches are ranked by a hash of seed and name; of N, the first 3N//5 train, those up to 4N//5 validate, the rest
    test. Counts are exact, and independent of the order of the names and of the machine. docs/methods.md, BigEarthNet
    v1.
    """
    ordered = sorted(set(names))
    digests = np.array([xxhash.xxh3_64_intdigest(name.encode()) for name in ordered], dtype=np.uint64)
    ranked = np.argsort(mix_array(mix(seed), digests), kind="stable").tolist()
    cuts = 3 * len(ordered) // 5, 4 * len(ordered) // 5
    return {ordered[index]: SPLITS[sum(rank >= cut for cut in cuts)] for rank, index in enumerate(ranked)}


def _csv(folder: Path, stem: str) -> Path | None:
    return next((path for suffix in (".csv", ".csv.bz2") if (path := folder / (stem + suffix)).is_file()), None)


def _rows(path: Path) -> Iterator[tuple[str, str | None]]:
    """(S2 name, S1 name or None) of each row, in any columns. A header has neither and is skipped."""
    try:
        raw = path.read_bytes()
        text = (bz2.decompress(raw) if path.suffix == ".bz2" else raw).decode("utf-8-sig")
    except (OSError, ValueError) as error:
        raise ValueError(f"{path}: cannot be read ({error}), expected CSV or bzip2. Download it again.") from None
    for number, line in enumerate(text.translate(_STRIPPED).splitlines(), 1):
        s2 = s1 = None
        for cell in line.split(","):
            s2, s1 = (cell if cell.startswith("S2") else s2), (cell if cell.startswith("S1") else s1)
        if s2:
            yield s2, s1
        elif line.strip(",") and (number > 1 or s1):
            raise ValueError(f"{path}, line {number}: {line!r}, expected s2_name,s1_name. Repair the file.")
