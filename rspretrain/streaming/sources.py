"""The shard sets of a run, seen as one: rows are numbered on from set to set, groups are those that all have."""

import hashlib
from collections.abc import Mapping
from dataclasses import replace
from itertools import accumulate

import numpy as np
from numpy.typing import NDArray

from rspretrain.sensors import Group
from rspretrain.shardset.index import ShardSet, open_shards
from rspretrain.streaming.settings import DataSettings

Ints = NDArray[np.int64]


class Sources:
    """One shard set or several of the same bands. ValueError where a group means something else in another set.

    A group has a fixed shape only where all sets agree on it; else its batches carry each image's size.
    """

    def __init__(self, sets: Mapping[str, ShardSet]) -> None:
        self.sets = dict(sets)
        self.first_rows = [0, *accumulate(len(shards) for shards in sets.values())]
        self.groups = _common_groups(self.sets)
        # The largest height and width of any image on each group's grid.
        self.canvas = {
            name: tuple(np.max([_max_shape(shards, name) for shards in sets.values()], axis=0).tolist())
            for name in self.groups
        }

    def __len__(self) -> int:
        """Samples of all sets, whether a run uses them or not."""
        return self.first_rows[-1]

    @property
    def sha256(self) -> str:
        """Of the manifest of a single set; of the digests of all manifests, in order, where there are several."""
        digests = [shards.manifest_sha256 for shards in self.sets.values()]
        return digests[0] if len(digests) == 1 else hashlib.sha256("".join(digests).encode()).hexdigest()

    @property
    def name(self) -> str:
        """For people: the names of the sets."""
        return " + ".join(self.sets)

    def locate(self, rows: Ints) -> tuple[Ints, Ints]:
        """[B] the number of the set of every row, and [B] the row in that set."""
        number = np.searchsorted(self.first_rows, rows, side="right") - 1
        return number, rows - np.asarray(self.first_rows)[number]

    def keys(self, rows: Ints) -> list[str]:
        """The keys of some rows; "<set>:<key>" where there are several sets, because each has its own keys."""
        numbers, local = self.locate(rows)
        keys = np.empty(len(rows), dtype=object)
        for number, (name, shards) in enumerate(self.sets.items()):
            here = numbers == number
            prefix = f"{name}:" if len(self.sets) > 1 else ""
            keys[here] = [prefix + key for key in shards.keys(local[here])]
        return list(keys)

    def statistics(self, group: str) -> dict[str, tuple[float, float]]:
        """Band -> mean and standard deviation of a group's pixels over all sets, each set by its number of samples."""
        sets = list(self.sets.values())
        if len(sets) == 1:  # to the last bit what its manifest says
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
        """The file name of the shard of every row."""
        sets = list(self.sets.values())
        return [
            sets[number].manifest.shards[int(sets[number].numbers("shard")[row])].name
            for number, row in zip(*(part.tolist() for part in self.locate(rows)), strict=True)
        ]


def open_sources(settings: DataSettings) -> Sources:
    """Open every shard set that a run names. ValueError as in open_shards, and where they do not fit together."""
    options = settings.remote_options()
    return Sources({source.called: open_shards(source.shards, options) for source in settings.all_sources()})


def _max_shape(shards: ShardSet, name: str) -> tuple[int, int]:
    return next(entry.max_shape for entry in shards.manifest.groups if entry.name == name)


def _common_groups(sets: Mapping[str, ShardSet]) -> dict[str, Group]:
    (first, shards), *others = sets.items()
    groups = dict(shards.groups)
    for name, shards in others:
        common = groups.keys() & shards.groups.keys()
        groups = {key: _joined(groups[key], first, shards.groups[key], name) for key in groups if key in common}
        if not groups:
            raise ValueError(
                f"data.sources: {name!r} has the groups {sorted(shards.groups)}, none of which all of {list(sets)} "
                "have. Mix shard sets of the same sensors and grids."
            )
    return groups


def _joined(one: Group, first: str, other: Group, name: str) -> Group:
    """`one` as far as both sets agree on it."""
    for field in ("sensor", "bands", "dtype", "units"):
        a, b = getattr(one, field), getattr(other, field)
        if a != b:
            raise ValueError(
                f"data.sources: group {one.name!r} has {field} {a!r} in {first!r} and {b!r} in {name!r}; a batch "
                "holds one kind. Mix shard sets of one archive layout."
            )
    return replace(
        one,
        shape=one.shape if one.shape == other.shape else None,
        gsd_m=one.gsd_m if one.gsd_m == other.gsd_m else None,
        nodata=one.nodata if one.nodata == other.nodata else None,
    )
