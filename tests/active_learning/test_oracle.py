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
SEVERAL = Nomenclature(CLASSES, True)


@pytest.fixture(scope="module")
def shards(tmp_path_factory: pytest.TempPathFactory) -> ShardSet:
    return memory_shards(tmp_path_factory.mktemp("oracle") / "shards", samples=10, groups=SCENE_GROUPS)


@pytest.fixture(scope="module")
def written(shards: ShardSet, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("written")
    assert CsvOracle(folder, shards, SEVERAL).answer(KEYS, 3) is None
    return folder


@pytest.fixture
def folder(written: Path, tmp_path: Path) -> Path:
    """What people get, as it was written."""
    shutil.copytree(written, tmp_path / "ask")
    return tmp_path / "ask"


def fill(folder: Path, *rows: tuple[str, ...], header: tuple[str, ...] = ("key", "picture", "labels")) -> Path:
    """The table as a spreadsheet saves it."""
    path = folder / "round_03" / "labels.csv"
    with path.open("w", newline="", encoding="utf-8") as file:
        csv.writer(file).writerows((header, *rows))
    return path


def told(oracle: CsvOracle) -> list[str]:
    """The faults of the table."""
    with pytest.raises(ValueError, match=r"labels\.csv has \d+ faults:") as error:
        oracle.answer(KEYS, 3)
    first, *faults, remedy = str(error.value).split("\n")
    assert f"has {len(faults)} faults:" in first
    assert remedy.startswith("Expected one row for each of the 3 images, with")
    assert remedy.endswith("Correct the file and go on; its other labels stay as they are.")
    return [fault.strip() for fault in faults]


def test_a_table_answers_at_once(shards: ShardSet) -> None:
    assert TableOracle(shards, "all").answer(KEYS) == {
        "patch-00003": CLASSES, "patch-00001": CLASSES, "patch-00008": ("water",)
    }  # fmt: skip
    assert TableOracle(shards, "class").answer(KEYS[:2], 5) == {"patch-00003": ("field",), "patch-00001": ("forest",)}


def test_images_without_labels_are_named(shards: ShardSet) -> None:
    oracle = TableOracle(shards, "all")
    oracle.hot = oracle.hot.copy()
    oracle.hot[shards.row_of_key["patch-00001"]] = False
    with pytest.raises(
        ValueError, match=r"no labels 'all' of 1 images that were asked for \(patch-00001\); expected all 3 .* Leave"
    ):
        oracle.answer(KEYS)


def test_people_get_a_table_pictures_and_the_rules(written: Path) -> None:
    folder = written / "round_03"
    lines = list(csv.reader((folder / "labels.csv").read_text("utf-8-sig").splitlines()))
    assert lines == [["key", "picture", "labels"], *([key, f"pictures/{key}.png", ""] for key in KEYS)]
    for _, picture, _ in lines[1:]:
        with Image.open(folder / picture) as image:
            image.load()
            assert image.width > 300
    assert len(list((folder / "pictures").iterdir())) == 3
    rules = (folder / "README.txt").read_text()
    assert "separated by ';', or - where you see none" in rules
    assert rules.endswith("Classes:\n  field\n  forest\n  water\n")


def test_pictures_do_not_tell_the_labels(
    shards: ShardSet, written: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    captions = []
    caption = preview._caption
    monkeypatch.setattr(preview, "_caption", lambda *args: captions.append(caption(*args)) or captions[-1])
    row = shards.row_of_key[KEYS[0]]
    preview.draw_sample(shards, row, tmp_path / "with.png")
    preview.draw_sample(shards, row, tmp_path / "without.png", labels=False)
    told, hidden = captions
    assert shards[row].labels["class"][0] in told
    assert not any(name in hidden for name in CLASSES)
    assert KEYS[0] in hidden
    shown = (written / "round_03" / "pictures" / f"{KEYS[0]}.png").read_bytes()
    assert shown == (tmp_path / "without.png").read_bytes() != (tmp_path / "with.png").read_bytes()


def test_the_filled_table_is_the_answer(shards: ShardSet, folder: Path) -> None:
    oracle = CsvOracle(folder, shards, SEVERAL)
    assert oracle.answer(KEYS, 3) is None  # nobody has written yet
    # In another order, with capitals, spaces, an empty row and a label twice.
    fill(folder, (KEYS[1], "", " Water ;field; water"), (), (KEYS[0], "", "forest;"), (KEYS[2], "", "-"))
    assert oracle.answer(KEYS, 3) == {
        "patch-00003": ("forest",), "patch-00001": ("field", "water"), "patch-00008": ()
    }  # fmt: skip


@pytest.mark.parametrize("delimiter", [",", ";", "\t"])
@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig"])
def test_what_spreadsheets_of_any_country_save(shards: ShardSet, folder: Path, delimiter: str, encoding: str) -> None:
    oracle = CsvOracle(folder, shards, Nomenclature(("Wald, naß", "Straße"), True))
    with oracle.table(3).open("w", newline="", encoding=encoding) as file:
        rows = [("key", "labels"), *((key, "Straße; Wald, naß") for key in KEYS)]  # a column was thrown away
        csv.writer(file, delimiter=delimiter).writerows(rows)
    assert oracle.answer(KEYS, 3) == dict.fromkeys(KEYS, ("Wald, naß", "Straße"))


def test_all_faults_are_told_together_and_can_be_corrected(shards: ShardSet, folder: Path) -> None:
    oracle = CsvOracle(folder, shards, SEVERAL)
    path = fill(
        folder,
        (KEYS[0], "", "forrest; ice; water"),
        (KEYS[0], "", "water"),
        ("patch-00009", "", "water"),
        (KEYS[1], "", ""),
    )
    before = path.read_bytes()
    assert told(oracle) == [
        "row 2: key 'patch-00003' stands in 2 rows",
        "row 3: key 'patch-00003' stands in 2 rows",
        "row 4: key 'patch-00009' was not asked for",
        "row 5 (patch-00001): no label; write - for none of the classes",
        "no row has the key 'patch-00008'",
    ]
    fill(folder, (KEYS[0], "", "forrest; ice; water"), (KEYS[1], "", "field"), (KEYS[2], "", "- ; field"))
    assert told(oracle) == [
        "row 2 (patch-00003): unknown label 'forrest' (nearest: forest), 'ice'",
        "row 4 (patch-00008): unknown label '-'",
    ]
    path.write_bytes(before)
    assert len(told(oracle)) == 5  # nothing was written or remembered
    fill(folder, *((key, "", "water") for key in KEYS))
    assert oracle.answer(KEYS, 3) == dict.fromkeys(KEYS, ("water",))


def test_one_label_an_image(shards: ShardSet, folder: Path) -> None:
    oracle = CsvOracle(folder, shards, Nomenclature(CLASSES, False))
    fill(folder, (KEYS[0], "", "forest; water"), (KEYS[1], "", "-"), (KEYS[2], "", ""))
    assert told(oracle) == [
        "row 2 (patch-00003): 2 labels, expected one",
        "row 3 (patch-00001): unknown label '-'",
        "row 4 (patch-00008): no label",
    ]
    fill(folder, *((key, "", "water") for key in KEYS))
    assert oracle.answer(KEYS, 3) == dict.fromkeys(KEYS, ("water",))


def test_tables_that_cannot_be_read(shards: ShardSet, folder: Path) -> None:
    oracle = CsvOracle(folder, shards, SEVERAL)
    fill(folder, (KEYS[0], "", "forest", "water"), (KEYS[1], "", "water"), (KEYS[2], "", "water"))
    assert told(oracle) == ["row 2: 4 cells for 3 columns; separate labels with ';'"]
    fill(folder, (KEYS[0], "forest"), header=("name", "class"))
    assert told(oracle) == ["its first row is ['name', 'class']; expected the columns ['key', 'picture', 'labels']"]
    oracle.table(3).write_bytes("key,labels\npatch-00001,Straße\n".encode("cp1252"))
    assert told(oracle) == ["it is not UTF-8; save it as 'CSV UTF-8'"]
    oracle.table(3).write_bytes(b"")
    assert told(oracle) == ["its first row is []; expected the columns ['key', 'picture', 'labels']"]


def test_an_interrupted_round_keeps_its_pictures_and_what_people_typed(shards: ShardSet, folder: Path) -> None:
    oracle, table = CsvOracle(folder, shards, SEVERAL), folder / "round_03" / "labels.csv"
    pictures = table.parent / "pictures"
    table.unlink()  # killed while it drew
    (pictures / f"{KEYS[2]}.png").rename(pictures / f"{KEYS[2]}.png.part")
    times = [(pictures / f"{key}.png").stat().st_mtime_ns for key in KEYS[:2]]
    assert oracle.answer(KEYS, 3) is None
    assert [(pictures / f"{key}.png").stat().st_mtime_ns for key in KEYS[:2]] == times
    assert len(list(pictures.iterdir())) == 3
    fill(folder, (KEYS[0], "", "water"))
    typed = table.read_bytes()
    assert len(told(oracle)) == 2
    assert table.read_bytes() == typed


def test_classes_that_a_table_cannot_hold(shards: ShardSet, tmp_path: Path) -> None:
    for names, told in ((("a;b", "c"), "a;b"), (("-", "c"), "-"), (("Sea", "sea"), "Sea', 'sea")):
        with pytest.raises(
            ValueError, match=rf"got the classes \['{told}'\]; expected names without ';'.* Rename them"
        ):
            CsvOracle(tmp_path, shards, Nomenclature(names, True))
