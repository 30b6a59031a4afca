"""DFC2020: 6,114 patches in the format of SEN12MS with semi-manual land cover at 10 m, used to evaluate Dual-SimCLR.

Yokoya et al. 2020; docs/methods.md, DFC2020 and DFC2020 protocol. The folder `validation` is the training set of the
papers (986 patches), `test` their test set (5,128).
"""

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Literal, final

import numpy as np

from rspretrain.archives.base import Nomenclature
from rspretrain.archives.raster import Raster
from rspretrain.archives.rois import DFC2020_FILE, Kind, Rois, Source, image_kinds
from rspretrain.patch import type_of_attribute

# Class -> code on disk. Savanna (3) and snow and ice (8) are invalid, like 0, in both public code bases.
CODES = {
    "Forest": 1, "Shrubland": 2, "Grassland": 4, "Wetlands": 5, "Croplands": 6, "Urban": 7, "Barren": 9, "Water": 10,
}  # fmt: skip
MULTI_THRESHOLD = 0.1  # of all pixels of a patch, invalid ones included


@final
class Dfc2020(Rois):
    """Patches of 256 x 256 px at 10 m with a map of land cover codes 0 to 10 and the nomenclatures `dfc`, `dfc_multi`.

    `root` is the folder above `ROIs0000_validation` and `ROIs0000_test`, or one of them. `maps=false` omits the map but
    keeps its labels; `lc` also stores the coarse MODIS map.
    """

    def __init__(
        self, root: Path, sensors: tuple[Literal["s1", "s2"], ...] = ("s1", "s2"), maps: bool = True, lc: bool = False
    ) -> None:
        self.name = "dfc2020"
        self.pattern, self.example = DFC2020_FILE, "ROIs0000_validation_s1_0_p12.tif"
        images = image_kinds("DFC2020", sensors)
        coarse: tuple[Kind, ...] = ("lc",) if lc else ()
        super().__init__(
            Path(root),
            kinds=(*images, *coarse, "dfc"),
            stored=(*images, *coarse, "dfc") if maps else (*images, *coarse),
        )
        names = tuple(CODES)
        self.nomenclatures = {"dfc": Nomenclature(names, False), "dfc_multi": Nomenclature(names, True)}

    def name_of(self, match: re.Match[str]) -> str:
        """Set and patch: `ROIs0000_validation_p12`, for either spelling of the scene."""
        return f"{match['roi']}_p{match['patch']}"

    def split_of(self, source: Source) -> str:
        """The papers train on `validation`."""
        return "train" if source.part == "validation" else "test"

    def labels(self, rasters: Mapping[Kind, Raster]) -> dict[str, tuple[str, ...]]:
        """Labels from the code counts of the map; a mostly invalid patch has no `dfc` label."""
        return dfc_labels(rasters["dfc"].pixels[0])

    def attributes(self, source: Source) -> dict[str, type_of_attribute]:
        """The patch number."""
        return {"patch": source.patch}


def dfc_labels(codes: np.ndarray) -> dict[str, tuple[str, ...]]:
    """The labels of a map of DFC codes [H W] in both nomenclatures.

    Single: the most frequent value after remapping, with all invalid codes counted as one; ties go to the earlier
    class.
    """
    values, counts = np.unique(codes, return_counts=True)
    count_of = {name: int(counts[values == code].sum()) for name, code in CODES.items()}
    winner = max(count_of, key=lambda name: count_of[name])
    invalid = codes.size - sum(count_of.values())
    single = {"dfc": (winner,)} if count_of[winner] >= max(invalid, 1) else {}
    multi = tuple(name for name in count_of if count_of[name] / codes.size >= MULTI_THRESHOLD)
    return {**single, "dfc_multi": multi}
