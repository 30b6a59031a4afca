"""Group the raster files below a folder into scenes: one file with many bands, or one file per band.

Only headers are read (0.65 ms per file). A scene is a list of layers, one per pixel grid, finest first.
"""

import fnmatch
import functools
import glob
import os
import re
from collections import Counter
from dataclasses import dataclass, fields
from datetime import datetime
from fractions import Fraction
from pathlib import Path

import numpy as np
import xxhash

from rspretrain.archives.base import display_name, is_text
from rspretrain.archives.safe import bands_only, product_root
from rspretrain.archives.tiling import Grid, ratio
from rspretrain.archives.windows import Profile, latitude, nominal_gsd_m, read_profile
from rspretrain.patch import Fault, PatchError
from rspretrain.sensors import BAND_ORDER

SUFFIXES = (".tif", ".tiff", ".vrt", ".jp2")
UNUSED = "-"  # in a list of band names: an unused band of the file
_COLOURS = {"RED": "R", "GREEN": "G", "BLUE": "B"}
_SEASONS = ("winter", "spring", "summer", "fall")  # three months each, from December on the northern hemisphere
# _B02, -B8A, .VV at the end of a stem, with or without a resolution after it (_B02_10m).
_TOKEN = re.compile(r"(?:(?P<prefix>.*?)[_\-. ])?(?P<band>[A-Za-z0-9]+)(?:[_\-]\d+m)?")
_DATE = re.compile(r"(?<!\d)(\d{4})-?(\d\d)-?(\d\d)(?:[T_](\d{1,2}):?(\d\d):?(\d\d))?(?!\d)")


@dataclass(frozen=True)
class Layer:
    """The bands of one scene on one pixel grid, and their files."""

    grid: Grid
    ratio: Fraction  # pixels of the finest layer per pixel of this layer
    bands: tuple[str, ...]
    # Path below the root of the source, and band numbers (from 1), in the order of `bands`.
    files: tuple[tuple[Path, tuple[int, ...]], ...]
    dtype: str
    nodata: float | None  # finite; NaN pixels are always missing
    gsd_m: float | None  # nominal
    masked: bool  # whether a file has a mask or an alpha band


@dataclass(frozen=True)
class Scene:
    """One acquisition of one sensor. `name` is sensor/path below the source; the date `when` comes from the name."""

    name: str
    sensor: str
    layers: tuple[Layer, ...]
    when: datetime | None
    season: str | None
    mask: tuple[Path, Grid] | None  # cloud mask; path below the root of the source

    def __repr__(self) -> str:
        """Name and a hash of the rest, because the checksum of a plan includes the repr of every window's scene."""
        return f"Scene({self.name!r}, {self._digest})"

    @functools.cached_property
    def _digest(self) -> str:
        return xxhash.xxh3_64_hexdigest(repr(tuple(vars(self)[each.name] for each in fields(self))).encode())

    @property
    def grid(self) -> Grid:
        """The grid of the finest layer."""
        return self.layers[0].grid


_Member = tuple[str, Profile, int]  # band, file, band number


@dataclass(frozen=True)
class Source:
    """The folder of the scenes of one sensor, and the options for reading them."""

    sensor: str
    path: Path  # a folder, or a pattern: folder/*_s2_*
    bands: tuple[str, ...] = ()  # names of the bands in a file, or a selection of named bands
    cloud_mask: str = ""  # file-name pattern
    nodata: float | None = None  # for files without a nodata tag

    @property
    def root(self) -> Path:
        """The folder to which names of scenes and files are relative."""
        return _split(self.path)[0]


