"""Oracles: sources of labels for the images that a label-budget loop requests.

`TableOracle` uses the shard set's labels. `CsvOracle` has people fill in a CSV; it writes one folder per round:

    round_03/labels.csv     key, picture and an empty column `labels`, one row per image; any spreadsheet opens it
             pictures/      one PNG per image
             README.txt     the class names, and how to fill in the column

There is one column for all labels instead of one per class: 43 classes fit on a screen, and an image without any class
(-) differs from an image that is not labelled yet. A filled table is never modified. All its errors are reported
together, with their rows.
"""

import csv
import difflib
import io
from abc import ABC, abstractmethod
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Literal, final

from pydantic import Field

from rspretrain.active_learning.budget import Keys
from rspretrain.active_learning.pool import rows_of
from rspretrain.archives.base import Nomenclature
from rspretrain.files import write_atomically
from rspretrain.settings import Settings
from rspretrain.shardset.index import ShardSet

COLUMNS = ("key", "picture", "labels")
SEPARATOR = ";"
NONE = "-"  # label text of an image without any of the classes


class OracleSettings(Settings):
    """The source of labels, and its classes."""

    name: Literal["table", "csv"] = Field(
        default="table",
        description="Source of the labels. table: the labels of the shard set; csv: people fill a CSV file.",
    )
    classes: Keys = Field(default=(), description="Class names, for csv. Empty: the classes of labels.nomenclature.")
    multi: bool = Field(default=True, description="Allow several classes per image, with classes.")


class Oracle(ABC):
    """A source of labels, which may answer later."""

    @abstractmethod
    def answer(self, keys: Sequence[str], round: int) -> dict[str, Keys] | None:
        """key -> class names, for all of `keys`; None while the labels are not available.

        May be called again with the same keys. ValueError for labels that need correction.
        """


@final
class TableOracle(Oracle):
    """The shard set's own labels, for experiments."""

    def __init__(self, shards: ShardSet, nomenclature: str) -> None:
        self.shards, self.nomenclature = shards, nomenclature
        self.hot = shards.labels(nomenclature)  # [N K]
        self.classes = shards.nomenclatures[nomenclature].names

    def answer(self, keys: Sequence[str], round: int = 0) -> dict[str, Keys]:
        """Labels from the shard set, immediately. ValueError for images without a label."""
        hot = self.hot[rows_of(self.shards, keys)]
        without = [key for key, each in zip(keys, hot, strict=True) if not each.any()]
        if without:
            raise ValueError(
                f"{self.shards.path} has no labels {self.nomenclature!r} of {len(without)} requested images "
                f"({', '.join(without[:5])}); expected labels of all {len(keys)}. Exclude unlabelled images from the "
                "pool, or label them by hand (oracle=csv)."
            )
        names = zip(*hot.nonzero(), strict=True)
        answers: dict[str, list[str]] = {key: [] for key in keys}
        for row, index in names:
            answers[keys[row]].append(self.classes[index])
        return {key: tuple(each) for key, each in answers.items()}


