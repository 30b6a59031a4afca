"""Text files beside image archives: lists of splits and tables of multi-labels, both keyed by file stem."""

import re
from pathlib import Path, PurePosixPath

SPLITS = ("train", "val", "test")


def read_text(path: Path) -> str:
    """Read UTF-8 text with or without a byte order mark. ValueError for any other encoding."""
    try:
        return path.read_text(encoding="utf-8-sig")
    except UnicodeDecodeError as error:
        raise ValueError(f"{path}: {error}, expected UTF-8 text. Save it as UTF-8.") from None


def read_splits(folder: Path, prefix: str) -> dict[str, str]:
    """Stem -> split from `<prefix>-train.txt`, `-val`, `-test`: one file name per line; folder and suffix are ignored.

    TorchGeo's lists of EuroSAT name `.jpg` files for the `.tif` ones. Names of files that are not on disk are ignored,
    and a file in no list has no split. ValueError if a list is missing or a stem is in two lists.
    """
    if not folder.is_dir():
        raise ValueError(
            f"{folder} is not a folder, expected one with {prefix}-train.txt. Give --source splits=FOLDER."
        )
    paths = {split: folder / f"{prefix}-{split}.txt" for split in SPLITS}
    if not paths["train"].is_file() or not paths["test"].is_file():
        found = sorted(path.name for path in folder.glob("*.txt"))
        raise ValueError(
            f"{folder} holds the lists {found}, expected {prefix}-train.txt and {prefix}-test.txt ({prefix}-val.txt "
            "if there is one). Rename them, or give another --source splits=FOLDER."
        )
    split_of: dict[str, str] = {}
    for split, path in paths.items():
        for line in read_text(path).splitlines() if path.is_file() else ():
            stem = PurePosixPath(line.strip().replace("\\", "/")).stem  # lists from Windows
            earlier = split_of.setdefault(stem, split) if stem else split
            if earlier != split:
                raise ValueError(f"{path}: {stem} is in {earlier} too, expected disjoint splits. Repair the lists.")
    return split_of


def read_multilabels(path: Path, names: tuple[str, ...]) -> dict[str, tuple[str, ...]]:
    """Stem -> labels in the order of `names`. Accepts tabs or commas, `_` or `-`; columns are found by name.

    ValueError if the columns differ from `names`, a row has values other than 0 and 1, or two rows of a stem differ.
    """
    lines = read_text(path).splitlines()
    rows = [[cell.strip() for cell in re.split(r"[\t,]", line.strip())] for line in lines if line.strip()]
    columns = [name.lower().replace("_", "-") for name in rows[0][1:]] if rows else []
    if sorted(columns) != sorted(names):
        raise ValueError(f"{path} has the columns {columns}, expected {list(names)}. Restore the file.")
    table: dict[str, tuple[str, ...]] = {}
    for row in rows[1:]:
        if len(row) != len(rows[0]) or not set(row[1:]) <= {"0", "1"}:
            raise ValueError(
                f"{path}, row {row[0]!r}: {row[1:]}, expected {len(columns)} zeros or ones. Restore the file."
            )
        present = {name for name, value in zip(columns, row[1:], strict=True) if value == "1"}
        stem, labels = PurePosixPath(row[0]).stem, tuple(name for name in names if name in present)
        if table.setdefault(stem, labels) != labels:
            raise ValueError(f"{path} has two rows {stem!r} that differ, expected one. Restore the file.")
    return table
