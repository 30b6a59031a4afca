"""Band files of ESA's Sentinel-2 products (SAFE format).

Level 2A has the folders R10m, R20m and R60m. The coarser ones hold resampled copies of finer bands, and each also holds
true colour, aerosols, water vapour and scene classes. Level 1C has its bands in one folder. Source: S2-PDGS-TAS-DI-PSD.
"""

import re
from collections.abc import Callable, Iterable
from pathlib import Path

_FOLDER = re.compile(r"R(?P<metres>\d\d)m")
_BAND = re.compile(r"(?P<scene>.*)_(?P<band>B\d[0-9A])(?:_\d\dm)?")
_OTHER = re.compile(r"(?:.*_)?(?:TCI|AOT|WVP|SCL|PVI)(?:_\d\dm)?|MSK_.*")
_NATIVE_M = {**dict.fromkeys(("B02", "B03", "B04", "B08"), 10), **dict.fromkeys(("B01", "B09", "B10"), 60)}  # else 20


def product_root(path: Path) -> Path:
    """The folder of a file's product: its own folder, or the one above R10m, R20m and R60m."""
    return path.parent.parent if _FOLDER.fullmatch(path.parent.name) else path.parent


def bands_only(paths: Iterable[Path], is_mask: Callable[[Path], bool]) -> list[Path]:
    """Drop resampled copies of bands and other rasters of a product.

    If the native resolution of a band is missing, the finest copy stays. Masks stay,
    and so does every file that is not part of a SAFE product.
    """
    kept: list[Path] = []
    copies: dict[tuple[Path, str, str], list[tuple[bool, int, Path]]] = {}
    for path in paths:
        folder, name = _FOLDER.fullmatch(path.parent.name), _BAND.fullmatch(path.stem)
        if is_mask(path):
            kept.append(path)
        elif folder and name:
            metres = int(folder["metres"])
            copy = metres != _NATIVE_M.get(name["band"], 20), metres, path
            copies.setdefault((product_root(path), name["scene"], name["band"]), []).append(copy)
        elif path.suffix.lower() != ".jp2" or not _OTHER.fullmatch(path.stem):
            kept.append(path)
    return sorted([*kept, *(min(each)[2] for each in copies.values())])
