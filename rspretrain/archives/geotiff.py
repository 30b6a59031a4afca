"""Windows of large scenes (GeoTIFF, COG, VRT, JP2) in a folder: Sentinel-2, Sentinel-1, RGB or any other instrument.

A scene is one file with many bands, or one file per band at mixed resolutions (Major TOM, SSL4EO-S12, SAFE). No pixel
is resampled: each grid is cut separately, and `max_offset` limits the offset between grids that are not aligned.
Windows of one scene share pixels with `overlap`, and at the right and bottom edges with `edge=shift` (the default,
which covers all pixels), so hold out scenes, not windows. Date and season come from the name of the scene.
"""

import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any, final

import numpy as np
from numpy.typing import NDArray

from rspretrain.archives.base import Archive, Entry, Nomenclature
from rspretrain.archives.pairing import Footprints, NoPartner
from rspretrain.archives.scene_files import UNUSED, Layer, Scene, Source, band_name, find_scenes
from rspretrain.archives.scene_groups import consistent_scenes, groups_of, ratios_to, scene_ids
from rspretrain.archives.tiling import Edge, cut, offsets, ratio, stride_of
from rspretrain.archives.windows import read_mask, read_window
from rspretrain.patch import Fault, Patch, PatchError, PatchExcluded, type_of_attribute
from rspretrain.sensors import BAND_ORDER, Group

_GROUP_ORDER = ("s1", "s2", "rgb", "other")
_PRIMARY_ORDER = ("s2", "s1", "rgb", "other")  # the first sensor given is tiled, the others are paired with it
_ALIGNED_PX = 0.01  # grids within this offset count as aligned; larger offsets are recorded in the patch


@dataclass(frozen=True)
class Tile:
    """One window of a scene, in pixels of its finest grid, and the scenes of other sensors cut at the same location."""

    scene: Scene
    row: int
    col: int
    partners: tuple[Scene, ...]


