"""The pictures of a sample: composites of three bands, single bands, and maps."""

import colorsys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from rspretrain.archives.corine import CLC43
from rspretrain.archives.dfc2020 import CODES as DFC_CODES
from rspretrain.archives.sen12ms import IGBP_CODES
from rspretrain.sensors import ANY_SENSOR, Group

Images = Mapping[str, NDArray[Any]]  # group -> [C H W]
Colour = tuple[float, float, float]  # red, green, blue in [0, 1]

# Three bands as red, green, blue. False colour shows vegetation in red, because it reflects near infrared most.
COMPOSITES: tuple[tuple[str, tuple[str, str, str]], ...] = (
    ("true colour", ("R", "G", "B")),
    ("true colour", ("B04", "B03", "B02")),
    ("false colour, near infrared", ("B08", "B04", "B03")),
)
_COLOUR_NAMES = ("red", "green", "blue")
# The legend of Copernicus' CORINE Land Cover, in the order of CLC43.
_CLC_COLOURS = [
    "e6004d",
    "ff0000",
    "cc4df2",
    "cc0000",
    "e6cccc",
    "e6cce6",
    "a600cc",
    "a64d00",
    "ff4dff",
    "ffa6ff",
    "ffe6ff",
    "ffffa8",
    "ffff00",
    "e6e600",
    "e68000",
    "f2a64d",
    "e6a600",
    "e6e64d",
    "ffe6a6",
    "ffe64d",
    "e6cc4d",
    "f2cca6",
    "80ff00",
    "00a600",
    "4dff00",
    "ccf24d",
    "a6ff80",
    "a6e64d",
    "a6f200",
    "e6e6e6",
    "cccccc",
    "ccffcc",
    "000000",
    "a6a6ff",
    "4d4dff",
    "ccccff",
    "e6e6ff",
    "a6a6e6",
    "00ccf2",
    "80f2e6",
    "00ffa6",
    "a6ffe6",
    "e6f2ff",
]
# Classes of IGBP and DFC2020 by the start of their names, in the colours of lukasliebel/dfc2020_baseline.
_LAND_COLOURS = {
    "Forest": "009900", "Shrub": "c6b044", "Savanna": "fbff13", "Grass": "b6ff05", "Wetlands": "27ff87",
    "Crop": "c24f44", "Urban": "a5a5a5", "Snow": "69fff8", "Barren": "f9ffa4", "Water": "1c0dff",
}  # fmt: skip
_NOTHING = (0.93, 0.93, 0.93)  # no data, no class
_GOLDEN = 0.618034  # step on the circle of hues that separates consecutive codes
# Band of a map -> code -> name. DFC2020 counts savanna, snow and 0 as invalid, so its labels do not include them.
CODE_NAMES: dict[str, dict[int, str]] = {
    "clc": CLC43 | {999: "unlabelled"},
    "igbp": {code: name for name, codes in IGBP_CODES.items() for code in codes} | {0: "no class", 255: "fill"},
    "dfc": {code: name for name, code in DFC_CODES.items()} | {0: "invalid", 3: "Savanna", 8: "Snow and ice"},
}


@dataclass(frozen=True)
class Picture:
    """One picture of a sample."""

    title: str  # "true colour"
    bands: tuple[str, ...]  # the bands shown
    pixels: NDArray[Any]  # [H W 3] in [0, 1], or [H W] of one band in its units
    group: Group


def pictures_of(groups: Sequence[Group], images: Images) -> list[Picture]:
    """All pictures of a sample: composites first, then single bands, then maps."""
    shown = [picture for group in groups for picture in _group_pictures(group, images[group.name])]
    known = {picture.group.sensor for picture in shown}
    for group in groups:  # sensors without a composite are shown by their own bands
        if group.sensor not in known or group.sensor == ANY_SENSOR:
            shown += _fallback_pictures(group, images[group.name])
    return sorted(shown, key=lambda picture: (picture.pixels.ndim == 2, picture.group.units == "class"))


