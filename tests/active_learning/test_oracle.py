import csv
import shutil
from pathlib import Path

import pytest
from fakes.memory import CLASSES, SCENE_GROUPS, memory_shards
from PIL import Image

from rspretrain.active_learning.oracle import CsvOracle, TableOracle
from rspretrain.archives.base import Nomenclature
from rspretrain.shardset.index import ShardSet
from rspretrain.shardset.inspection import preview

KEYS = ("patch-00003", "patch-00001", "patch-00008")
MULTI_LABEL = Nomenclature(CLASSES, True)


@pytest.fixture(scope="module")
def shards(tmp_path_factory: pytest.TempPathFactory) -> ShardSet:
    return memory_shards(tmp_path_factory.mktemp("oracle") / "shards", samples=10, groups=SCENE_GROUPS)


@pytest.fixture(scope="module")
def written(shards: ShardSet, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("written")
    assert CsvOracle(folder, shards, MULTI_LABEL).answer(KEYS, 3) is None
    return folder


@pytest.fixture
def folder(written: Path, tmp_path: Path) -> Path:
    """A copy of the folder to fill in, as it was written."""
    shutil.copytree(written, tmp_path / "ask")
    return tmp_path / "ask"


def fill(folder: Path, *rows: tuple[str, ...], header: tuple[str, ...] = ("key", "picture", "labels")) -> Path:
    """Write the CSV as a spreadsheet would."""
    path = folder / "round_03" / "labels.csv"
    with path.open("w", newline="", encoding="utf-8") as file:
        csv.writer(file).writerows((header, *rows))
    return path


def faults_of(oracle: CsvOracle) -> list[str]:
    """The errors reported for the CSV."""
    with pytest.raises(ValueError, match=r"labels\.csv has \d+ faults:") as error:
        oracle.answer(KEYS, 3)
    first, *faults, remedy = str(error.value).split("\n")
    assert f"has {len(faults)} faults:" in first
    assert remedy.startswith("Expected one row for each of the 3 images, with")
    assert remedy.endswith("Correct the file and continue; its other labels are kept.")
    return [fault.strip() for fault in faults]


def test_the_table_oracle_answers_immediately(shards: ShardSet) -> None:
    assert TableOracle(shards, "all").answer(KEYS) == {
        "patch-00003": CLASSES, "patch-00001": CLASSES, "patch-00008": ("water",)
    }  # fmt: skip
    assert TableOracle(shards, "class").answer(KEYS[:2], 5) == {"patch-00003": ("field",), "patch-00001": ("forest",)}


def test_images_without_labels_are_named(shards: ShardSet) -> None:
    oracle = TableOracle(shards, "all")
    oracle.hot = oracle.hot.copy()
    oracle.hot[shards.row_of_key["patch-00001"]] = False
    with pytest.raises(
        ValueError, match=r"no labels 'all' of 1 requested images \(patch-00001\); expected labels of all 3\. Exclude"
    ):
        oracle.answer(KEYS)


def test_the_csv_oracle_writes_a_table_pictures_and_instructions(written: Path) -> None:
    folder = written / "round_03"
    lines = list(csv.reader((folder / "labels.csv").read_text("utf-8-sig").splitlines()))
    assert lines == [["key", "picture", "labels"], *([key, f"pictures/{key}.png", ""] for key in KEYS)]
    for _, picture, _ in lines[1:]:
        with Image.open(folder / picture) as image:
            image.load()
            assert image.width > 300
    assert len(list((folder / "pictures").iterdir())) == 3
    rules = (folder / "README.txt").read_text()
    assert "separated by ';', or - if you see none" in rules
    assert rules.endswith("Classes:\n  field\n  forest\n  water\n")


def test_pictures_do_not_show_the_labels(
    shards: ShardSet, written: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    captions = []
    caption = preview._caption
    monkeypatch.setattr(preview, "_caption", lambda *args: captions.append(caption(*args)) or captions[-1])
    row = shards.row_of_key[KEYS[0]]
    preview.draw_sample(shards, row, tmp_path / "with.png")
    preview.draw_sample(shards, row, tmp_path / "without.png", labels=False)
    labelled, hidden = captions
    assert shards[row].labels["class"][0] in labelled
    assert not any(name in hidden for name in CLASSES)
    assert KEYS[0] in hidden
    shown = (written / "round_03" / "pictures" / f"{KEYS[0]}.png").read_bytes()
    assert shown == (tmp_path / "without.png").read_bytes() != (tmp_path / "with.png").read_bytes()


def test_the_filled_csv_gives_the_labels(shards: ShardSet, folder: Path) -> None:
    oracle = CsvOracle(folder, shards, MULTI_LABEL)
    assert oracle.answer(KEYS, 3) is None  # nothing is filled in yet
    # In another order, with capitals, spaces, an empty row and a label twice.
    fill(folder, (KEYS[1], "", " Water ;field; water"), (), (KEYS[0], "", "forest;"), (KEYS[2], "", "-"))
    assert oracle.answer(KEYS, 3) == {
        "patch-00003": ("forest",), "patch-00001": ("field", "water"), "patch-00008": ()
    }  # fmt: skip


@pytest.mark.parametrize("delimiter", [",", ";", "\t"])
@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig"])
def test_csv_dialects_of_all_locales_are_read(shards: ShardSet, folder: Path, delimiter: str, encoding: str) -> None:
    oracle = CsvOracle(folder, shards, Nomenclature(("Wald, naß", "Straße"), True))
    with oracle.table(3).open("w", newline="", encoding=encoding) as file:
        rows = [("key", "labels"), *((key, "Straße; Wald, naß") for key in KEYS)]  # a column was removed
        csv.writer(file, delimiter=delimiter).writerows(rows)
    assert oracle.answer(KEYS, 3) == dict.fromkeys(KEYS, ("Wald, naß", "Straße"))


def test_all_faults_are_reported_together_and_can_be_corrected(shards: ShardSet, folder: Path) -> None:
    oracle = CsvOracle(folder, shards, MULTI_LABEL)
    path = fill(
        folder,
        (KEYS[0], "", "forrest; ice; water"),
        (KEYS[0], "", "water"),
        ("patch-00009", "", "water"),
        (KEYS[1], "", ""),
    )
    before = path.read_bytes()
    assert faults_of(oracle) == [
        "row 2: key 'patch-00003' occurs in 2 rows",
        "row 3: key 'patch-00003' occurs in 2 rows",
        "row 4: key 'patch-00009' was not requested",
        "row 5 (patch-00001): no label; write - for none of the classes",
        "no row has the key 'patch-00008'",
    ]
    fill(folder, (KEYS[0], "", "forrest; ice; water"), (KEYS[1], "", "field"), (KEYS[2], "", "- ; field"))
    assert faults_of(oracle) == [
        "row 2 (patch-00003): unknown label 'forrest' (nearest: forest), 'ice'",
        "row 4 (patch-00008): unknown label '-'",
    ]
    path.write_bytes(before)
    assert len(faults_of(oracle)) == 5  # nothing was written or remembered
    fill(folder, *((key, "", "water") for key in KEYS))
    assert oracle.answer(KEYS, 3) == dict.fromkeys(KEYS, ("water",))


def test_one_label_per_image(shards: ShardSet, folder: Path) -> None:
    oracle = CsvOracle(folder, shards, Nomenclature(CLASSES, False))
    fill(folder, (KEYS[0], "", "forest; water"), (KEYS[1], "", "-"), (KEYS[2], "", ""))
    assert faults_of(oracle) == [
        "row 2 (patch-00003): 2 labels, expected one",
        "row 3 (patch-00001): unknown label '-'",
        "row 4 (patch-00008): no label",
    ]
    fill(folder, *((key, "", "water") for key in KEYS))
    assert oracle.answer(KEYS, 3) == dict.fromkeys(KEYS, ("water",))


def test_unreadable_csvs_are_refused(shards: ShardSet, folder: Path) -> None:
    oracle = CsvOracle(folder, shards, MULTI_LABEL)
    fill(folder, (KEYS[0], "", "forest", "water"), (KEYS[1], "", "water"), (KEYS[2], "", "water"))
    assert faults_of(oracle) == ["row 2: 4 cells for 3 columns; separate labels with ';'"]
    fill(folder, (KEYS[0], "forest"), header=("name", "class"))
    assert faults_of(oracle) == [
        "its first row is ['name', 'class']; expected the columns ['key', 'picture', 'labels']"
    ]
    oracle.table(3).write_bytes("key,labels\npatch-00001,Straße\n".encode("cp1252"))
    assert faults_of(oracle) == ["it is not UTF-8; save it as 'CSV UTF-8'"]
    oracle.table(3).write_bytes(b"")
    assert faults_of(oracle) == ["its first row is []; expected the columns ['key', 'picture', 'labels']"]


def test_an_interrupted_round_keeps_its_pictures_and_entered_labels(shards: ShardSet, folder: Path) -> None:
    oracle, table = CsvOracle(folder, shards, MULTI_LABEL), folder / "round_03" / "labels.csv"
    pictures = table.parent / "pictures"
    table.unlink()  # as if killed while drawing the pictures
    (pictures / f"{KEYS[2]}.png").unlink()
    times = [(pictures / f"{key}.png").stat().st_mtime_ns for key in KEYS[:2]]
    assert oracle.answer(KEYS, 3) is None
    assert [(pictures / f"{key}.png").stat().st_mtime_ns for key in KEYS[:2]] == times
    assert len(list(pictures.iterdir())) == 3
    fill(folder, (KEYS[0], "", "water"))
    typed = table.read_bytes()
    assert len(faults_of(oracle)) == 2
    assert table.read_bytes() == typed


def test_ambiguous_class_names_are_refused(shards: ShardSet, tmp_path: Path) -> None:
    for names, invalid in ((("a;b", "c"), "a;b"), (("-", "c"), "-"), (("Sea", "sea"), "Sea', 'sea")):
        with pytest.raises(
            ValueError, match=rf"got the classes \['{invalid}'\]; expected names without ';'.* Rename them"
        ):
            CsvOracle(tmp_path, shards, Nomenclature(names, True))
