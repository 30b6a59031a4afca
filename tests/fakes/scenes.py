"""Tiny archives of RGB pictures in class folders."""

from pathlib import Path

import numpy as np
from PIL import Image

from rspretrain.archives.scenes import (
    AID_CLASSES,
    RESISC45_CLASSES,
    RSSCN7_CLASSES,
    UCMERCED_CLASSES,
    UCMERCED_MULTILABELS,
)


def write_picture(path: Path, height: int = 64, width: int = 64, seed: int = 0) -> Path:
    """Write one RGB picture: a colour gradient with noise, in the format of the suffix."""
    rng = np.random.default_rng(seed)
    base = rng.integers(30, 200, 3) + np.linspace(0, 40, width)[None, :, None]
    pixels = np.clip(base + rng.normal(0, 8, (height, width, 3)), 0, 255).astype(np.uint8)
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(pixels).save(path)
    return path


def write_ucmerced(root: Path, per_class: int = 2, classes: int = 3, odd: bool = True) -> Path:
    """UC-Merced's layout with multi-labels; the first picture is 61 x 64 instead of 64 x 64 if `odd`."""
    rng = np.random.default_rng(0)
    rows = ["\t".join(("IMAGE\\LABEL", *UCMERCED_MULTILABELS))]
    for number in range(per_class * classes):
        name = UCMERCED_CLASSES[number // per_class]
        stem = f"{name}{number % per_class:02d}"
        height = 61 if odd and number == 0 else 64
        write_picture(root / "UCMerced_LandUse" / "Images" / name / f"{stem}.tif", height, 64, number)
        values = rng.random(len(UCMERCED_MULTILABELS)) < 0.2
        values[number // per_class] = True
        rows.append("\t".join((stem, *("1" if value else "0" for value in values))))
    (root / "LandUse_Multilabeled.txt").write_text("\n".join(rows) + "\n")
    return root


def write_aid(root: Path, per_class: int = 2, classes: int = 3) -> Path:
    """AID's layout, in JPEG."""
    for name in AID_CLASSES[:classes]:
        for number in range(1, per_class + 1):
            write_picture(root / "AID" / name / f"{name.lower()}_{number}.jpg", seed=number)
    return root


def write_aid_multilabel(root: Path, per_class: int = 2, classes: int = 3) -> Path:
    """AID-multilabel's layout: `images_tr/<Class>/`, `images_test/<Class>/`, and a table with commas."""
    rows = [",".join(("IMAGE\\LABEL", *UCMERCED_MULTILABELS))]
    for number in range(per_class * classes):
        name, index = AID_CLASSES[number // per_class], number % per_class
        stem = f"{name.lower()}_{index + 1}"
        write_picture(root / ("images_test" if index else "images_tr") / name / f"{stem}.jpg", seed=number)
        rows.append(",".join((stem, *("1" if i % (number + 2) == 0 else "0" for i in range(17)))))
    (root / "multilabel.csv").write_text("\n".join(rows) + "\n")
    return root


def write_resisc45(root: Path, per_class: int = 2, classes: int = 3) -> Path:
    """NWPU-RESISC45's layout, in JPEG."""
    for name in RESISC45_CLASSES[:classes]:
        for number in range(1, per_class + 1):
            write_picture(root / "NWPU-RESISC45" / name / f"{name}_{number:03d}.jpg", seed=number)
    return root


def write_rsscn7(root: Path, per_class: int = 2) -> Path:
    """RSSCN7's layout, in JPEG."""
    for name in RSSCN7_CLASSES:
        for number in range(1, per_class + 1):
            write_picture(root / "RSSCN7" / name / f"{name[0]}{number:03d}.jpg", seed=number)
    return root


def write_splits(folder: Path, prefix: str, **names: list[str]) -> Path:
    """`<prefix>-<split>.txt`, one name per line."""
    folder.mkdir(parents=True, exist_ok=True)
    for split, lines in names.items():
        (folder / f"{prefix}-{split}.txt").write_text("".join(f"{line}\n" for line in lines))
    return folder


def write_folder(
    root: Path, classes: tuple[str, ...] = ("Dry Land", "wet"), per_class: int = 3, splits: tuple[str, ...] = ()
) -> Path:
    """`<class>/000.png` …, or `<split>/<class>/000.png` …"""
    for top in splits or ("",):
        for name in classes:
            for number in range(per_class):
                write_picture(root / top / name / f"{number:03d}.png", seed=number)
    return root