@final
class GeoTiff(Archive):
    """Windows of `window` x `window` pixels of the finest grid of s2 (else s1, rgb, other), paired by footprint.

    Sources are folders or patterns (`folder/*_s2_*`). `max_nodata` and `max_cloud` are the largest shares (0 to 1) of
    pixels without data (in any band: nodata, or not finite) and under clouds. `cloud_values` are the cloud codes of the
    mask; empty: all codes but 0. `nodata` applies to files without a nodata tag. `fill` replaces missing pixels of
    float bands, because NaN cannot be stored. `<sensor>_bands` names or selects bands. ValueError for an option out of
    range, a window that is not a multiple of the coarsest pixels, or a source without a usable scene.
    """

    def __init__(
        self,
        s2: Path | None = None,
        s1: Path | None = None,
        rgb: Path | None = None,
        other: Path | None = None,
        *,
        window: int = 240,  # 2.4 km at 10 m; divides by the 6 of Sentinel-2's 60 m bands and by 16
        overlap: float = 0.0,
        edge: Edge = "shift",
        max_nodata: float = 0.0,
        max_cloud: float = 1.0,
        cloud_mask: str = "*cloud_mask*",
        cloud_values: tuple[int, ...] = (),
        nodata: float | None = None,
        fill: float | None = None,
        max_offset: float = _ALIGNED_PX,  # in pixels of the grid that is cut
        s2_bands: tuple[str, ...] = (),
        s1_bands: tuple[str, ...] = (),
        rgb_bands: tuple[str, ...] = (),
        other_bands: tuple[str, ...] = (),
    ) -> None:
        self.name = "geotiff"
        self.nomenclatures: dict[str, Nomenclature] = {}
        _check_range("overlap", overlap, 0.0, 0.99)
        for name, share in (("max_nodata", max_nodata), ("max_cloud", max_cloud)):
            _check_range(name, share, 0.0, 1.0)
        _check_range("window", window, 1, 1 << 16)
        _check_range("max_offset", max_offset, 0.0, math.inf)
        self.window, self.overlap, self.edge, self.max_offset = window, overlap, edge, max_offset
        self.max_nodata, self.max_cloud, self.cloud_values, self.fill = max_nodata, max_cloud, cloud_values, fill
        paths = {"s1": s1, "s2": s2, "rgb": rgb, "other": other}
        names = {"s1": s1_bands, "s2": s2_bands, "rgb": rgb_bands, "other": other_bands}
        self.sources = {
            sensor: Source(sensor, Path(path), _bands(sensor, names[sensor]), cloud_mask, nodata)
            for sensor in _GROUP_ORDER
            if (path := paths[sensor]) is not None
        }
        if not self.sources:
            raise ValueError("geotiff got no source, expected s2, s1, rgb or other. Add --source s2=<folder>.")
        self.roots = {sensor: source.root for sensor, source in self.sources.items()}
        self.primary = next(sensor for sensor in _PRIMARY_ORDER if sensor in self.sources)
        self._scan: tuple[dict[str, list[Scene]], list[Fault]] | None = None
        self._set_groups(fill)

    def entries(self) -> tuple[list[Entry], list[Fault]]:
        """All windows by scene, row and column.

        Unusable files and scenes, and windows without a partner, are faults.
        """
        scenes, faults = self._find_scenes()
        faults = list(faults)
        ids = scene_ids(scenes[self.primary])
        footprints = [
            Footprints(sensor, scenes[sensor], self._sizes[sensor], self.max_offset)
            for sensor in self.sources
            if sensor != self.primary
        ]
        entries: list[Entry] = []
        for scene in scenes[self.primary]:
            tiles, bad = self._tiles(scene, footprints)
            faults += bad
            for tile in tiles:
                key = f"{ids[scene.name]}_{tile.row}_{tile.col}"
                entries.append(Entry(key, _tile_name(scene, tile.row, tile.col), tile))
        for each in footprints:
            unpaired = [scene.name for scene in scenes[each.sensor] if scene.name not in each.matched]
            faults += [
                Fault(name, f"overlaps no scene of {self.primary}. Remove it, or add its partner.") for name in unpaired
            ]
        return entries, faults

    def read(self, entry: Entry) -> Patch:
        """Read one window. PatchExcluded if a filter excludes it, PatchError for a damaged file or remaining NaN."""
        tile: Tile = entry.source
        scene = tile.scene
        cloud = self._cloud(tile)
        images: dict[str, NDArray[np.generic]] = {}
        missing, attributes = 0.0, _attributes(tile)
        for each in (scene, *tile.partners):
            for layer, size, group in zip(each.layers, self._sizes[each.sensor], self._of[each.sensor], strict=True):
                window = cut(scene.grid, tile.row, tile.col, self.window, layer.grid, size)
                if window is None or window.offset_px > self.max_offset:
                    raise PatchError(
                        f"{layer.files[0][0]}: does not cover the window. The file has changed; build again."
                    )
                if window.offset_px > _ALIGNED_PX:
                    attributes[f"{group.name}_offset_px"] = round(window.offset_px, 4)
                images[group.name], empty = _pixels(self.roots[each.sensor], layer, window.row, window.col, size)
                missing = max(missing, float(empty.any(0).mean()))
                if missing > self.max_nodata:
                    share = f"{missing:.4f} of the pixels of {group.name} without data"
                    raise PatchExcluded(f"has {share}, more than max_nodata={self.max_nodata:g}")
                images[group.name] = self._fill_missing(images[group.name], empty, group)
        return Patch(
            entry.key,
            {group.name: images[group.name] for group in self.groups},
            {},
            crs=scene.grid.crs,
            bounds=scene.grid.bounds(tile.row, tile.col, self.window, self.window) if scene.grid.crs else None,
            attributes=attributes | {"cloud": cloud, "nodata": round(missing, 6)},
        )

    def __getstate__(self) -> dict[str, Any]:
        """Drop the list of all scenes: entries carry their own, and workers need no more."""
        return self.__dict__ | {"_scan": None}

    def _find_scenes(self) -> tuple[dict[str, list[Scene]], list[Fault]]:
        """Scenes by sensor, with consistent bands and grids per sensor, and the faults of all other files."""
        if self._scan is None:
            scenes: dict[str, list[Scene]] = {}
            faults: list[Fault] = []
            for sensor, source in self.sources.items():
                found, bad = find_scenes(source)
                found, inconsistent = consistent_scenes(found, self.max_offset)
                faults += bad + inconsistent
                if not found:
                    first = next((f"; {fault.name}: {fault.reason}" for fault in bad + inconsistent), ".")
                    raise ValueError(
                        f"{source.path} holds no scene of {sensor}, expected GeoTIFF, COG, VRT or JP2{first}"
                    )
                scenes[sensor] = found
            self._scan = scenes, faults
        return self._scan

    def _set_groups(self, fill: float | None) -> None:
        scenes, _ = self._find_scenes()
        base = scenes[self.primary][0]
        ratios = {sensor: ratios_to(base, scenes[sensor]) for sensor in self.sources}
        unit = math.lcm(*(each.numerator for times in ratios.values() for each in times))
        if self.window % unit:
            lower = self.window // unit * unit
            near = f"{lower} or {lower + unit}" if lower else str(unit)
            raise ValueError(
                f"geotiff got window={self.window}, expected a multiple of {unit}: the coarsest pixel is {unit} "
                f"times as wide as the finest. Set --option window={near}."
            )
        self._stride = stride_of(self.window, self.overlap, unit)
        self._sizes = {sensor: tuple(int(self.window / each) for each in times) for sensor, times in ratios.items()}
        self._of = {sensor: groups_of(scenes[sensor][0], self._sizes[sensor], fill) for sensor in self.sources}
        self.groups = tuple(group for groups in self._of.values() for group in groups)
        longest = max(len(scene.name) + len(scene.grid.crs or "") for each in scenes.values() for scene in each)
        content = 700 + 2 * longest + sum(48 + 8 * len(group.bands) for group in self.groups)
        self.metadata_bytes = math.ceil(content / 1024) * 1024

    def _tiles(self, scene: Scene, footprints: list[Footprints]) -> tuple[list[Tile], list[Fault]]:
        """The windows of one scene; a single fault if none of them has a partner."""
        height, width = scene.grid.height, scene.grid.width
        near = [each.overlapping(scene) for each in footprints]
        rows = offsets(height, self.window, self._stride, self.edge)
        cols = offsets(width, self.window, self._stride, self.edge)
        if not rows or not cols:
            reason = f"is {height} x {width} pixels, smaller than window={self.window}. Lower --option window."
            return [], [Fault(scene.name, reason)]
        if self.max_cloud < 1 and scene.mask is None:
            return [], [Fault(scene.name, "has no cloud mask for max_cloud. Add it, or correct --option cloud_mask.")]
        if no_partner := next((each for each in near if isinstance(each, NoPartner)), None):
            return [], [Fault(scene.name, no_partner.reason)]
        tiles, faults = [], []
        for row, col in ((row, col) for row in rows for col in cols):
            partners = [
                each.find_partner(scene.grid, row, col, self.window, scenes)
                for each, scenes in zip(footprints, near, strict=True)
                if not isinstance(scenes, NoPartner)
            ]
            if no_partner := next((each for each in partners if isinstance(each, NoPartner)), None):
                faults.append(Fault(_tile_name(scene, row, col), no_partner.reason))
            else:
                tiles.append(Tile(scene, row, col, tuple(each for each in partners if isinstance(each, Scene))))
        if not tiles:
            return [], [Fault(scene.name, f"none of its {len(faults)} windows has a partner; {faults[0].reason}")]
        return tiles, faults

    def _cloud(self, tile: Tile) -> float | None:
        """Share of the window under clouds; None without a mask. PatchExcluded if it exceeds `max_cloud`."""
        if tile.scene.mask is None:
            return None
        path, grid = tile.scene.mask
        try:
            size = int(self.window / ratio(tile.scene.grid, grid))
        except ValueError as error:
            raise PatchError(f"{path}: the cloud mask has {error}. Warp it first.") from None
        window = cut(tile.scene.grid, tile.row, tile.col, self.window, grid, size)
        if window is None or grid.crs != tile.scene.grid.crs or window.offset_px > max(self.max_offset, 0.5):
            raise PatchError(f"{path}: the cloud mask does not cover the window. Repair or remove it.")
        codes = read_window(self.roots[self.primary] / path, (1,), window.row, window.col, size, size)
        clouds = np.isin(codes, self.cloud_values) if self.cloud_values else codes != 0
        if (share := float(clouds.mean())) > self.max_cloud:
            raise PatchExcluded(f"has {share:.4f} of its pixels under clouds, more than max_cloud={self.max_cloud:g}")
        return round(share, 6)

    def _fill_missing(self, image: NDArray[Any], empty: NDArray[np.bool_], group: Group) -> NDArray[Any]:
        if image.dtype.kind != "f" or not empty.any():
            return image
        if self.fill is not None:
            image[empty] = self.fill
        elif not np.isfinite(image).all():
            raise PatchError(
                f"group {group.name} has NaN or infinite pixels (below max_nodata={self.max_nodata:g}), which cannot "
                "be stored. Give --option fill=<number>, or max_nodata=0 to leave such tiles out."
            )
        return image


