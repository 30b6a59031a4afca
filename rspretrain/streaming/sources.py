"""The shard sets of a run as one: row numbers continue from set to set, groups are those that all sets have."""

import hashlib
from collections.abc import Mapping
from dataclasses import replace
from itertools import accumulate

import numpy as np

from rspretrain.arrays import Ints
from rspretrain.sensors import Group
from rspretrain.shardset.index import ShardSet, open_shards
from rspretrain.streaming.settings import DataSettings


class Sources:
    """One or more shard sets with the same bands. ValueError if the definitions of a group differ between sets.

    A group has a fixed shape only if it is the same in all sets; otherwise its batches contain each image's size.
    """

    def __init__(self, sets: Mapping[str, ShardSet]) -> None:
        self.sets = dict(sets)
        self.first_rows = [0, *accumulate(len(shards) for shards in sets.values())]
        self.groups = _common_groups(self.sets)
        # Largest height and width of any image of a group.
        self.canvas = {
            name: tuple(np.max([_max_shape(shards, name) for shards in sets.values()], axis=0).tolist())
            for name in self.groups
        }

    def __len__(self) -> int:
        """The number of samples of all sets, including those that the run does not use."""
        return self.first_rows[-1]

    @property
    def sha256(self) -> str:
        """SHA-256 of the manifest of a single set, or of the concatenated digests of all manifests."""
        digests = [shards.manifest_sha256 for shards in self.sets.values()]
        return digests[0] if len(digests) == 1 else hashlib.sha256("".join(digests).encode()).hexdigest()

    @property
    def name(self) -> str:
        """The names of all sets, for display."""
        return " + ".join(self.sets)

    def locate(self, rows: Ints) -> tuple[Ints, Ints]:
        """[B] the number of each row's set, and [B] the row within that set."""
        number = np.searchsorted(self.first_rows, rows, side="right") - 1
        return number, rows - np.asarray(self.first_rows)[number]

    def keys(self, rows: Ints) -> list[str]:
        """The keys of `rows`; "<set>:<key>" if there are several sets, because keys are unique only within a set."""
        numbers, local = self.locate(rows)
        keys = np.empty(len(rows), dtype=object)
        for number, (name, shards) in enumerate(self.sets.items()):
            selected = numbers == number
            prefix = f"{name}:" if len(self.sets) > 1 else ""
            keys[selected] = [prefix + key for key in shards.keys(local[selected])]
        return list(keys)

    def statistics(self, group: str) -> dict[str, tuple[float, float]]:
        """Band -> mean and standard deviation of a group's pixels over all sets, weighted by number of samples."""
        sets = list(self.sets.values())
        if len(sets) == 1:  # no arithmetic: bit-equal to the manifest
            return {band: (one.mean, one.std) for band, one in sets[0].manifest.statistics.get(group, {}).items()}
        share = np.array([len(shards) for shards in sets]) / len(self)
        bands = [shards.manifest.statistics.get(group, {}) for shards in sets]
        pooled = {}
        for band in (band for band in bands[0] if all(band in each for each in bands)):
            mean, std = np.array([(each[band].mean, each[band].std) for each in bands]).T
            centre = float(share @ mean)
            pooled[band] = centre, float(share @ (std**2 + (mean - centre) ** 2)) ** 0.5
        return pooled

    def shard_names(self, rows: Ints) -> list[str]:
        """The file name of each row's shard."""
        sets = list(self.sets.values())
        return [
            sets[number].manifest.shards[int(sets[number].numbers("shard")[row])].name
            for number, row in zip(*(part.tolist() for part in self.locate(rows)), strict=True)
        ]


def open_sources(settings: DataSettings) -> Sources:
    """Open all shard sets of a run. ValueError as in open_shards and Sources."""
    options = settings.remote_options()
    return Sources({source.display_name: open_shards(source.shards, options) for source in settings.all_sources()})


def _max_shape(shards: ShardSet, name: str) -> tuple[int, int]:
    return next(entry.max_shape for entry in shards.manifest.groups if entry.name == name)


def _common_groups(sets: Mapping[str, ShardSet]) -> dict[str, Group]:
    (first, shards), *others = sets.items()
    groups = dict(shards.groups)
    for name, shards in others:
        common = groups.keys() & shards.groups.keys()
        groups = {key: _common_group(groups[key], first, shards.groups[key], name) for key in groups if key in common}
        if not groups:
            raise ValueError(
                f"data.sources: {name!r} has the groups {sorted(shards.groups)}, expected one that all of "
                f"{list(sets)} have. Mix shard sets with the same sensors and grids."
            )
    return groups


def _common_group(one: Group, first: str, other: Group, name: str) -> Group:
    """`one`, with shape, pixel size and nodata only if they are the same in both sets."""
    for field in ("sensor", "bands", "dtype", "units"):
        a, b = getattr(one, field), getattr(other, field)
        if a != b:
            raise ValueError(
                f"data.sources: group {one.name!r} has {field} {a!r} in {first!r} and {b!r} in {name!r}, expected the "
                "same in all sets. Mix shard sets of the same archive layout."
            )
    return replace(
        one,
        shape=one.shape if one.shape == other.shape else None,
        gsd_m=one.gsd_m if one.gsd_m == other.gsd_m else None,
        nodata=one.nodata if one.nodata == other.nodata else None,
    )
