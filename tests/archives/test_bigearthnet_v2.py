"""BigEarthNet v2: tables joined with files, unchanged maps, every fault by name, and real files if available."""

import pickle
import re
import shutil
from collections import Counter
from functools import partial
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from fakes.bigearthnet_v2 import SECOND_TABLE, TABLE, band_files, write_bigearthnet_v2, write_table
from laws import check_archive

from rspretrain.archives import open_archive
from rspretrain.archives.bigearthnet_v2 import BigEarthNetV2
from rspretrain.archives.raster import read_raster, write_raster
from rspretrain.shardset.building.build import build_shards
from rspretrain.shardset.index import ShardSet

REAL = Path(__file__).parents[2].parent / "shared/data/bigearthnet-v2"
real = pytest.mark.skipif(not REAL.is_dir(), reason="the real patches of ../shared/data are not here")


@pytest.fixture(scope="module")
def source(tmp_path_factory):
    return write_bigearthnet_v2(tmp_path_factory.mktemp("bigearthnet_v2") / "archive")


@pytest.fixture
def copy(source, tmp_path):
    return Path(shutil.copytree(source, tmp_path / "archive"))


def check(archive, faults):
    check_archive(archive, faults, partial(band_files, archive))


def edit(root, rows=slice(None), **changes):
    """Change cells in some rows of the main table."""
    table = pq.read_table(root / TABLE).to_pylist()
    for row in table[rows]:
        row.update(changes)
    write_table(root / TABLE, table)


def first_files(root):
    archive = BigEarthNetV2(root)
    entry = archive.entries()[0][0]
    return entry, band_files(archive, entry)


@pytest.mark.parametrize("sensors", [("s2", "s1"), ("s2",), ("s1",), ("s2", "maps"), ("s1", "maps"), ()])
def test_law(source, sensors):
    archive = BigEarthNetV2(source, **dict.fromkeys(sensors, source))
    check(archive, {})
    entries, _ = pickle.loads(pickle.dumps(archive)).entries()
    assert len(entries) == 8
    assert {entry.source.split for entry in entries} == {"train", "val", "test"}


def test_sources_are_one_root_or_all_folders(source):
    whole = open_archive("bigearthnet-v2", [str(source)])
    assert [group.sensor for group in whole.groups] == ["s1", "s2", "s2", "s2", "map"]
    parts = {"s2": "BigEarthNet-S2", "s1": "BigEarthNet-S1", "maps": "Reference_Maps", "metadata": TABLE}
    alone = open_archive("bigearthnet-v2", [f"{name}={source / path}" for name, path in parts.items()])
    assert (alone.entries(), alone.groups) == (whole.entries(), whole.groups)
    one = open_archive("bigearthnet-v2", [f"metadata={source}", f"s1={source}"])
    assert [group.name for group in one.groups] == ["s1_10m"]


def test_a_patch_has_all_columns_of_its_row(source):
    archive = BigEarthNetV2(source)
    entry = archive.entries()[0][0]
    patch = archive.read(entry)
    (row,) = [row for row in pq.read_table(source / TABLE).to_pylist() if row["patch_id"] == entry.name]
    assert sorted(patch.labels["19"]) == row["labels"]
    assert patch.split == {"train": "train", "validation": "val", "test": "test"}[row["split"]]
    assert {name: patch.attributes[name] for name in ("s2_name", "s1_name", "s2v1_name", "country")} == {
        "s2_name": row["patch_id"], "s1_name": row["s1_name"], "s2v1_name": row["s2v1_name"],
        "country": row["country"],
    }  # fmt: skip
    for name, sensor in ((row["patch_id"], "s2"), (row["s1_name"], "s1")):
        assert re.sub(r"[-:]", "", str(patch.attributes[f"{sensor}_date"])) in name
    assert (patch.attributes["contains_seasonal_snow"], patch.attributes["contains_cloud_or_shadow"]) == (0, 0)
    alone = BigEarthNetV2(source, s2=source).read(entry).attributes
    assert alone.keys() == patch.attributes.keys() - {"s1_date"}
    left, bottom, right, top = patch.bounds
    assert (right - left, top - bottom, patch.crs[:7]) == (1200, 1200, "EPSG:32")


