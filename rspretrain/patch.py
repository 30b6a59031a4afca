"""A patch: the images, labels and location of one sample, as numpy arrays, before it is encoded into a shard."""

import re
from dataclasses import dataclass, field
from typing import final

import numpy as np
from numpy.typing import NDArray

# No dots: webdataset splits a member's name at its first dot. No capitals: it lower-cases suffixes.
KEY_PATTERN = re.compile(r"[a-z0-9_-]+")

type_of_attribute = str | int | float | None


def key_of(name: str) -> str:
    """The shard key of an archive's name: lower case; characters outside [a-z0-9_-] become dashes."""
    return re.sub(r"[^a-z0-9_-]", "-", name.lower())


@dataclass(frozen=True)
class Patch:
    """Images, labels and location of one sample, in the dtype of the archive and at the resolution of every band."""

    key: str
    images: dict[str, NDArray[np.generic]]  # group name -> [C H W]
    labels: dict[str, tuple[str, ...]]  # nomenclature -> class names, in the nomenclature's order
    split: str | None = None  # of the archive: "train", "val", "test"
    crs: str | None = None  # "EPSG:32633", or WKT without an EPSG code
    bounds: tuple[float, float, float, float] | None = None  # left, bottom, right, top, in units of the CRS
    attributes: dict[str, type_of_attribute] = field(default_factory=dict)  # dates, source names, country


class PatchError(ValueError):
    """A patch that cannot be converted without loss. The build reports it by name and leaves it out."""


class PatchExcluded(PatchError):
    """A patch that the user's filters exclude (clouds, missing pixels). Counted, but not a fault."""


@dataclass(frozen=True)
class Fault:
    """One line of a build report: the patch that was left out, and the reason."""

    name: str
    reason: str


@final
class Exclusion(Fault):
    """A patch that the user's options exclude while the archive is listed. Counted, but not a fault."""
