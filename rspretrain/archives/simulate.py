"""Simulated Sentinel-2 and Sentinel-1 images of land cover maps. The sensors share nothing but the map.

A patch is a map of CORINE classes with regions, parcels, rows, houses and clumps. A Sentinel-2 pixel is a mix of a
vegetation and a ground spectrum, with season, illumination and haze per scene. A Sentinel-1 pixel is backscatter in
decibels, with incidence angle, soil moisture and speckle. Pastures and natural grassland, lakes and the sea, and the
three forests have similar mean colours: texture and backscatter distinguish them, as on Earth. This is a synthetic
landscape without radiative transfer; results on it must say so.
"""

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.floating[Any]]

SIZE = 120  # pixels of 10 m
S2_BANDS = ("B01", "B02", "B03", "B04", "B05", "B06", "B07", "B08", "B8A", "B09", "B11", "B12")
GSD_M = dict(zip(S2_BANDS, (60, 10, 10, 10, 20, 20, 20, 10, 20, 60, 20, 20), strict=True))
MIN_SHARE = 0.05  # smallest share of a patch for a class to be one of its labels
LOOKS = 4.4  # equivalent number of looks of Sentinel-1 IW GRD

# Reflectance x 10,000 in the order of S2_BANDS.
SPECTRA = {
    "crop": (250, 350, 700, 400, 1100, 3200, 4100, 4400, 4500, 4400, 2000, 1000),
    "grass": (250, 350, 740, 450, 1200, 3000, 3700, 3900, 4100, 4000, 2200, 1200),
    "broadleaf": (190, 260, 520, 290, 850, 2600, 3300, 3500, 3700, 3700, 1750, 800),
    "conifer": (150, 200, 390, 240, 620, 1700, 2150, 2300, 2450, 2450, 1050, 460),
    "shrub": (220, 300, 560, 400, 920, 2200, 2700, 2900, 3100, 3050, 1900, 1000),
    "moss": (240, 320, 560, 500, 950, 1900, 2250, 2450, 2650, 2600, 1850, 1050),
    "soil": (600, 850, 1200, 1550, 1800, 1950, 2100, 2250, 2350, 2350, 3000, 2600),
    "litter": (350, 450, 650, 800, 1050, 1350, 1550, 1700, 1850, 1850, 2200, 1500),
    "gravel": (700, 950, 1300, 1550, 1700, 1850, 2000, 2100, 2200, 2200, 2700, 2350),
    "asphalt": (750, 950, 1150, 1300, 1420, 1520, 1620, 1720, 1780, 1780, 1950, 1780),
    "roof": (1000, 1300, 1550, 1750, 1850, 1950, 2050, 2150, 2200, 2200, 2300, 2050),
    "peat": (250, 320, 430, 480, 600, 800, 950, 1050, 1150, 1150, 1000, 600),
    "water": (420, 400, 360, 230, 190, 140, 130, 120, 110, 100, 60, 40),
}


@dataclass(frozen=True)
class Cover:
    """A kind of land cover. `vigour`: vegetation share in winter and summer. Dicts hold weights of TEXTURES by name."""

    green: str
    ground: str
    vigour: tuple[float, float]
    backscatter_db: tuple[float, float]  # VV, VH
    vigour_by: dict[str, float]
    brightness_by: dict[str, float]  # natural logarithm
    backscatter_by: dict[str, float]  # dB