def test_maps_keep_their_codes(source):
    archive = BigEarthNetV2(source)
    (group,) = [group for group in archive.groups if group.sensor == "map"]
    assert (group.bands, group.units, group.nodata) == (("clc",), "class", 999.0)
    codes = np.unique(archive.read(archive.entries()[0][0]).images["map_10m"])
    assert codes[0] >= 111
    assert codes[-1] == 999


def test_snow_and_cloud_patches_are_optional(source):
    archive = open_archive("bigearthnet-v2", [str(source)], ["include_snow_cloud=true"])
    check(archive, {})
    entries, _ = archive.entries()
    flags = Counter(archive.read(entry).attributes["contains_seasonal_snow"] for entry in entries)
    assert (len(entries), flags) == (10, {0: 8, 1: 2})


def test_folders_in_no_table_are_faults(copy):
    rows = pq.read_table(copy / SECOND_TABLE).to_pylist()
    (copy / SECOND_TABLE).unlink()
    hint = f"has no row in metadata.parquet; put {SECOND_TABLE} beside it if these have snow or cloud, else remove"
    check(BigEarthNetV2(copy), {row[name]: hint for row in rows for name in ("patch_id", "s1_name")})
    write_table(copy / SECOND_TABLE, rows[1:])
    hint = f"has no row in metadata.parquet and {SECOND_TABLE}; complete the tables or remove the folder"
    check(BigEarthNetV2(copy, s2=copy), {rows[0]["patch_id"]: hint})


def test_unpaired_patches_are_faults(copy):
    (entry, files), last = first_files(copy), BigEarthNetV2(copy).entries()[0][-1]
    shutil.rmtree(files["s1_10m"][0].parent)
    shutil.rmtree(band_files(BigEarthNetV2(copy), last)["s2_10m"][0].parent)
    s1, s2 = last.source.s1_name, last.source.patch_id
    check(BigEarthNetV2(copy), {
        entry.name: f"Sentinel-2 patch without its Sentinel-1 partner {entry.source.s1_name}",
        s1: f"Sentinel-1 patch without its Sentinel-2 partner {s2}",
    })  # fmt: skip
    check(BigEarthNetV2(copy, s2=copy), {})
    assert len(BigEarthNetV2(copy, s1=copy).entries()[0]) == 7


def test_unexpected_folders_are_faults(copy):
    entry, files = first_files(copy)
    tile = files["s2_10m"][0].parents[1]
    (tile / "notes").mkdir()
    (tile / ".hidden").mkdir()
    (tile / "README.txt").touch()
    other = tile.with_name(tile.name[:-1] + "Z")
    other.mkdir()
    files["s2_10m"][0].parent.rename(other / entry.name)
    shutil.copytree(files["s1_10m"][0].parent, copy / "BigEarthNet-S1/flat")
    check(BigEarthNetV2(copy, s2=copy), {
        "notes": "the folder name is not a patch name, expected (?P<parent>S2[AB]_MSIL2A_",
        entry.name: f"is in {other.name}, expected {tile.name}; move it there",
    })  # fmt: skip
    check(
        BigEarthNetV2(copy, s1=copy), {"flat": "the folder name is not a tile or scene, expected S1[AB]_IW_GRDH_1SDV_"}
    )


@pytest.mark.parametrize("group", ["s2_20m", "s1_10m", "map_10m"])
def test_missing_and_truncated_files_are_named(copy, group):
    entry, files = first_files(copy)
    path = files[group][-1]
    path.write_bytes(path.read_bytes()[:5000])
    check(BigEarthNetV2(copy), {entry.name: f"{path.name}: cannot be read ("})
    path.unlink()
    check(BigEarthNetV2(copy), {entry.name: f"{path.name}: the file is missing. Unpack or download"})