def _group_pictures(group: Group, image: NDArray[Any]) -> list[Picture]:
    """Composites, backscatter or classes of one group."""
    if group.units == "class":
        return [Picture("classes", (name,), band, group) for name, band in zip(group.bands, image, strict=True)]
    if group.sensor == "s1":
        return [Picture("backscatter", (name,), band, group) for name, band in zip(group.bands, image, strict=True)]
    if group.sensor == ANY_SENSOR:
        return []
    return [
        Picture(title, names, composite(select_bands(group, image, names), group), group)
        for title, names in COMPOSITES
        if set(names) <= set(group.bands)
    ]


def _fallback_pictures(group: Group, image: NDArray[Any]) -> list[Picture]:
    """Bands named red, green and blue, else the first three; fewer than three bands one by one."""
    if group.units == "class":
        return []
    if len(group.bands) < 3:
        return [Picture(group.name, (name,), band, group) for name, band in zip(group.bands, image, strict=True)]
    by_name = {name.lower(): name for name in group.bands}
    named = all(colour in by_name for colour in _COLOUR_NAMES)
    names = tuple(by_name[colour] for colour in _COLOUR_NAMES) if named else group.bands[:3]
    title = "true colour" if named else f"{group.name}, first bands"
    return [Picture(title, names, composite(select_bands(group, image, names), group), group)]


def select_bands(group: Group, image: NDArray[Any], names: Sequence[str]) -> NDArray[Any]:
    """Select bands [C H W] by name, in the given order."""
    bands: NDArray[Any] = image[[group.bands.index(name) for name in names]]
    return bands


def composite(bands: NDArray[Any], group: Group) -> NDArray[np.float32]:
    """Three bands [3 H W] as a picture [H W 3] in [0, 1]: percentiles 2 to 98 per band; grey levels from 0 to 255."""
    picture = np.moveaxis(bands, 0, -1).astype(np.float32)
    if group.units == "grey":
        return picture / 255.0
    low, high = np.array([limits(band, group.nodata) for band in bands], dtype=np.float32).T
    stretched: NDArray[np.float32] = np.clip((picture - low) / np.maximum(high - low, 1e-6), 0, 1)
    return stretched


def limits(band: NDArray[Any], nodata: float | None) -> tuple[float, float]:
    """Percentiles 2 and 98 of the valid pixels; (0, 1) if there are none."""
    valid = band if nodata is None else band[band != nodata]
    if not valid.size:
        return 0.0, 1.0
    low, high = np.percentile(valid, (2, 98))
    return float(low), float(high)


def code_name(band: str, code: int) -> str:
    """A code of a map with its name: "312 Coniferous forest"; the code alone if its name is unknown."""
    return f"{code} {CODE_NAMES.get(band, {}).get(code, '')}".rstrip()


def code_colour(band: str, code: int, nodata: float | None = None) -> Colour:
    """The colour of a code of a map, the same in all pictures: from its legend, else a hue per code."""
    name = CODE_NAMES.get(band, {}).get(code)
    if code == nodata or name in ("unlabelled", "no class", "fill", "invalid"):
        return _NOTHING
    if band == "clc" and code in CLC43:
        return _rgb(_CLC_COLOURS[list(CLC43).index(code)])
    land = next((colour for start, colour in _LAND_COLOURS.items() if name and name.startswith(start)), None)
    return _rgb(land) if land else colorsys.hsv_to_rgb(code * _GOLDEN % 1, 0.45 + 0.2 * (code % 3), 0.9)


def colour_codes(codes: NDArray[Any], band: str, nodata: float | None) -> NDArray[np.float32]:
    """A map [H W] of codes as a picture [H W 3] in [0, 1]."""
    values, indices = np.unique(codes, return_inverse=True)
    colours = np.array([code_colour(band, int(value), nodata) for value in values], dtype=np.float32)
    picture: NDArray[np.float32] = colours[indices.reshape(codes.shape)]
    return picture


def code_shares(codes: NDArray[Any]) -> list[tuple[int, float]]:
    """(code, share of the pixels) of a map, the most frequent first."""
    values, counts = np.unique(codes, return_counts=True)
    order = np.argsort(-counts, kind="stable")
    return [(int(values[i]), float(counts[i] / codes.size)) for i in order]


def _rgb(text: str) -> Colour:
    red, green, blue = (int(text[i : i + 2], 16) / 255 for i in (0, 2, 4))
    return red, green, blue