@final
class CsvOracle(Oracle):
    """People who fill in one CSV per round."""

    def __init__(self, folder: Path, shards: ShardSet, classes: Nomenclature) -> None:
        """`folder` will hold one folder per round. ValueError for class names that a CSV cell cannot hold."""
        self.folder, self.shards, self.classes = folder, shards, classes
        self._name_of = {_normalise(name): name for name in classes.names}
        invalid = [name for name in classes.names if SEPARATOR in name or _normalise(name) in ("", NONE)]
        if invalid or len(self._name_of) < len(classes.names):
            raise ValueError(
                f"The CSV oracle got the classes {invalid or list(classes.names)}; expected names without "
                f"{SEPARATOR!r}, other than {NONE!r}, that differ in more than case. Rename them."
            )

    def table(self, round: int) -> Path:
        """The CSV to fill in."""
        return self.folder / f"round_{round:02d}" / "labels.csv"

    def answer(self, keys: Sequence[str], round: int) -> dict[str, Keys] | None:
        """The labels in the CSV; None if nothing is filled in. Writes the CSV and its pictures on the first call."""
        path = self.table(round)
        if not path.exists():
            self._write(keys, path)
            return None
        lines, faults = _lines(path)
        if not faults and not any(labels for _, _, labels in lines):
            return None
        answers = {} if faults else self._read(keys, lines, faults)
        if faults:
            names = "names" if self.classes.multi else "one name"
            listed = "".join(f"\n  {fault}" for fault in faults)
            raise ValueError(
                f"{path} has {len(faults)} faults:{listed}\nExpected one row for each of the {len(keys)} images, with "
                f"{names} from {path.parent / 'README.txt'} in the column `labels`. Correct the file and continue; its "
                "other labels are kept."
            )
        return answers

    def _write(self, keys: Sequence[str], path: Path) -> None:
        """Write the pictures, then the CSV, whose presence marks a complete folder. Keeps pictures of earlier calls."""
        rows = rows_of(self.shards, keys)
        (path.parent / "pictures").mkdir(parents=True, exist_ok=True)
        text = io.StringIO(newline="")
        from rspretrain.shardset.inspection.preview import draw_sample  # imports matplotlib, 1 s

        table = csv.writer(text)
        table.writerow(COLUMNS)
        for key, row in zip(keys, rows.tolist(), strict=True):
            picture = f"pictures/{key}.png"
            if not (path.parent / picture).exists():
                draw_sample(self.shards, row, path.parent / picture, labels=False)
            table.writerow((key, picture, ""))
        write_atomically(path.parent / "README.txt", self._explanation().encode())
        write_atomically(path, text.getvalue().encode("utf-8-sig"))  # Excel detects UTF-8 only by this byte order mark

    def _explanation(self) -> str:
        if self.classes.multi:
            rule = f"all classes that you see, separated by '{SEPARATOR}', or {NONE} if you see none of them"
        else:
            rule = "the one class that fits best"
        names = "\n".join(f"  {name}" for name in self.classes.names)
        return (
            f"Open labels.csv, look at each picture, and write into the column `labels`\n{rule}.\n"
            "Upper and lower case do not matter. Save the file as CSV under the same name, and start the loop again.\n"
            f"\nClasses:\n{names}\n"
        )

    def _read(self, keys: Sequence[str], lines: list[tuple[int, str, str]], faults: list[str]) -> dict[str, Keys]:
        """Labels by key; errors are appended to `faults`."""
        times = Counter(key for _, key, _ in lines)
        answers = {}
        for number, key, text in lines:
            if key not in keys:
                faults.append(f"row {number}: key {key!r} was not requested")
            elif times[key] > 1:
                faults.append(f"row {number}: key {key!r} occurs in {times[key]} rows")
            else:
                answers[key], fault = self._labels(text)
                faults += [f"row {number} ({key}): {fault}"] if fault else []
        faults += [f"no row has the key {key!r}" for key in keys if key not in times]
        return {key: answers[key] for key in keys if key in answers}

    def _labels(self, text: str) -> tuple[Keys, str]:
        """The class names in one cell, in the order of the classes, and its error ("" if valid)."""
        given = [_normalise(part) for part in text.split(SEPARATOR) if part.strip()]
        if not given:
            return (), f"no label; write {NONE} for none of the classes" if self.classes.multi else "no label"
        if given == [NONE] and self.classes.multi:
            return (), ""
        unknown = [self._with_suggestion(part) for part in given if part not in self._name_of]
        if unknown:
            return (), f"unknown label {', '.join(unknown)}"
        if len(set(given)) != 1 and not self.classes.multi:
            return (), f"{len(set(given))} labels, expected one"
        return tuple(name for name in self.classes.names if _normalise(name) in given), ""

    def _with_suggestion(self, part: str) -> str:
        near = difflib.get_close_matches(part, self._name_of, n=1)
        return f"{part!r} (nearest: {self._name_of[near[0]]})" if near else repr(part)


def _normalise(name: str) -> str:
    return " ".join(name.split()).casefold()


def _lines(path: Path) -> tuple[list[tuple[int, str, str]], list[str]]:
    """(row, key, labels) of each non-empty row, and the errors that prevent reading them."""
    try:
        text = path.read_bytes().decode("utf-8-sig")
    except UnicodeDecodeError:
        return [], ["it is not UTF-8; save it as 'CSV UTF-8'"]
    first = text.partition("\n")[0]
    # Spreadsheets write the delimiter of their locale, whatever the file had.
    delimiter = max(",;\t", key=first.count)
    rows = [(number, [cell.strip() for cell in row]) for number, row in enumerate(_parsed(text, delimiter), start=1)]
    header, rows = rows[0][1] if rows else [], [(number, row) for number, row in rows[1:] if any(row)]
    if not {"key", "labels"} <= set(header):
        return [], [f"its first row is {header}; expected the columns {list(COLUMNS)}"]
    key, labels = header.index("key"), header.index("labels")
    faults = [
        f"row {number}: {len(row)} cells for {len(header)} columns; separate labels with {SEPARATOR!r}"
        for number, row in rows
        if any(row[len(header) :])
    ]
    padded = [(number, row + [""] * len(header)) for number, row in rows]
    return [(number, row[key], row[labels]) for number, row in padded], faults


def _parsed(text: str, delimiter: str) -> list[list[str]]:
    return list(csv.reader(io.StringIO(text, newline=""), delimiter=delimiter))