TEXTURES = ("fine", "clumps", "rows", "parcels", "plots", "houses", "halls", "waves")  # each of mean 0, deviation 1
# Backscatter: VV is far above VH for surfaces and close to it for volumes (canopies), for any gain of the scene.
COVERS = {
    "houses": Cover("grass", "asphalt", (0.3, 0.5), (-6.5, -14.5), {"houses": -0.3}, {"houses": 0.3}, {"houses": 3.5}),
    "halls": Cover("grass", "roof", (0.1, 0.2), (-4.0, -13.0), {"halls": -0.1}, {"halls": 0.3}, {"halls": 4.0}),
    "crop": Cover("crop", "soil", (0.3, 0.6), (-12.3, -20.3), {"parcels": 0.3}, {"parcels": 0.12}, {"parcels": 2.0}),
    "vine": Cover("shrub", "soil", (0.25, 0.55), (-10.2, -17.0), {"rows": 0.25}, {"rows": 0.15}, {"rows": 2.0}),
    "pasture": Cover(
        "grass", "soil", (0.6, 0.8), (-13.0, -19.2), {"parcels": 0.1}, {"parcels": 0.05}, {"parcels": 0.6}
    ),
    "broadleaf": Cover("broadleaf", "litter", (0.3, 0.95), (-8.4, -13.5), {}, {"fine": 0.25}, {"fine": 0.8}),
    "conifer": Cover("conifer", "litter", (0.85, 0.9), (-9.8, -16.2), {}, {"fine": 0.12}, {"fine": 0.5}),
    "grassland": Cover(
        "grass", "gravel", (0.4, 0.7), (-12.0, -21.0), {"clumps": 0.25}, {"fine": 0.05}, {"clumps": 1.6}
    ),
    "shrub": Cover("shrub", "litter", (0.4, 0.7), (-10.0, -16.0), {"fine": 0.2}, {"fine": 0.15}, {"fine": 1.4}),
    "bog": Cover("moss", "peat", (0.5, 0.7), (-13.0, -17.8), {"clumps": 0.3}, {}, {"clumps": -2.2}),
    "lake": Cover("water", "water", (0.0, 0.0), (-20.0, -27.0), {}, {}, {}),
    "sea": Cover("water", "water", (0.0, 0.0), (-16.5, -25.5), {}, {"waves": 0.2}, {"waves": 2.0}),
}
# 43-class name -> its covers, and the texture that distributes them over its pixels.
CLASSES: dict[str, tuple[tuple[str, ...], str]] = {
    "Discontinuous urban fabric": (("houses",), ""),
    "Industrial or commercial units": (("halls",), ""),
    "Non-irrigated arable land": (("crop",), ""),
    "Vineyards": (("vine",), ""),
    "Pastures": (("pasture",), ""),
    "Complex cultivation patterns": (("crop", "vine", "pasture", "houses"), "plots"),
    "Broad-leaved forest": (("broadleaf",), ""),
    "Coniferous forest": (("conifer",), ""),
    "Mixed forest": (("broadleaf", "conifer"), "clumps"),
    "Natural grassland": (("grassland",), ""),
    "Transitional woodland/shrub": (("shrub", "grassland", "broadleaf"), "clumps"),
    "Peatbogs": (("bog",), ""),
    "Water bodies": (("lake",), ""),
    "Sea and ocean": (("sea",), ""),
}
# Landscape -> weights of the classes that occur together.
LANDSCAPES: dict[str, dict[str, float]] = {
    "town": {
        "Discontinuous urban fabric": 3, "Industrial or commercial units": 2, "Non-irrigated arable land": 1,
        "Pastures": 1, "Water bodies": 1, "Broad-leaved forest": 1,
    },
    "fields": {
        "Non-irrigated arable land": 3, "Complex cultivation patterns": 2, "Vineyards": 2, "Pastures": 2,
        "Broad-leaved forest": 1, "Discontinuous urban fabric": 1,
    },
    "taiga": {
        "Coniferous forest": 3, "Mixed forest": 2, "Transitional woodland/shrub": 2, "Peatbogs": 2, "Water bodies": 2,
    },
    "hills": {
        "Broad-leaved forest": 2, "Mixed forest": 2, "Natural grassland": 2, "Transitional woodland/shrub": 1,
        "Pastures": 2, "Coniferous forest": 1,
    },
    "coast": {
        "Sea and ocean": 3, "Natural grassland": 2, "Industrial or commercial units": 1, "Peatbogs": 1,
        "Discontinuous urban fabric": 1, "Vineyards": 1, "Pastures": 1,
    },
}  # fmt: skip


@dataclass(frozen=True)
class Sky:
    """Conditions of one Sentinel-2 scene: season, gain per band, haze. Independent of Sentinel-1."""

    summer: float  # 0 in midwinter, 1 in midsummer
    gain: Floats  # [12]
    haze: float  # DN added to the bluest band


@dataclass(frozen=True)
class Radar:
    """Conditions of one Sentinel-1 scene, in dB: incidence angle, soil moisture, wind on water."""

    incidence_db: float
    moisture_db: float
    wind_db: float


def draw_sky(rng: np.random.Generator, day: int) -> Sky:
    """Random conditions of one Sentinel-2 scene on a day of the year (1 to 366)."""
    summer = 0.5 - 0.5 * np.cos(2 * np.pi * (day - 15) / 365.25)
    gain = np.exp(rng.normal(0, 0.15) + rng.normal(0, 0.05, len(S2_BANDS)))
    return Sky(float(summer), gain.astype(np.float32), float(rng.gamma(1.5, 160.0)))


def draw_radar(rng: np.random.Generator) -> Radar:
    """Random conditions of one Sentinel-1 scene."""
    return Radar(float(rng.normal(0, 1.0)), float(rng.normal(0, 0.8)), float(rng.normal(0, 2.0)))


