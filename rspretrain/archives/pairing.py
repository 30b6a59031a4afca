"""Pair scenes of different sensors by footprint, then by date. Nothing is resampled.

Every window has one partner per sensor. Other scenes of the location (other dates) are not used and not reported.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime

import numpy as np
from numpy.typing import NDArray

from rspretrain.archives.scene_files import Scene
from rspretrain.archives.tiling import Bounds, Grid, cut

_FAR = 1e12  # seconds; larger than the difference of any two known dates


@dataclass(frozen=True)
class NoPartner:
    """The reason why a window has no partner."""

    reason: str


class Footprints:
    """A spatial index of the scenes of one sensor. `sizes`: side of a window in pixels on each of their layers."""

    def __init__(self, sensor: str, scenes: Sequence[Scene], sizes: tuple[int, ...], max_offset: float) -> None:
        self.sensor, self.sizes, self.max_offset = sensor, sizes, max_offset
        self.matched: set[str] = set()  # names of scenes that overlap a scene of the primary sensor
        by_crs: dict[str, list[Scene]] = {}
        for scene in scenes:
            if scene.grid.crs is not None:
                by_crs.setdefault(scene.grid.crs, []).append(scene)
        self._by_crs = {crs: sorted(group, key=lambda scene: scene.grid.left) for crs, group in by_crs.items()}
        self._bounds = {crs: np.array([s.grid.extent for s in group]) for crs, group in self._by_crs.items()}  # [N 4]

    def overlapping(self, scene: Scene) -> list[Scene] | NoPartner:
        """The scenes that overlap `scene`, sorted by distance in time, then by name."""
        crs = scene.grid.crs
        if crs is None:
            return NoPartner(
                f"has no CRS, so it cannot be paired with {self.sensor} scenes. Add a CRS, or drop the source."
            )
        if crs not in self._by_crs:
            return NoPartner(
                f"no {self.sensor} scene has its CRS {crs}, theirs are {sorted(self._by_crs)}. Nothing is resampled: "
                "warp one of them with gdalwarp first."
            )
        found = [self._by_crs[crs][number] for number in _overlapping_rows(self._bounds[crs], scene.grid.extent)]
        self.matched |= {each.name for each in found}
        if not found:
            return NoPartner(f"no {self.sensor} scene overlaps it. Add one, or drop the source.")
        return sorted(found, key=lambda each: (_seconds(each.when, scene.when), each.name))

    def find_partner(self, base: Grid, row: int, col: int, window: int, near: Sequence[Scene]) -> Scene | NoPartner:
        """The first of `near` whose pixels align with the window within `max_offset` pixels."""
        best = (float("inf"), "")
        for scene in near:
            offset = self._offset(base, row, col, window, scene)
            if offset <= self.max_offset:
                return scene
            best = min(best, (offset, scene.name))
        if best[1] == "":
            return NoPartner(f"no {self.sensor} scene is as large as the window. Lower --option window={window}.")
        return NoPartner(
            f"the nearest {self.sensor} pixels ({best[1]}) are up to {best[0]:.2f} pixels off, expected at most "
            f"{self.max_offset:g}. Add a scene that covers it, or accept it with --option max_offset="
            f"{np.ceil(best[0] * 100) / 100:g} (nothing is resampled)."
        )

    def _offset(self, base: Grid, row: int, col: int, window: int, scene: Scene) -> float:
        cuts = [
            cut(base, row, col, window, layer.grid, size) for layer, size in zip(scene.layers, self.sizes, strict=True)
        ]
        return max(float("inf") if each is None else each.offset_px for each in cuts)


def _overlapping_rows(bounds: NDArray[np.float64], other: Bounds) -> list[int]:
    """Rows of the rectangles [N 4], sorted by left edge, that overlap `other`.

    Searches only the rows that can overlap.
    """
    left, bottom, right, top = other
    widest = float((bounds[:, 2] - bounds[:, 0]).max())
    first, last = np.searchsorted(bounds[:, 0], [left - widest, right])
    strip = bounds[first:last]
    inside = (strip[:, 2] > left) & (strip[:, 1] < top) & (strip[:, 3] > bottom)
    return [int(first) + int(number) for number in np.flatnonzero(inside)]


def _seconds(one: datetime | None, other: datetime | None) -> float:
    return _FAR if one is None or other is None else abs((one - other).total_seconds())
