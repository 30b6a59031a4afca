"""A patch: one place as an archive holds it, in numpy, before it becomes a record of a shard."""

import re
from dataclasses import dataclass, field
from typing import final

import numpy as np
from numpy.typing import NDArray

# No dots: webdataset splits a member's name at its first dot. No capitals: it lower-cases suffixes.
KEY_PATTERN = re.compile(r"[a-z0-9_-]+")

type_of_attribute = str | int | float | None


def key_of(name: str) -> str:
    """A shard key made from an archive's own name: lower case, everything outside [a-z0-9_-] becomes a dash."""
    return re.sub(r"[^a-z0-9_-]", "-", name.lower())


@dataclass(frozen=True)
class Patch:
    """Images, labels and place of one sample, losslessly: the archive's own dtype, every band at its own resolution."""

    key: str
    images: dict[str, NDArray[np.generic]]  # group name -> [C H W]
    labels: dict[str, tuple[str, ...]]  # nomenclature -> class names, in the nomenclature's order
    split: str | None = None  # the archive's own: "train", "val", "test"
    crs: str | None = None  # "EPSG:32633", or WKT where there is no EPSG code
    bounds: tuple[float, float, float, float] | None = None  # left, bottom, right, top, in units of the CRS
    attributes: dict[str, type_of_attribute] = field(default_factory=dict)  # dates, source names, country


class PatchError(ValueError):
    """A patch that cannot be converted without losing something. The build reports it by name and leaves it out."""


class PatchExcluded(PatchError):
    """A patch that is left out because the user's own filters say so (clouds, missing pixels): counted, no fault."""


@dataclass(frozen=True)
class Fault:
    """One line of a build report: which patch was left out, and why."""

    name: str
    reason: str


@final
class Exclusion(Fault):
    """A patch that an archive's listing leaves out because the user's options say so: counted, no fault."""
