"""Sensors: canonical band order, units, and fixed normalisations.

Bands are always addressed by name, never by position (docs/methods.md, Sensors and normalisation). On disk the bands of
a sensor form *groups*, one array per pixel grid, because Sentinel-2 has 10, 20 and 60 m bands and nothing is resampled
at build time.
"""

from dataclasses import dataclass

# Canonical order of all known bands. A group or a configuration may use any subset, in any order.
BAND_ORDER: dict[str, tuple[str, ...]] = {
    "s1": ("VV", "VH"),
    "s2": ("B01", "B02", "B03", "B04", "B05", "B06", "B07", "B08", "B8A", "B09", "B10", "B11", "B12"),
    "rgb": ("R", "G", "B"),
    # Maps of class codes per pixel: CORINE (BigEarthNet v2), MODIS land cover (SEN12MS), DFC2020.
    "map": ("clc", "igbp", "lccs_cover", "lccs_use", "lccs_hydrology", "dfc"),
}
ANY_SENSOR = "other"  # an unknown instrument; its band names are those of the archive
# Bands for previews: true colour, or VV and VH in dB.
PREVIEW_BANDS: dict[str, tuple[str, ...]] = {"s1": ("VV", "VH"), "s2": ("B04", "B03", "B02"), "rgb": ("R", "G", "B")}


@dataclass(frozen=True)
class Group:
    """The bands of one sensor on one pixel grid: one array [C H W] per sample, one `.npy` member in the shard."""

    name: str  # member name without ".npy": [a-z0-9_]+, no dots
    sensor: str  # key of BAND_ORDER, or ANY_SENSOR
    bands: tuple[str, ...]
    dtype: str  # numpy name of the archive's own dtype: "uint16", "float32", "uint8"
    shape: tuple[int, int] | None  # (height, width) in pixels, None if the images of the archive differ in size
    gsd_m: float | None  # ground sampling distance in metres, None if unknown or mixed
    units: str  # "dn" (reflectance x 10,000), "db" (sigma nought), "grey" (0..255), "class" (codes of a map)
    nodata: float | None = None  # value of missing pixels in the files of the archive

    def __post_init__(self) -> None:
        if self.sensor == ANY_SENSOR:
            return
        unknown = [band for band in self.bands if band not in BAND_ORDER.get(self.sensor, ())]
        if unknown:
            raise ValueError(
                f"Group {self.name!r} has unknown bands {unknown} for sensor {self.sensor!r}; known are "
                f"{BAND_ORDER.get(self.sensor, ())}. Use sensor {ANY_SENSOR!r}, or add them to rspretrain/sensors.py."
            )


@dataclass(frozen=True)
class Scaling:
    """Normalisation of one band: (clip(x, low, high) - mean) / std."""

    low: float
    high: float
    mean: float
    std: float


_INF = float("inf")


def standard(statistics: dict[str, tuple[float, float]]) -> dict[str, Scaling]:
    """Scalings from band -> (mean, std), without clipping."""
    return {band: Scaling(-_INF, _INF, mean, std) for band, (mean, std) in statistics.items()}


# BigEarthNet v1 statistics over the whole archive, S2 in DN and S1 in dB (docs/methods.md, Sensors and normalisation).
_BIGEARTHNET = {
    "B01": (340.76769064, 554.81258967),
    "B02": (429.9430203, 572.41639287),
    "B03": (614.21682446, 582.87945694),
    "B04": (590.23569706, 675.88746967),
    "B05": (950.68368468, 729.89827633),
    "B06": (1792.46290469, 1096.01480586),
    "B07": (2075.46795189, 1273.45393088),
    "B08": (2218.94553375, 1365.45589904),
    "B8A": (2266.46036911, 1356.13789355),
    "B09": (2246.0605464, 1302.3292881),
    "B11": (1594.42694882, 1079.19066363),
    "B12": (1009.32729131, 818.86747235),
    "VV": (-12.619993741972, 5.115911777546),
    "VH": (-19.290445977215, 5.464428464913),
}
_IMAGENET = {"R": (0.485, 0.229), "G": (0.456, 0.224), "B": (0.406, 0.225)}

# name -> band -> Scaling. `fixed` maps physical ranges to [0, 1]. `hsg` clips like `fixed` but does not divide: it
# divides by the maximum of each crop instead (docs/methods.md, Sensors and normalisation).
SCALINGS: dict[str, dict[str, Scaling]] = {
    "fixed": {
        **{band: Scaling(-25.0, 0.0, -25.0, 25.0) for band in BAND_ORDER["s1"]},
        **{band: Scaling(0.0, 1e4, 0.0, 1e4) for band in BAND_ORDER["s2"]},
        **{band: Scaling(-_INF, _INF, 0.0, 255.0) for band in BAND_ORDER["rgb"]},
    },
    "hsg": {
        **{band: Scaling(-25.0, 0.0, -25.0, 1.0) for band in BAND_ORDER["s1"]},
        **{band: Scaling(0.0, 1e4, 0.0, 1.0) for band in BAND_ORDER["s2"]},
    },
    "bigearthnet": standard(_BIGEARTHNET),
    "imagenet": standard({band: (255.0 * mean, 255.0 * std) for band, (mean, std) in _IMAGENET.items()}),
}


MEASURED = "measured"  # not a table: means and standard deviations of the shard set of the run


def scalings_for(name: str, bands: tuple[str, ...]) -> tuple[Scaling, ...]:
    """The scalings of `bands`, in that order. ValueError if `name` does not cover all of them."""
    if name not in SCALINGS:
        raise ValueError(f"Unknown normalisation {name!r}; known are {[*sorted(SCALINGS), MEASURED]}.")
    table = SCALINGS[name]
    missing = [band for band in bands if band not in table]
    if missing:
        raise ValueError(
            f"Normalisation {name!r} has no scaling for bands {missing}; it covers {sorted(table)}. "
            "Choose another (`fixed` covers every band) or leave these bands out."
        )
    return tuple(table[band] for band in bands)
