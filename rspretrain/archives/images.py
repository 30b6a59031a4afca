"""Whole images of one sensor in a folder, without labels: the input of predictions.

For the sensor rgb: 8-bit RGB, grey and palette images. For other sensors: scenes as in `geotiff`, with one file for all
bands or one file per band at mixed resolutions. Bands are identified by name, never by position alone.
"""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, final

import numpy as np
from numpy.typing import NDArray

from rspretrain.archives import open_archive
from rspretrain.archives.base import Archive, Entry, Nomenclature, display_name, is_text, unique_keys
from rspretrain.archives.class_folders import IMAGE_SUFFIXES, MAX_KEY_BYTES
from rspretrain.archives.raster import read_rgb
from rspretrain.archives.scene_files import SUFFIXES, Scene, Source, band_name, find_scenes
from rspretrain.archives.scene_groups import consistent_scenes, groups_of
from rspretrain.archives.windows import close_files, read_profile, read_window
from rspretrain.patch import Fault, Patch, PatchError
from rspretrain.sensors import BAND_ORDER, Group

_RGB = Group("rgb", "rgb", BAND_ORDER["rgb"], "uint8", None, None, "grey")
SENSORS = ("s1", "s2", "rgb", "other")
_MAX_BYTES = 1 << 31  # bytes of one grid of an image; larger scenes should be read in windows
_ANY_OFFSET = float("inf")  # the grids of a scene need not align: whole images are resampled later


@final
class Images(Archive):
    """Every image below the folder `path` is a patch. Its key is the relative path without suffix.

    `bands` names the bands of files without descriptions, in file order. ValueError for a folder without images.
    """

    def __init__(self, sensor: str, path: Path, bands: tuple[str, ...] = ()) -> None:
        self.name, self.nomenclatures, self.metadata_bytes = "images", dict[str, Nomenclature](), 1024
        named = tuple(band_name(sensor, name) for name in bands)
        self.source = Source(sensor, Path(path), named, cloud_mask="*cloud_mask*")
        self._entries, self._faults = _list_images(self.source) if sensor == "rgb" else _list_scenes(self.source)
        if not self._entries:
            first = next((f"; {fault.name}: {fault.reason}" for fault in self._faults), ".")
            kinds = IMAGE_SUFFIXES if sensor == "rgb" else SUFFIXES
            raise ValueError(f"{path} holds no image of {sensor}, expected {', '.join(kinds)}{first}")
        first_scene = self._entries[0].source
        self.groups = (_RGB,) if sensor == "rgb" else tuple(_group(one) for one in _groups(first_scene))

    def entries(self) -> tuple[list[Entry], list[Fault]]:
        """All images by name, and the faults of unusable files."""
        return list(self._entries), list(self._faults)

    def read(self, entry: Entry) -> Patch:
        """Read one image. PatchError, naming the file, if it is damaged, has NaN, or is not 8-bit RGB (sensor rgb)."""
        if self.source.sensor == "rgb":
            pixels, profile = read_rgb(self.source.root / entry.source), read_profile(self.source.root / entry.source)
            return _patch(entry, {"rgb": pixels}, profile.grid.crs, profile.grid.extent)
        scene: Scene = entry.source
        images = {group.name: self._read_layer(scene, number) for number, group in enumerate(self.groups)}
        return _patch(entry, images, scene.grid.crs, scene.grid.extent)

    def _read_layer(self, scene: Scene, number: int) -> NDArray[Any]:
        layer = scene.layers[number]
        size = layer.grid.height, layer.grid.width
        if len(layer.bands) * size[0] * size[1] * np.dtype(layer.dtype).itemsize > _MAX_BYTES:
            raise PatchError(
                f"{layer.files[0][0]}: is {len(layer.bands)} x {size[0]} x {size[1]} pixels, expected "
                f"{_MAX_BYTES >> 30} GiB at most. Cut the image in windows (--window N)."
            )
        try:
            parts = [read_window(self.source.root / path, bands, 0, 0, *size) for path, bands in layer.files]
        finally:
            close_files()
        pixels: NDArray[Any] = np.concatenate(parts)
        if not np.isfinite(pixels).all():
            raise PatchError(
                f"{layer.files[0][0]}: has {int((~np.isfinite(pixels)).sum())} pixels that are not finite, expected "
                "finite pixels only. Fill them, or exclude the parts without data (--window N)."
            )
        return pixels


