"""Who knows the labels of the images that a label-budget loop asks for: a table that has them, or people.

People get a folder a round:

    round_03/labels.csv     key, picture and an empty column `labels`, one row an image; any spreadsheet opens it
             pictures/      what each image looks like, one PNG each
             README.txt     the names of the classes, and how to fill the column

One column of names, not one column a class: it fits 43 classes on a screen, and an image that shows none of them (-) is
told from one that nobody has looked at. What people typed is never written to: faults are told, all at once, by row.
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
from rspretrain.shardset.inspection.preview import draw_sample

COLUMNS = ("key", "picture", "labels")
SEPARATOR = ";"
NONE = "-"  # for an image without any of the classes


class OracleSettings(Settings):
    """Who gives the labels, and which there are."""

    name: Literal["table", "csv"] = Field(
        default="table",
        description="Source of the labels. table: the labels of the shard set; csv: people fill a CSV file.",
    )
    classes: Keys = Field(default=(), description="Class names, for csv. Empty: the classes of labels.nomenclature.")
    multi: bool = Field(default=True, description="Allow several classes per image, with classes.")


class Oracle(ABC):
    """Labels for images, sooner or later."""

    @abstractmethod
    def answer(self, keys: Sequence[str], round: int) -> dict[str, Keys] | None:
        """key -> names of its classes, for all of `keys`; None while nobody has answered.

        To be asked again with the same keys, as often as one likes. ValueError for an answer that needs correction.
        """


@final
class TableOracle(Oracle):
    """The shard set's own labels, for experiments."""

    def __init__(self, shards: ShardSet, nomenclature: str) -> None:
        self.shards, self.nomenclature = shards, nomenclature
        self.hot = shards.labels(nomenclature)  # [N K]
        self.classes = shards.nomenclatures[nomenclature].names

    def answer(self, keys: Sequence[str], round: int = 0) -> dict[str, Keys]:
        """At once. ValueError for images without a label."""
        hot = self.hot[rows_of(self.shards, keys)]
        without = [key for key, each in zip(keys, hot, strict=True) if not each.any()]
        if without:
            raise ValueError(
                f"{self.shards.path} has no labels {self.nomenclature!r} of {len(without)} images that were asked "
                f"for ({', '.join(without[:5])}); expected all {len(keys)} to have some. Leave unlabelled images out "
                "of the pool, or let people label them (the csv oracle)."
            )
        names = zip(*hot.nonzero(), strict=True)
        answers: dict[str, list[str]] = {key: [] for key in keys}
        for row, place in names:
            answers[keys[row]].append(self.classes[place])
        return {key: tuple(each) for key, each in answers.items()}


@final
class CsvOracle(Oracle):
    """People, who fill a table a round."""

    def __init__(self, folder: Path, shards: ShardSet, classes: Nomenclature) -> None:
        """`folder` gets a folder a round. ValueError for class names that the table cannot hold."""
        self.folder, self.shards, self.classes = folder, shards, classes
        self._name_of = {_plain(name): name for name in classes.names}
        unfit = [name for name in classes.names if SEPARATOR in name or _plain(name) in ("", NONE)]
        if unfit or len(self._name_of) < len(classes.names):
            raise ValueError(
                f"A table of labels got the classes {unfit or list(classes.names)}; expected names without "
                f"{SEPARATOR!r}, not {NONE!r}, that differ in more than case. Rename them."
            )

    def table(self, round: int) -> Path:
        """The file that people fill in."""
        return self.folder / f"round_{round:02d}" / "labels.csv"

    def answer(self, keys: Sequence[str], round: int) -> dict[str, Keys] | None:
        """What the table says; where there is none, it is written first, pictures and all. None: nothing filled in."""
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
            told = "".join(f"\n  {fault}" for fault in faults)
            raise ValueError(
                f"{path} has {len(faults)} faults:{told}\nExpected one row for each of the {len(keys)} images, with "
                f"{names} out of {path.parent / 'README.txt'} in its column `labels`. Correct the file and go on; its "
                "other labels stay as they are."
            )
        return answers

    def _write(self, keys: Sequence[str], path: Path) -> None:
        """The table last: where it is, everything is. Pictures that an interrupted call drew are kept."""
        rows = rows_of(self.shards, keys)
        (path.parent / "pictures").mkdir(parents=True, exist_ok=True)
        text = io.StringIO(newline="")
        table = csv.writer(text)
        table.writerow(COLUMNS)
        for key, row in zip(keys, rows.tolist(), strict=True):
            picture = f"pictures/{key}.png"
            if not (path.parent / picture).exists():
                unfinished = path.parent / f"{picture}.part"
                draw_sample(self.shards, row, unfinished, labels=False)
                unfinished.rename(path.parent / picture)
            table.writerow((key, picture, ""))
        write_atomically(path.parent / "README.txt", self._explanation().encode())
        write_atomically(path, text.getvalue().encode("utf-8-sig"))  # Excel knows UTF-8 by this mark only

    def _explanation(self) -> str:
        if self.classes.multi:
            rule = f"all classes that you see, separated by '{SEPARATOR}', or {NONE} where you see none of them"
        else:
            rule = "the one class that fits best"
        names = "\n".join(f"  {name}" for name in self.classes.names)
        return (
            f"Open labels.csv, look at each picture, and write into the column `labels`\n{rule}.\n"
            "Small and capital letters do not matter. Save it as CSV under the same name, and start the loop again.\n"
            f"\nClasses:\n{names}\n"
        )

    def _read(self, keys: Sequence[str], lines: list[tuple[int, str, str]], faults: list[str]) -> dict[str, Keys]:
        """The labels by key; what is wrong is added to `faults`."""
        times = Counter(key for _, key, _ in lines)
        answers = {}
        for number, key, text in lines:
            if key not in keys:
                faults.append(f"row {number}: key {key!r} was not asked for")
            elif times[key] > 1:
                faults.append(f"row {number}: key {key!r} stands in {times[key]} rows")
            else:
                answers[key], fault = self._labels(text)
                faults += [f"row {number} ({key}): {fault}"] if fault else []
        faults += [f"no row has the key {key!r}" for key in keys if key not in times]
        return {key: answers[key] for key in keys if key in answers}

    def _labels(self, text: str) -> tuple[Keys, str]:
        """The names in one cell, in the order of the classes, and what is wrong with it ("": nothing)."""
        given = [_plain(part) for part in text.split(SEPARATOR) if part.strip()]
        if not given:
            return (), f"no label; write {NONE} for none of the classes" if self.classes.multi else "no label"
        if given == [NONE] and self.classes.multi:
            return (), ""
        unknown = [self._told(part) for part in given if part not in self._name_of]
        if unknown:
            return (), f"unknown label {', '.join(unknown)}"
        if len(set(given)) != 1 and not self.classes.multi:
            return (), f"{len(set(given))} labels, expected one"
        return tuple(name for name in self.classes.names if _plain(name) in given), ""

    def _told(self, part: str) -> str:
        near = difflib.get_close_matches(part, self._name_of, n=1)
        return f"{part!r} (nearest: {self._name_of[near[0]]})" if near else repr(part)


def _plain(name: str) -> str:
    return " ".join(name.split()).casefold()


def _lines(path: Path) -> tuple[list[tuple[int, str, str]], list[str]]:
    """(row, key, labels) of every row that is not empty, and what keeps them from being read."""
    try:
        text = path.read_bytes().decode("utf-8-sig")
    except UnicodeDecodeError:
        return [], ["it is not UTF-8; save it as 'CSV UTF-8'"]
    first = text.partition("\n")[0]
    # Spreadsheets write what is usual in their country, whatever they read.
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