def _pixels(root: Path, layer: Layer, row: int, col: int, size: int) -> tuple[NDArray[Any], NDArray[np.bool_]]:
    """A window [C H W] of a layer, and a mask of its missing pixels: nodata, not finite, or masked by the file."""
    image = np.concatenate([read_window(root / path, bands, row, col, size, size) for path, bands in layer.files])
    empty = np.zeros(image.shape, dtype=np.bool_)
    if layer.nodata is not None:
        empty |= image == layer.nodata
    if image.dtype.kind == "f":
        empty |= ~np.isfinite(image)
    if layer.masked:
        empty |= np.concatenate(
            [
                np.repeat(~read_mask(root / path, row, col, size, size)[None], len(bands), 0)
                for path, bands in layer.files
            ]
        )
    return image, empty


def _attributes(tile: Tile) -> dict[str, type_of_attribute]:
    """Scene, window, dates and season of a window."""
    attributes: dict[str, type_of_attribute] = {"scene": tile.scene.name, "row": tile.row, "col": tile.col}
    for scene in (tile.scene, *tile.partners):
        if scene is not tile.scene:
            attributes[f"{scene.sensor}_scene"] = scene.name
        attributes[f"{scene.sensor}_date"] = None if scene.when is None else scene.when.isoformat()
    return attributes | {"season": tile.scene.season}


def _tile_name(scene: Scene, row: int, col: int) -> str:
    return f"{scene.name}[{row},{col}]"


def _bands(sensor: str, names: tuple[str, ...]) -> tuple[str, ...]:
    """Canonical names of the bands of an option. ValueError for unknown or repeated bands."""
    bands = tuple(band_name(sensor, name) for name in names)
    known = BAND_ORDER.get(sensor, bands)
    wrong = [name for name in bands if name != UNUSED and (name not in known or bands.count(name) > 1)]
    if wrong:
        raise ValueError(
            f"geotiff got {sensor}_bands={','.join(names)}, expected each of {','.join(known)} at most once ({UNUSED} "
            f"for an unused band). Correct {wrong[0]!r}."
        )
    return bands


def _check_range(name: str, value: float, low: float, high: float) -> None:
    if not low <= value <= high:
        raise ValueError(f"geotiff got {name}={value:g}, expected {low:g} to {high:g}. Correct --option {name}.")