def draw_land(rng: np.random.Generator, landscape: str) -> tuple[NDArray[np.intp], list[str]]:
    """A random map [120 120] of class numbers (positions in CLASSES), and the classes that cover 5 % or more."""
    weights = LANDSCAPES[landscape]
    share = np.array(list(weights.values())) / sum(weights.values())
    count = rng.choice([1, 2, 3, 4], p=[0.2, 0.35, 0.3, 0.15])
    chosen = rng.choice(len(weights), size=count, replace=False, p=share)
    heights = [_smooth(rng, 14.0) + rng.normal(0, 0.35) for _ in chosen]
    names = list(CLASSES)
    numbers = np.array([names.index(list(weights)[index]) for index in chosen])
    land = numbers[np.argmax(heights, axis=0)]
    shares = np.bincount(land.ravel(), minlength=len(names)) / land.size
    return land, [name for name, part in zip(names, shares, strict=True) if part >= MIN_SHARE]


def draw_textures(rng: np.random.Generator) -> dict[str, Floats]:
    """All TEXTURES as random fields [120 120] with mean 0 and standard deviation 1."""
    y, x = np.mgrid[:SIZE, :SIZE].astype(np.float32)
    angle, slope = rng.uniform(0, np.pi, 2)
    along = x * np.cos(angle) + y * np.sin(angle)
    swell = x * np.cos(slope) + y * np.sin(slope)
    fields = (
        rng.standard_normal((SIZE, SIZE), np.float32),
        _smooth(rng, 2.0),
        np.sin(2 * np.pi * along / rng.uniform(3.0, 4.5)),
        _cells(rng, angle, 22.0),
        _cells(rng, angle, 9.0),
        np.kron(rng.random((SIZE // 2, SIZE // 2)) < 0.3, np.ones((2, 2))),
        np.kron(rng.random((SIZE // 6, SIZE // 6)) < 0.4, np.ones((6, 6))),
        np.sin(2 * np.pi * swell / rng.uniform(7.0, 12.0) + _smooth(rng, 8.0)),
    )
    standard = (((field - field.mean()) / (field.std() + 1e-6)).astype(np.float32) for field in fields)
    return dict(zip(TEXTURES, standard, strict=True))


def cover_of(land: NDArray[np.intp], textures: dict[str, Floats]) -> NDArray[np.intp]:
    """The cover of every pixel of a class map: positions in COVERS, [120 120]."""
    covers = list(COVERS)
    cover = np.zeros_like(land)
    for number, (parts, texture) in enumerate(CLASSES.values()):
        inside = land == number
        if not inside.any():
            continue
        turn = np.digitize(textures[texture][inside], _NORMAL_CUTS[len(parts)]) if texture else 0
        cover[inside] = np.array([covers.index(part) for part in parts])[turn]
    return cover


def render_s2(
    rng: np.random.Generator, cover: NDArray[np.intp], textures: dict[str, Floats], sky: Sky
) -> dict[str, NDArray[np.uint16]]:
    """Band name -> [1 H W] digital numbers at the resolution of the band, derived from one image at 10 m."""
    vigour = _VIGOUR[0] * (1 - sky.summer) + _VIGOUR[1] * sky.summer
    green = vigour[cover] + _weighted(_VIGOUR_BY, cover, textures) + rng.normal(0, 0.1) * (vigour[cover] > 0)
    green = np.clip(green, 0.0, 1.0)[..., None]
    light = np.exp(_weighted(_BRIGHTNESS_BY, cover, textures) + 0.1 * _smooth(rng, 20.0) + rng.normal(0, 0.2))
    gain = sky.gain * _REDNESS ** rng.normal(0, 0.15)  # sun height, dust and aerosol tilt the spectrum
    truth = (_GREEN[cover] * green + _GROUND[cover] * (1 - green)) * light[..., None] * gain  # [120 120 12]
    haze = sky.haze * np.exp(rng.normal(0, 0.4) + 0.3 * _smooth(rng, 20.0))
    truth = _blur(truth) + haze[..., None] * _HAZE
    bands = {}
    for index, (band, gsd_m) in enumerate(GSD_M.items()):
        step = gsd_m // 10
        image = truth[..., index].reshape(SIZE // step, step, SIZE // step, step).mean((1, 3))
        image += (12.0 + 0.01 * image) * rng.standard_normal(image.shape, np.float32)  # read-out and gain noise
        bands[band] = np.clip(np.rint(image), 1, 65535).astype(np.uint16)[None]
    return bands


def render_s1(
    rng: np.random.Generator, cover: NDArray[np.intp], textures: dict[str, Floats], radar: Radar
) -> dict[str, NDArray[np.float32]]:
    """Polarisation -> [1 120 120] sigma nought in dB with speckle."""
    water = cover >= list(COVERS).index("lake")
    moisture = radar.moisture_db + rng.normal(0, 0.6) + 0.5 * _smooth(rng, 15.0)
    weather = np.where(water, radar.wind_db, moisture) + radar.incidence_db * np.where(water, 1.5, 1.0)
    truth = _BACKSCATTER[cover] + (_weighted(_BACKSCATTER_BY, cover, textures) + weather)[..., None]
    power = _blur(10.0 ** (truth / 10.0)) * rng.gamma(LOOKS, 1.0 / LOOKS, truth.shape)
    decibel = (10.0 * np.log10(power)).astype(np.float32)
    return {"VV": decibel[None, ..., 0], "VH": decibel[None, ..., 1]}


def _smooth(rng: np.random.Generator, length: float) -> Floats:
    """A Gaussian field [120 120], mean 0, deviation 1, with a correlation length in pixels; not periodic."""
    side = SIZE + 40
    frequency = np.hypot(np.fft.fftfreq(side)[:, None], np.fft.rfftfreq(side)[None])
    spectrum = np.fft.rfft2(rng.standard_normal((side, side), np.float32)) * np.exp(
        -2.0 * (np.pi * frequency * length / 2) ** 2
    )
    field = np.fft.irfft2(spectrum, s=(side, side))[:SIZE, :SIZE]
    standard: Floats = ((field - field.mean()) / field.std()).astype(np.float32)
    return standard


def _cells(rng: np.random.Generator, angle: float, side: float) -> Floats:
    """Parcels [120 120]: one random number per cell of a skewed lattice."""
    y, x = np.mgrid[:SIZE, :SIZE].astype(np.float32)
    u = (x * np.cos(angle) + y * np.sin(angle)) / (side * rng.uniform(0.7, 1.4)) + 64
    row = u.astype(int)
    shift = rng.uniform(size=128)[row]  # shift the rows, so that parcels do not form a regular grid
    v = (y * np.cos(angle) - x * np.sin(angle)) / (side * rng.uniform(0.7, 1.4)) + shift + 64
    values: Floats = rng.normal(size=(128, 128)).astype(np.float32)
    cells: Floats = values[row, v.astype(int)]
    return cells


def _blur(image: Floats) -> Floats:
    """The point spread of the sensor: [1 2 1] / 4 along both axes, which mixes pixels at borders.

    [H W C] -> [H W C].
    """
    padded = np.pad(image, ((1, 1), (1, 1), (0, 0)), mode="edge")
    rows = padded[:-2] + 2 * padded[1:-1] + padded[2:]
    return np.asarray((rows[:, :-2] + 2 * rows[:, 1:-1] + rows[:, 2:]) / 16, dtype=np.float32)


def _weighted(weights: Floats, cover: NDArray[np.intp], textures: dict[str, Floats]) -> Floats:
    """Weighted sum of textures, with weights by cover. [12 8], [H W] -> [H W]."""
    used = [index for index in range(len(TEXTURES)) if weights[:, index].any()]
    parts = [weights[cover, index] * textures[TEXTURES[index]] for index in used]
    return np.asarray(np.sum(parts, axis=0), dtype=np.float32)


def _table(weights: list[dict[str, float]]) -> Floats:
    return np.array([[row.get(texture, 0.0) for texture in TEXTURES] for row in weights], dtype=np.float32)


# Quantiles that divide a normal texture into equal shares.
_NORMAL_CUTS = {2: [0.0], 3: [-0.43, 0.43], 4: [-0.67, 0.0, 0.67]}
_WAVELENGTH_NM = np.array([443, 490, 560, 665, 705, 740, 783, 842, 865, 945, 1610, 2190])
_HAZE = ((_WAVELENGTH_NM / 443.0) ** -1.5).astype(np.float32)
_REDNESS = (_WAVELENGTH_NM / 842.0).astype(np.float32)
_GREEN = np.array([SPECTRA[cover.green] for cover in COVERS.values()], dtype=np.float32)
_GROUND = np.array([SPECTRA[cover.ground] for cover in COVERS.values()], dtype=np.float32)
_VIGOUR = np.array([cover.vigour for cover in COVERS.values()], dtype=np.float32).T
_BACKSCATTER = np.array([cover.backscatter_db for cover in COVERS.values()], dtype=np.float32)
_VIGOUR_BY = _table([cover.vigour_by for cover in COVERS.values()])
_BRIGHTNESS_BY = _table([cover.brightness_by for cover in COVERS.values()])
_BACKSCATTER_BY = _table([cover.backscatter_by for cover in COVERS.values()])
