"""SEN12MS: 180,662 triplets of Sentinel-1, Sentinel-2 (L1C) and MODIS land cover, 2.56 km, four seasons.

Schmitt et al. 2019; docs/methods.md, SEN12MS. Patches of a scene overlap by half, so splits go by scene. Scene numbers
repeat across seasons.
"""

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Literal, final

import numpy as np

from rspretrain.archives.base import Nomenclature
from rspretrain.archives.raster import Raster
from rspretrain.archives.rois import SEN12MS_FILE, Kind, Rois, Source, image_kinds
from rspretrain.patch import type_of_attribute

# splits/SEN12MS_holdOutScenes.txt of schmitt-muc/SEN12MS: 18,106 patches.
HOLD_OUT = {
    "spring": {15, 17, 63, 97, 124, 146},
    "summer": {15, 19, 43, 72, 79, 104, 131},
    "fall": {30, 35, 39, 47, 61, 120, 141, 144},
    "winter": {32, 64, 107, 135, 146},
}
DAMAGED = {
    "ROIs1868_summer_146_p202": "is known as damaged: the archive's ROIs1868_summer_s1_146_p202.tif has NaN pixels, "
    "and the official lists leave the patch out"
}
# Simplified IGBP class -> MODIS codes. 0 (no class) and 255 (fill) have no class.
IGBP_CODES = {
    "Forest": (1, 2, 3, 4, 5),
    "Shrubland": (6, 7),
    "Savanna": (8, 9),
    "Grassland": (10,),
    "Wetlands": (11,),
    "Croplands": (12, 14),
    "Urban/Built-up": (13,),
    "Snow/Ice": (15,),
    "Barren": (16,),
    "Water": (17,),
}
MULTI_THRESHOLD = 0.1  # of all pixels of a patch


@final
class Sen12Ms(Rois):
    """Patches of 256 x 256 px at 10 m; scenes of the official hold-out are `test`, the others `train`.

    `root` is the folder above the seasons, or one season. `sensors` selects the required and stored sensors. `labels`
    reads the land cover for the nomenclatures `igbp` (largest fraction) and `igbp_multi` (10 % or more); `maps` also
    stores its four bands.
    """

    def __init__(
        self,
        root: Path,
        sensors: tuple[Literal["s1", "s2"], ...] = ("s1", "s2"),
        labels: bool = False,
        maps: bool = False,
    ) -> None:
        self.name = "sen12ms"
        self.pattern, self.example = SEN12MS_FILE, "ROIs1868_summer_s1_19_p30.tif"
        images = image_kinds("SEN12MS", sensors)
        super().__init__(
            Path(root),
            kinds=(*images, "lc") if labels or maps else images,
            stored=(*images, "lc") if maps else images,
        )
        self.damaged = DAMAGED
        if "lc" in self.kinds:
            names = tuple(IGBP_CODES)
            self.nomenclatures = {"igbp": Nomenclature(names, False), "igbp_multi": Nomenclature(names, True)}

    def name_of(self, match: re.Match[str]) -> str:
        """Season, scene and patch: `ROIs1868_summer_19_p30`."""
        return f"{match['roi']}_{match['scene']}_p{match['patch']}"

    def split_of(self, source: Source) -> str:
        """The split of the scene."""
        return "test" if int(source.scene) in HOLD_OUT[source.part] else "train"

    def labels(self, rasters: Mapping[Kind, Raster]) -> dict[str, tuple[str, ...]]:
        """Labels from the fractions of the simplified IGBP classes. A patch without any class has no `igbp` label."""
        return igbp_labels(rasters["lc"].pixels[0]) if "lc" in rasters else {}

    def attributes(self, source: Source) -> dict[str, type_of_attribute]:
        """Season, scene and patch number."""
        return {"season": source.part, "scene": int(source.scene), "patch": source.patch}


def igbp_labels(codes: np.ndarray) -> dict[str, tuple[str, ...]]:
    """The labels of a map of MODIS IGBP codes [H W] in both nomenclatures; ties go to the earlier class."""
    values, counts = np.unique(codes, return_counts=True)
    fractions = {name: counts[np.isin(values, own)].sum() / codes.size for name, own in IGBP_CODES.items()}
    largest = max(fractions, key=lambda name: fractions[name])
    single = {"igbp": (largest,)} if fractions[largest] else {}
    return {**single, "igbp_multi": tuple(name for name in fractions if fractions[name] >= MULTI_THRESHOLD)}