def test_files_of_other_locations_and_shapes_are_named(copy):
    entry, files = first_files(copy)
    path = files["map_10m"][0]
    raster = read_raster(path)
    left, _, _, top = raster.bounds
    epsg = int(raster.crs.removeprefix("EPSG:"))
    for pixels, edge, message in (
        (raster.pixels[:, :119], left, "_reference_map.tif: uint16 (1, 119, 120), expected uint16 (1, 120, 120)."),
        (
            raster.pixels.astype(np.uint8),
            left,
            "_reference_map.tif: uint8 (1, 120, 120), expected uint16 (1, 120, 120)",
        ),
        (raster.pixels, left + 1200, f"_reference_map.tif: is at {raster.crs} ({left + 1200}, "),
    ):
        write_raster(path, pixels, epsg, edge, top, 10)
        check(BigEarthNetV2(copy), {entry.name: message})


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (
            {"labels": ["Pasture"]},
            ": label 'Pasture' is not one of the 19 CORINE classes (nearest: 'Pastures'). Repair",
        ),
        ({"labels": []}, ": no labels, expected CORINE names. Repair the table."),
    ],
    ids=["label", "no labels"],
)
def test_invalid_rows_are_named(copy, changes, message):
    edit(copy, slice(1), **changes)
    (name,) = (row["patch_id"] for row in pq.read_table(copy / TABLE).to_pylist()[:1])
    check(BigEarthNetV2(copy, s2=copy), {name: message})


def test_invalid_names_are_named(copy):
    entry, files = first_files(copy)
    row = [row["patch_id"] for row in pq.read_table(copy / TABLE).to_pylist()].index(entry.name)
    edit(copy, slice(row, row + 1), patch_id="S2A")
    s1 = entry.source.s1_name
    check(BigEarthNetV2(copy, s1=copy), {})
    message = "S2A is not a patch name, expected (?P<parent>S2[AB]_MSIL2A_"
    check(BigEarthNetV2(copy, s1=copy, maps=copy), {s1: message})
    date = "20171306T165043"  # month 13
    odd = f"S1A_IW_GRDH_1SDV_{date}_33UUP_1_2"
    folder = copy / "BigEarthNet-S1" / odd.rsplit("_", 3)[0]
    folder.mkdir()
    files["s1_10m"][0].parent.rename(folder / odd)
    edit(copy, slice(row, row + 1), s1_name=odd)
    check(
        BigEarthNetV2(copy, s1=copy), {odd: f"{odd}: no date in '{date}', expected YYYYMMDDThhmmss. Repair its name."}
    )


def test_invalid_tables(copy):
    cases = {
        "split": (r"has the splits \['val'\], expected \['train', 'validation', 'test'\]\. Download", {"split": "val"}),
        "country": (r"has empty cells in \['country'\], expected none\. Download", {"country": None}),
        "s1_name": (r"metadata\.parquet: 8 values of s1_name are repeated, expected none\. Download", {"s1_name": "x"}),
    }
    rows = pq.read_table(copy / TABLE)
    for message, changes in cases.values():
        edit(copy, **changes)
        with pytest.raises(ValueError, match=message):
            BigEarthNetV2(copy).entries()
        pq.write_table(rows, copy / TABLE)
    pq.write_table(rows.drop_columns(["split"]), copy / TABLE)
    with pytest.raises(ValueError, match=r"has no columns \['split'\], expected \['patch_id', "):
        BigEarthNetV2(copy).entries()
    (copy / TABLE).write_text("no parquet")
    with pytest.raises(ValueError, match=r"metadata\.parquet: cannot be read \(.*\), expected BigEarthNet v2's table"):
        BigEarthNetV2(copy).entries()


def test_missing_sources(source, tmp_path):
    with pytest.raises(
        ValueError, match=r"metadata\.parquet is not a file, expected BigEarthNet v2's metadata\.parquet"
    ):
        BigEarthNetV2(tmp_path)
    shutil.copy(source / TABLE, tmp_path)
    with pytest.raises(ValueError, match=r"got no images, expected BigEarthNet-S2 or BigEarthNet-S1 beside \S+, or"):
        BigEarthNetV2(tmp_path)
    with pytest.raises(ValueError, match=r"got no images, expected"):
        BigEarthNetV2(tmp_path, maps=source)
    with pytest.raises(ValueError, match=r"none is not a folder, expected BigEarthNet-S2\. Give the path"):
        BigEarthNetV2(tmp_path, s2=tmp_path / "none")
    with pytest.raises(ValueError, match=r"include_snow_cloud needs \S+shadow\.parquet, which is missing\. Put it"):
        BigEarthNetV2(tmp_path, s2=source, include_snow_cloud=True)
    with pytest.raises(
        ValueError, match=r"got no source 'metadata', expected --source metadata=PATH .*\. Add metadata=PATH"
    ):
        open_archive("bigearthnet-v2", [f"s2={source}"])


