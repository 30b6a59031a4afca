"""Generated pairs on BigEarthNet-MM's grids, with classes visible to Sentinel-1, to Sentinel-2, or to both.

A patch is a pasture with blobs. Sentinel-2 shows their colour, Sentinel-1 their roughness, both simulated by
archives/simulate.py with illumination, haze, seasons, incidence angles and speckle. A class that is invisible to a
sensor does not change that sensor's pixels by a bit. Classes occur independently, so none gives a hint of another.
"""

import functools
import math
from collections.abc import Collection
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from rspretrain.archives import simulate
from rspretrain.archives.base import Archive, Entry, Nomenclature
from rspretrain.patch import Fault, Patch
from rspretrain.sensors import Group

Sensor = Literal["s1", "s2"]
BACKGROUND = "pasture"
# Class -> sensors to which it is visible. The word before the space is one of simulate.COVERS.
VISIBLE_TO: dict[str, tuple[Sensor, ...]] = {
    "houses": ("s1", "s2"),
    "halls": ("s1", "s2"),
    "lake": ("s1", "s2"),
    "crop colour": ("s2",),
    "vine colour": ("s2",),
    "broadleaf colour": ("s2",),
    "conifer colour": ("s2",),
    "grassland colour": ("s2",),
    "bog colour": ("s2",),
    "crop roughness": ("s1",),
    "vine roughness": ("s1",),
    "bog roughness": ("s1",),
}
DAYS = (120, 270)  # of the year: the growing season, in which pasture is green
PRESENCE = 0.25  # probability of each class: 3 of 12 per patch on average, as in BigEarthNet's 19 classes (2.9)
BLOB_AREAS = (0.08, 0.25)  # area of a blob as a fraction of the patch, without occlusion by smaller blobs
BANDS = {
    "s2_10m": ("B02", "B03", "B04", "B08"),
    "s2_20m": ("B05", "B06", "B07", "B8A", "B11", "B12"),
    "s2_60m": ("B01", "B09"),
}
_LABELS, _TEXTURES, _S1, _S2, _BLOBS = range(5)  # separate random streams


def visible_classes(sensor: Sensor) -> tuple[str, ...]:
    """The classes visible to a sensor."""
    return tuple(name for name, sensors in VISIBLE_TO.items() if sensor in sensors)


@dataclass
class Land(Archive):
    """`train` + `val` + `test` patches. Nomenclatures: `all`, and `s2` (classes visible to Sentinel-2)."""

    seed: int
    train: int
    val: int
    test: int

    name = "generated"
    metadata_bytes = 768
    groups = (
        Group("s1_10m", "s1", ("VV", "VH"), "float32", (simulate.SIZE,) * 2, 10.0, "db"),
        *(
            Group(name, "s2", bands, "uint16", (simulate.SIZE // step,) * 2, 10.0 * step, "dn")
            for (name, bands), step in zip(BANDS.items(), (1, 2, 6), strict=True)
        ),
    )

    def __post_init__(self) -> None:
        self.nomenclatures = {
            "all": Nomenclature(tuple(VISIBLE_TO), True),
            "s2": Nomenclature(visible_classes("s2"), True),
        }

    def entries(self) -> tuple[list[Entry], list[Fault]]:
        """See Archive."""
        total = self.train + self.val + self.test
        return [Entry(f"land-{i:05d}", f"patch {i}", i) for i in range(total)], []

    def read(self, entry: Entry) -> Patch:
        """See Archive."""
        number = entry.source
        labels = self.labels(number)
        images = {**render_s1(self.seed, number, labels), **render_s2(self.seed, number, labels)}
        split = "train" if number < self.train else "val" if number < self.train + self.val else "test"
        by_nomenclature = {"all": labels, "s2": tuple(name for name in labels if "s2" in VISIBLE_TO[name])}
        return Patch(entry.key, images, by_nomenclature, split, None, None, {})

    def labels(self, number: int) -> tuple[str, ...]:
        """The classes of a patch, possibly none."""
        present = _rng(self.seed, number, _LABELS).random(len(VISIBLE_TO)) < PRESENCE
        return tuple(name for name, here in zip(VISIBLE_TO, present, strict=True) if here)


def render_s1(seed: int, number: int, labels: Collection[str]) -> dict[str, NDArray[np.generic]]:
    """Group -> [2 120 120] dB of a patch with these classes."""
    rng = _rng(seed, number, _S1)
    cover = _cover(seed, number, [name for name in labels if "s1" in VISIBLE_TO[name]])
    bands = simulate.render_s1(rng, cover, _textures(seed, number), simulate.draw_radar(rng))
    return {"s1_10m": np.concatenate([bands["VV"], bands["VH"]])}


def render_s2(seed: int, number: int, labels: Collection[str]) -> dict[str, NDArray[np.generic]]:
    """Group -> [C H W] digital numbers of a patch with these classes."""
    rng = _rng(seed, number, _S2)
    cover = _cover(seed, number, [name for name in labels if "s2" in VISIBLE_TO[name]])
    sky = simulate.draw_sky(rng, int(rng.integers(*DAYS)))
    pixels = simulate.render_s2(rng, cover, _textures(seed, number), sky)
    return {group: np.concatenate([pixels[band] for band in bands]) for group, bands in BANDS.items()}


@functools.lru_cache(maxsize=1)
def _textures(seed: int, number: int) -> Any:
    return simulate.draw_textures(_rng(seed, number, _TEXTURES))


def _cover(seed: int, number: int, names: Collection[str]) -> NDArray[np.intp]:
    """[120 120] indices into simulate.COVERS: blobs on the background, smaller ones on top."""
    covers = list(simulate.COVERS)
    cover = np.full((simulate.SIZE, simulate.SIZE), covers.index(BACKGROUND))
    blobs = {name: _blob(_rng(seed, number, _BLOBS + list(VISIBLE_TO).index(name))) for name in names}
    for name in sorted(names, key=lambda one: -int(blobs[one].sum())):
        cover[blobs[name]] = covers.index(name.partition(" ")[0])
    return cover


def _blob(rng: np.random.Generator) -> NDArray[np.bool_]:
    """[120 120] true in a lobed ellipse with an area in BLOB_AREAS and its centre at least 20 pixels from the edge."""
    y, x = np.mgrid[: simulate.SIZE, : simulate.SIZE] - rng.uniform(20, simulate.SIZE - 20, 2)[:, None, None]
    turn, phase = rng.uniform(0, 2 * math.pi, 2)
    angle = np.arctan2(y, x) - turn
    rim = 1 / np.hypot(np.cos(angle), rng.uniform(1.0, 1.8) * np.sin(angle)) * (1 + 0.2 * np.sin(5 * angle + phase))
    distance = np.hypot(x, y) / rim
    inside: NDArray[np.bool_] = distance <= np.quantile(distance, rng.uniform(*BLOB_AREAS))
    return inside


def _rng(seed: int, number: int, purpose: int) -> np.random.Generator:
    return np.random.default_rng([0x6C616E64, seed, number, purpose])