def find_scenes(source: Source) -> tuple[list[Scene], list[Fault]]:
    """All scenes of one source by name, and the faults of unusable files and scenes. ValueError without a folder."""
    root, paths = _files(source.path)
    faults: list[Fault] = []
    profiles: list[Profile] = []
    for path in bands_only(paths, functools.partial(_is_mask, source)) if source.sensor == "s2" else paths:
        try:
            if not is_text(str(path)):
                raise PatchError("its name is not UTF-8; rename it")
            profiles.append(read_profile(path))
        except PatchError as error:
            faults.append(Fault(display_name(_label(source, root, path)), str(error)))
    parts = {part for profile in profiles for part in profile.parts}  # source files of a VRT are not scenes
    bands: list[Profile] = []
    masks: dict[Path, list[Profile]] = {}  # by folder
    for profile in profiles:
        if _is_mask(source, profile.path):
            masks.setdefault(product_root(profile.path), []).append(profile)
        elif profile.path not in parts:
            bands.append(profile)
    scenes: list[Scene] = []
    bundles = _bundles(source, root, bands, faults)
    scenes_in = Counter(product_root(members[0][1].path) for members in bundles.values())
    for name, members in bundles.items():
        folder = product_root(members[0][1].path)
        try:
            scenes.append(_scene(source, name, members, masks.get(folder, []), alone=scenes_in[folder] == 1))
        except PatchError as error:
            faults.append(Fault(name, str(error)))
    return scenes, faults


def _files(source: Path) -> tuple[Path, list[Path]]:
    """The root folder, and its raster files by path."""
    root, pattern = _split(source)
    if not root.is_dir():
        raise ValueError(f"{source} is not a folder, expected one with GeoTIFF, COG, VRT or JP2. Give its path.")
    found, seen = [], set()
    for folder, folders, names in os.walk(root, followlinks=True):
        real = os.path.realpath(folder)
        if real in seen:  # a link to a folder already visited, possibly a loop
            folders.clear()
            continue
        seen.add(real)
        folders[:] = sorted(name for name in folders if not name.startswith((".", "__MACOSX")))
        for name in names:
            path = Path(folder, name)
            visible = path.suffix.lower() in SUFFIXES and not name.startswith(".")
            if visible and fnmatch.fnmatchcase(path.relative_to(root).as_posix(), pattern):
                found.append(path)
    return root, sorted(found)


def _split(source: Path) -> tuple[Path, str]:
    """Root and pattern. An existing path is no pattern; else the pattern starts at the first part with a wildcard."""
    parts = source.parts
    signs = "" if source.exists() else "*?["
    wild = next((number for number, part in enumerate(parts) if any(sign in part for sign in signs)), len(parts))
    root = Path(os.path.abspath(Path(*parts[:wild])))
    return (root.parent, glob.escape(root.name)) if root.is_file() else (root, "/".join(parts[wild:]) or "*")


def _label(source: Source, root: Path, path: Path) -> str:
    """s2/<path below the root>; the root itself is called by its name."""
    return f"{source.sensor}/{root.name if path == root else path.relative_to(root).as_posix()}"


def _is_mask(source: Source, path: Path) -> bool:
    return bool(source.cloud_mask) and fnmatch.fnmatchcase(path.name.lower(), source.cloud_mask.lower())


def _bundles(source: Source, root: Path, profiles: list[Profile], faults: list[Fault]) -> dict[str, list[_Member]]:
    """Scene name -> (band, file, band number) in canonical order."""
    bundles: dict[str, dict[str, tuple[Profile, int]]] = {}
    tokens = [_token(source, profile) for profile in profiles]
    for profile, token in zip(profiles, tokens, strict=True):
        if token is not None:
            (prefix, band), folder = token, product_root(profile.path)
            scene = _label(source, root, folder if prefix == folder.name else folder / prefix)
            names: tuple[str, ...] = (band if not source.bands or band in source.bands else UNUSED,)
        else:
            scene = _label(source, root, profile.path)
            try:
                names = _names(source, profile, one_per_band=any(tokens))
            except PatchError as error:
                faults.append(Fault(scene, str(error)))
                continue
        bundle = bundles.setdefault(scene, {})
        for number, name in enumerate(names, 1):
            if name in bundle:
                reason = f"band {name} of {scene} is already in {bundle[name][0].path.name}; remove one of the files"
                faults.append(Fault(_label(source, root, profile.path), reason))
            elif name != UNUSED:
                bundle[name] = profile, number
    known = BAND_ORDER.get(source.sensor)
    return {
        scene: [(band, *bundle[band]) for band in (sorted(bundle, key=known.index) if known else bundle)]
        for scene, bundle in sorted(bundles.items())
        if bundle
    }