def _patch(entry: Entry, images: dict[str, NDArray[Any]], crs: str | None, bounds: Any) -> Patch:
    return Patch(entry.key, images, {}, crs=crs, bounds=bounds if crs else None)


def _list_images(source: Source) -> tuple[list[Entry], list[Fault]]:
    """All images by path below the root, without hidden files."""
    found = [source.path.absolute()] if source.path.is_file() else sorted(source.root.rglob("*"))
    kinds = (*IMAGE_SUFFIXES, *SUFFIXES)
    names = [path.relative_to(source.root).as_posix() for path in found if path.suffix.lower() in kinds]
    names = [name for name in names if not any(part.startswith(".") for part in name.split("/"))]
    faults = [Fault(display_name(name), "its name is not UTF-8; rename it") for name in names if not is_text(name)]
    return _keyed({name: Path(name) for name in names if is_text(name)}), faults


def _list_scenes(source: Source) -> tuple[list[Entry], list[Fault]]:
    scenes, faults = find_scenes(source)
    scenes, inconsistent = consistent_scenes(scenes, _ANY_OFFSET)
    return _keyed({scene.name.partition("/")[2]: scene for scene in scenes}), faults + inconsistent


def _keyed(images: dict[str, Any]) -> list[Entry]:
    keys = unique_keys({name: str(Path(name).with_suffix("")) for name in images}, MAX_KEY_BYTES)
    return [Entry(keys[name], name, source) for name, source in images.items()]


def _groups(scene: Scene) -> tuple[Group, ...]:
    return groups_of(scene, (1,) * len(scene.layers), None)


def _group(of_scene: Group) -> Group:
    return replace(of_scene, shape=None)


def open_images(
    sources: Sequence[str], wanted: Sequence[str], window: int | None = None, options: Sequence[str] = ()
) -> Archive:
    """Open images for prediction, whole or in windows. `sources`: SENSOR=FOLDER, or FOLDER if one sensor is `wanted`.

    Windows of several sensors are paired by location and take the options of `geotiff`. Whole images have one sensor
    and only the option <sensor>_bands=…. ValueError for anything else.
    """
    named = [source if source.partition("=")[0] in SENSORS else _with_sensor(source, wanted) for source in sources]
    if window is not None:
        return open_archive("geotiff", named, [f"window={window}", *options])
    if len(named) > 1:
        raise ValueError(
            f"--images got {named} without --window, expected one folder: whole images are not paired. Give "
            "--window N to cut scenes of several sensors at the same locations, or build shards."
        )
    sensor, _, path = named[0].partition("=")
    bands: tuple[str, ...] = ()
    for option in options:
        key, _, text = option.partition("=")
        if key != f"{sensor}_bands":
            raise ValueError(
                f"--option got {option!r} for whole images, expected only {sensor}_bands=<names>. Omit it, or "
                "give --window N: windows have the options of the archive geotiff."
            )
        bands = tuple(filter(None, text.split(",")))
    if not Path(path).exists():
        raise ValueError(f"--images got {path}, which does not exist, expected a folder of images. Correct the path.")
    return Images(sensor, Path(path), bands)


def _with_sensor(source: str, wanted: Sequence[str]) -> str:
    if len(wanted) != 1:
        raise ValueError(
            f"--images got {source!r}, but the classifier takes the sensors {list(wanted)}; expected SENSOR=FOLDER. "
            f"Name the sensor, as in --images {wanted[-1]}={source}."
        )
    return f"{wanted[0]}={source}"
