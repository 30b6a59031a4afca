"""CORINE land-cover names of BigEarthNet: 43 classes, and the 19 of BigEarthNet-MM.

Sumbul et al. 2021, table 1. Both lists are ordered by CLC code, which is torchgeo's order; ConfigILM sorts the 19 names
alphabetically instead, so class numbers must never be compared between code bases without their names.
"""

import difflib
from collections.abc import Iterable

from rspretrain.archives.base import Nomenclature

# CLC code -> name, in code order. "Green urban areas" (141) to "Sport and leisure facilities" (142) included: 43 names.
CLC43: dict[int, str] = {
    111: "Continuous urban fabric",
    112: "Discontinuous urban fabric",
    121: "Industrial or commercial units",
    122: "Road and rail networks and associated land",
    123: "Port areas",
    124: "Airports",
    131: "Mineral extraction sites",
    132: "Dump sites",
    133: "Construction sites",
    141: "Green urban areas",
    142: "Sport and leisure facilities",
    211: "Non-irrigated arable land",
    212: "Permanently irrigated land",
    213: "Rice fields",
    221: "Vineyards",
    222: "Fruit trees and berry plantations",
    223: "Olive groves",
    231: "Pastures",
    241: "Annual crops associated with permanent crops",
    242: "Complex cultivation patterns",
    243: "Land principally occupied by agriculture, with significant areas of natural vegetation",
    244: "Agro-forestry areas",
    311: "Broad-leaved forest",
    312: "Coniferous forest",
    313: "Mixed forest",
    321: "Natural grassland",
    322: "Moors and heathland",
    323: "Sclerophyllous vegetation",
    324: "Transitional woodland/shrub",
    331: "Beaches, dunes, sands",
    332: "Bare rock",
    333: "Sparsely vegetated areas",
    334: "Burnt areas",
    411: "Inland marshes",
    412: "Peatbogs",
    421: "Salt marshes",
    422: "Salines",
    423: "Intertidal flats",
    511: "Water courses",
    512: "Water bodies",
    521: "Coastal lagoons",
    522: "Estuaries",
    523: "Sea and ocean",
}

# 19-class name -> its CLC codes. Codes in no row (122-142, 332, 334, 423) have no class among the 19.
CLC19: dict[str, tuple[int, ...]] = {
    "Urban fabric": (111, 112),
    "Industrial or commercial units": (121,),
    "Arable land": (211, 212, 213),
    "Permanent crops": (221, 222, 223, 241),
    "Pastures": (231,),
    "Complex cultivation patterns": (242,),
    "Land principally occupied by agriculture, with significant areas of natural vegetation": (243,),
    "Agro-forestry areas": (244,),
    "Broad-leaved forest": (311,),
    "Coniferous forest": (312,),
    "Mixed forest": (313,),
    "Natural grassland and sparsely vegetated areas": (321, 333),
    "Moors, heathland and sclerophyllous vegetation": (322, 323),
    "Transitional woodland, shrub": (324,),
    "Beaches, dunes, sands": (331,),
    "Inland wetlands": (411, 412),
    "Coastal wetlands": (421, 422),
    "Inland waters": (511, 512),
    "Marine waters": (521, 522, 523),
}

NOMENCLATURES: dict[str, Nomenclature] = {
    "43": Nomenclature(tuple(CLC43.values()), multi=True),
    "19": Nomenclature(tuple(CLC19), multi=True),
}
TO_19: dict[str, str] = {CLC43[code]: name for name, codes in CLC19.items() for code in codes}


def sort_labels(names: Iterable[str], nomenclature: str) -> tuple[str, ...]:
    """Sort the labels of one patch into the order of the nomenclature, without duplicates.

    ValueError for an unknown name.
    """
    known, given = NOMENCLATURES[nomenclature].names, set(names)
    for name in sorted(given.difference(known)):
        nearest = difflib.get_close_matches(name, known, n=1, cutoff=0.0)[0]
        raise ValueError(f"label {name!r} is not one of the {nomenclature} CORINE classes (nearest: {nearest!r})")
    return tuple(name for name in known if name in given)


def label_sets(names: Iterable[str]) -> dict[str, tuple[str, ...]]:
    """The labels of one patch in both nomenclatures, from its 43-class names. ValueError for an unknown name."""
    labels = sort_labels(names, "43")
    return {"43": labels, "19": sort_labels((TO_19[name] for name in labels if name in TO_19), "19")}