def _token(source: Source, profile: Profile) -> tuple[str, str] | None:
    """Prefix and band in the stem of a single-band file; None if it does not end with a known band."""
    stem = _TOKEN.fullmatch(profile.path.stem)
    if stem is None or profile.count > 1:
        return None
    band = band_name(source.sensor, stem["band"])
    return (stem["prefix"] or "", band) if band in (BAND_ORDER.get(source.sensor) or source.bands) else None


def band_name(sensor: str, text: str) -> str:
    """The canonical name of a band: B2 and b02 are B02, vv is VV, red is R. Unknown sensors keep their names."""
    if sensor not in BAND_ORDER:
        return text
    name = text.strip().upper()
    if sensor == "s2" and (match := re.fullmatch(r"B0?(\d{1,2})(A?)", name)):
        return f"B{match[1]}A" if match[2] else f"B{int(match[1]):02d}"
    return _COLOURS.get(name, name)


def _names(source: Source, profile: Profile, one_per_band: bool) -> tuple[str, ...]:
    """The name of every band of a file, from its descriptions or the option. PatchError if neither names them.

    Sentinel bands are never guessed from their position: B8A is last in EuroSAT, after B08 in SEN12MS. If the source
    has one file per band, the option does not name the bands of other files, which may be masks or previews.
    """
    known = BAND_ORDER.get(source.sensor)
    described = tuple(band_name(source.sensor, name) for name in profile.names)
    if len(set(described)) < len(described) or (known and not set(described) <= set(known)):
        described = ()
    if source.bands and set(source.bands) - {UNUSED} <= set(described):
        return tuple(name if name in source.bands else UNUSED for name in described)
    if len(source.bands) == profile.count and not one_per_band:
        return source.bands
    found = f"has {profile.count} band(s) ({', '.join(name or '?' for name in profile.names)})"
    if source.bands and not one_per_band:
        raise PatchError(f"{found}, expected the {len(source.bands)} of {source.sensor}_bands. Correct the option.")
    named = described if described and all(described) else ()
    if not named and known is None:
        named = tuple(f"b{number}" for number in range(1, profile.count + 1))
    if not named and (source.sensor, profile.count) == ("rgb", 3):
        named = BAND_ORDER["rgb"]
    if not named and one_per_band:
        raise PatchError(
            f"{found}, expected a file name that ends with a band of {source.sensor}, like the others. Rename it, or "
            f"exclude it with a pattern: --source {source.sensor}='<folder>/*{(known or source.bands)[0][:1]}*.tif'."
        )
    if not named:
        names = ",".join(known if known and profile.count == len(known) else [*(known or ())[: profile.count - 1], "…"])
        raise PatchError(
            f"{found}, expected names of {source.sensor} in its descriptions or at the end of its file name. Name "
            f"them: --option {source.sensor}_bands={names}, in the order of the file ({UNUSED} for an unused band)."
        )
    return named


