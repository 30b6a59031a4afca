"""Check that the scenes of a sensor have the same bands and grids, and derive the groups of the archive."""

import math
from collections import Counter
from collections.abc import Sequence
from fractions import Fraction
from pathlib import PurePosixPath

import numpy as np

from rspretrain.archives.base import unique_keys
from rspretrain.archives.scene_files import SUFFIXES, Layer, Scene
from rspretrain.archives.tiling import Grid, ratio
from rspretrain.patch import Fault
from rspretrain.sensors import Group

_ID_BYTES = 60  # with "_<row>_<col>.<group>.npy" below the 100 bytes of a tar name


def consistent_scenes(scenes: Sequence[Scene], max_offset: float) -> tuple[list[Scene], list[Fault]]:
    """The scenes with aligned grids and the most common structure. For all others, a fault names the difference."""
    faults: list[Fault] = []
    whole: list[Scene] = []
    for scene in scenes:
        if reason := _misalignment(scene, max_offset):
            faults.append(Fault(scene.name, reason))
        else:
            whole.append(scene)
    if not whole:
        return [], faults
    most_common, _ = Counter(map(_structure, whole)).most_common(1)[0]  # on a tie, the first by name
    reference = next(scene for scene in whole if _structure(scene) == most_common)
    for scene in whole:
        if _structure(scene) != most_common:
            faults.append(Fault(scene.name, _difference(scene, reference)))
    return [scene for scene in whole if _structure(scene) == most_common], faults


def _structure(scene: Scene) -> tuple[object, ...]:
    return tuple((each.bands, each.dtype, each.nodata, each.gsd_m, each.ratio) for each in scene.layers)


def _difference(scene: Scene, reference: Scene) -> str:
    """The difference of `scene` from a scene of the most common structure."""
    bands, expected = ({band for layer in each.layers for band in layer.bands} for each in (scene, reference))
    if bands != expected:
        lacks = f"lacks the bands {sorted(expected - bands)}" if expected - bands else ""
        more = f"has the bands {sorted(bands - expected)}" if bands - expected else ""
        return (
            f"{' and '.join(filter(None, (lacks, more)))}, unlike most ({reference.name}). Complete it, or select "
            f"bands that all scenes have: --option {scene.sensor}_bands=…"
        )
    found, wanted = (
        ", ".join(f"{' '.join(each.bands)}: {each.dtype}, {each.gsd_m} m, nodata {each.nodata}" for each in one.layers)
        for one in (scene, reference)
    )
    return f"differs from most scenes: {found}; expected {wanted} ({reference.name}). Convert it, or exclude it."


def _misalignment(scene: Scene, max_offset: float) -> str | None:
    """An error if the edges of a layer are more than `max_offset` of its pixels off those of the finest layer."""
    fine, worst = scene.grid, (0.0, "")
    for layer in scene.layers[1:]:
        step = (layer.grid.dx, layer.grid.dy, layer.grid.dx, layer.grid.dy)
        edges = zip(layer.grid.extent, fine.extent, step, strict=True)
        worst = max(worst, (max(abs((own - other) / pixel) for own, other, pixel in edges), layer.files[0][0].name))
    off, file = worst
    if off <= max_offset:
        return None
    return (
        f"{file}: the edges of its grid are up to {off:.2f} of its pixels off those of "
        f"{scene.layers[0].files[0][0].name}, expected at most {max_offset:g}. Accept it with --option "
        f"max_offset={math.ceil(off * 100) / 100:g} (nothing is resampled), or warp the file."
    )


def ratios_to(base: Scene, scenes: Sequence[Scene]) -> tuple[Fraction, ...]:
    """Pixels of `base` per pixel of every layer of a sensor. ValueError if they are not integers."""
    scene = next((each for each in scenes if each.grid.crs == base.grid.crs), scenes[0])
    grids = [layer.grid for layer in scene.layers]
    fine = base.grid
    if scene.grid.crs != fine.crs:  # compare metres; its windows have no partner, and its fault says why
        if base.layers[0].gsd_m is None or scene.layers[0].gsd_m is None:
            return tuple(layer.ratio for layer in scene.layers)
        fine, *grids = (_square(layer) for layer in (base.layers[0], *scene.layers))
    try:
        return tuple(ratio(fine, grid) for grid in grids)
    except ValueError as error:
        raise ValueError(f"{scene.name} has {error} of {base.name}. Warp one of the two first.") from None


def _square(layer: Layer) -> Grid:
    side = layer.gsd_m or 0.0
    return Grid(None, 0.0, 0.0, side, -side, 1, 1)


def groups_of(scene: Scene, sizes: tuple[int, ...], fill: float | None) -> tuple[Group, ...]:
    """One group per layer: s2_10m, s1_10m, rgb_30cm; without a pixel size in metres, the name of the sensor."""
    groups = []
    for layer, size in zip(scene.layers, sizes, strict=True):
        floating = np.dtype(layer.dtype).kind == "f"
        units = {("s1", floating): "db", ("rgb", layer.dtype == "uint8"): "grey"}.get((scene.sensor, True), "dn")
        nodata = fill if floating and fill is not None else layer.nodata
        name = scene.sensor + _suffix(layer)
        groups.append(Group(name, scene.sensor, layer.bands, layer.dtype, (size, size), layer.gsd_m, units, nodata))
    return tuple(groups)


def _suffix(layer: Layer) -> str:
    if layer.gsd_m is None:
        return ""
    whole = layer.gsd_m >= 1 and layer.gsd_m == round(layer.gsd_m)
    return f"_{layer.gsd_m:.0f}m" if whole else f"_{100 * layer.gsd_m:.0f}cm"


def scene_ids(scenes: Sequence[Scene]) -> dict[str, str]:
    """Scene name -> prefix of its keys: its path, with a hash if it is too long or not unique."""
    paths = {}
    for scene in scenes:
        path = PurePosixPath(scene.name.partition("/")[2])
        paths[scene.name] = str(path.with_suffix("") if path.suffix.lower() in SUFFIXES else path)
    return unique_keys(paths, _ID_BYTES)