def test_records_of_shards_have_one_size(source, tmp_path):
    assert build_shards(BigEarthNetV2(source), tmp_path / "shards").written == 8
    shards = ShardSet(tmp_path / "shards")
    assert shards.manifest.shards[0].uniform
    assert set(shards.column("country").to_pylist()) <= {"Austria", "Finland", "Ireland", "Portugal"}
    assert shards.column("contains_seasonal_snow").type == pa.int64()


@real
def test_the_real_patches():
    s1, s2 = BigEarthNetV2(REAL, s1=REAL), BigEarthNetV2(REAL, s2=REAL)
    check(s1, {})
    check(s2, {})
    assert [len(archive.entries()[0]) for archive in (s1, s2)] == [3, 2]
    patch = s2.read(s2.entries()[0][0])
    assert (patch.key, patch.split) == ("s2a_msil2a_20170613t101031_n9999_r022_t33uup_75_43", "val")
    assert patch.labels["19"][:2] == ("Arable land", "Pastures")
    assert (patch.crs, patch.bounds) == ("EPSG:32633", (390000.0, 5347200.0, 391200.0, 5348400.0))


@real
def test_the_real_patches_are_unpaired_and_have_no_maps():
    faults = {fault.name: fault.reason for fault in BigEarthNetV2(REAL).entries()[1]}
    assert len(faults) == 5
    assert all(f"without its Sentinel-{3 - int(name[1])} partner S" in reason for name, reason in faults.items())
    archive = BigEarthNetV2(REAL, s2=REAL, maps=REAL)
    missing = {entry.name: f"{entry.name}_reference_map.tif: the file is missing" for entry in archive.entries()[0]}
    check(archive, missing)
    (path,) = (REAL / "Reference_Maps").glob("*/*/*.tif")
    raster = read_raster(path)
    assert (raster.pixels.dtype, raster.pixels.shape, raster.crs) == (np.uint16, (1, 120, 120), "EPSG:32633")


@real
def test_the_real_tables_match_the_reader():
    archive = BigEarthNetV2(REAL, s2=REAL, include_snow_cloud=True)
    assert len(archive._read_tables()) == 480_038 + 69_450


@pytest.mark.parametrize(
    "types",
    [
        dict.fromkeys(("patch_id", "split", "s1_name"), pa.large_string())
        | {"labels": pa.large_list(pa.large_string())},
        dict.fromkeys(("split", "country"), pa.dictionary(pa.int32(), pa.string())),
        dict.fromkeys(("contains_seasonal_snow", "contains_cloud_or_shadow"), pa.int8()),
        dict.fromkeys(("patch_id", "s1_name"), pa.string_view()),
    ],
)
def test_tables_of_other_writers(copy, types):
    """Other column types give the same entries, whose repr is part of the checksum of a plan."""
    expected = BigEarthNetV2(copy).entries()
    table = pq.read_table(copy / TABLE)
    fields = [pa.field(field.name, types.get(field.name, field.type)) for field in table.schema]
    pq.write_table(table.cast(pa.schema(fields)), copy / TABLE)
    assert repr(BigEarthNetV2(copy).entries()) == repr(expected)


def test_columns_of_other_types_and_labels_that_are_empty(copy):
    edit(copy, slice(0, 1), labels=[None])
    archive = BigEarthNetV2(copy)
    broken = [entry for entry in archive.entries()[0] if entry.source.labels == (None,)]
    with pytest.raises(ValueError, match=r"no labels, expected CORINE names\. Repair the table"):
        archive.read(broken[0])
    table = pq.read_table(copy / TABLE)
    column = table.schema.get_field_index("labels")
    pq.write_table(table.set_column(column, "labels", pa.array(range(len(table)))), copy / TABLE)
    with pytest.raises(
        ValueError, match=r"cannot be read \(Unsupported cast from int64 to list.*BigEarthNet v2's table"
    ):
        BigEarthNetV2(copy).entries()


def test_maps_keep_their_dtype(copy):
    for path in (copy / "Reference_Maps").rglob("*.tif"):
        raster = read_raster(path)
        epsg, (left, *_, top) = int(raster.crs[5:]), raster.bounds
        write_raster(path, raster.pixels.astype("int32"), epsg, left, top, 10.0)
    archive = BigEarthNetV2(copy)
    assert archive.groups[-1].dtype == "int32"
    check(archive, {})