def _scene(source: Source, name: str, members: list[_Member], masks: list[Profile], alone: bool) -> Scene:
    when = acquired(name)
    layers = _layers(source, members)
    season, grid = None, layers[0].grid
    if when is not None and grid.crs is not None:
        left, bottom, right, top = grid.extent
        south = latitude(grid.crs, (left + right) / 2, (bottom + top) / 2) < 0
        season = _SEASONS[(when.month + 6 * south) % 12 // 3]
    mask = _mask_of(name, masks, alone)
    mask_of = None if mask is None else (mask.path.relative_to(source.root), mask.grid)
    return Scene(name, source.sensor, layers, when, season, mask_of)


def _layers(source: Source, members: list[_Member]) -> tuple[Layer, ...]:
    """Bands by pixel grid, finest first. PatchError, naming the file, if grids are incompatible."""
    finest = min((profile for _, profile, _ in members), key=lambda profile: profile.grid.dx)
    by_ratio: dict[Fraction, list[_Member]] = {}
    for member in members:
        try:
            by_ratio.setdefault(ratio(finest.grid, member[1].grid), []).append(member)
        except ValueError as error:
            raise PatchError(f"{member[1].path.name}: {error} ({finest.path.name}). Warp the file first.") from None
    return tuple(_layer(source, key, by_ratio[key]) for key in sorted(by_ratio))


def _layer(source: Source, times: Fraction, members: list[_Member]) -> Layer:
    first = members[0][1]
    files: list[tuple[Path, tuple[int, ...]]] = []
    root = source.root
    for _, profile, number in members:
        for what, found, expected in (
            ("CRS", profile.grid.crs, first.grid.crs),
            ("size", (profile.grid.height, profile.grid.width), (first.grid.height, first.grid.width)),
            ("upper left corner", _corner(first, profile), (0, 0)),
            ("dtype", profile.dtype, first.dtype),
            ("nodata", _nodata(source, profile), _nodata(source, first)),
        ):
            if found != expected:
                raise PatchError(
                    f"{profile.path.name}: its {what} is {found}, expected {expected} as in {first.path.name}. "
                    "Nothing is resampled or converted: repair the file."
                )
        path = profile.path.relative_to(root)
        if files and files[-1][0] == path:
            files[-1] = path, (*files[-1][1], number)
        else:
            files.append((path, (number,)))
    if np.dtype(first.dtype).kind not in "uif":
        raise PatchError(f"{first.path.name}: {first.dtype} pixels, expected integers or floats. Convert them first.")
    return Layer(
        first.grid,
        times,
        tuple(band for band, _, _ in members),
        tuple(files),
        first.dtype,
        _nodata(source, first),
        nominal_gsd_m(source.sensor, first.grid),
        any(profile.masked for _, profile, _ in members),
    )


def _corner(first: Profile, profile: Profile) -> tuple[float, float]:
    """Offset of the upper left corner from that of `first`, in pixels, to two digits."""
    a, b = first.grid, profile.grid
    return round((b.left - a.left) / a.dx, 2) + 0.0, round((b.top - a.top) / a.dy, 2) + 0.0


def _nodata(source: Source, profile: Profile) -> float | None:
    """Nodata of the file, else of the option; None for NaN and for values that the dtype cannot hold."""
    number = source.nodata if profile.nodata is None else profile.nodata
    kind = np.dtype(profile.dtype)
    if number is None or not np.isfinite(number):
        return None
    if kind.kind in "ui" and not np.iinfo(kind).min <= number <= np.iinfo(kind).max:
        return None
    return number


def _mask_of(name: str, masks: list[Profile], alone: bool) -> Profile | None:
    """The cloud mask in the folder of a scene whose name starts with the scene's; any mask if the scene is `alone`."""
    stem = Path(name).stem.lower()
    own = [mask for mask in masks if re.match(re.escape(stem) + "([^a-z0-9]|$)", mask.path.stem.lower())]
    found = own or (masks if alone else [])
    if len(found) > 1:
        raise PatchError(f"has the cloud masks {[mask.path.name for mask in found]}, expected one. Narrow cloud_mask.")
    return found[0] if found else None


def acquired(name: str) -> datetime | None:
    """The first date (YYYYMMDD or YYYYMMDDThhmmss) in the last part of a scene's name that has one."""
    for part in reversed(name.split("/")):
        for match in _DATE.finditer(part):
            try:
                when = datetime(*(int(number) for number in match.groups("0")))  # type: ignore[arg-type]
            except ValueError:
                continue
            if 1970 <= when.year < 2100:
                return when
    return None
