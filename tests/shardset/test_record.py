import io
import tarfile

import numpy as np
import pytest
from fakes.memory import PAIR_GROUPS, SCENE_GROUPS, MemoryArchive
from laws import check_record

from rspretrain.patch import PatchError
from rspretrain.shardset.record import (
    END_OF_TAR,
    check_patch,
    encode,
    fixed_layout,
    matches_layout,
    npy_header,
    parse_npy_header,
)


@pytest.mark.parametrize("groups", [PAIR_GROUPS, SCENE_GROUPS])
def test_decode_inverts_encode(groups):
    archive = MemoryArchive(groups=groups)
    for entry in archive.entries()[0][:6]:
        check_record(archive, archive.read(entry))


def test_records_of_equal_shapes_have_equal_layouts():
    archive = MemoryArchive()
    layout = fixed_layout(archive.groups, True, archive.metadata_bytes)
    for entry in archive.entries()[0][:7]:
        record = encode(archive.read(entry), archive.groups, archive.nomenclatures, archive.metadata_bytes)
        assert matches_layout(record, layout)
    assert fixed_layout(SCENE_GROUPS, True, 1024) is None


def test_owner_time_and_order_are_fixed():
    archive = MemoryArchive()
    record = encode(archive.read(archive.entries()[0][3]), archive.groups, archive.nomenclatures, 1024)
    members = tarfile.open(fileobj=io.BytesIO(record.data + END_OF_TAR)).getmembers()
    assert [m.name.partition(".")[2] for m in members] == [
        "s1_10m.npy", "s2_10m.npy", "s2_20m.npy", "s2_60m.npy", "cls", "json",
    ]  # fmt: skip
    assert {(m.mtime, m.uid, m.gid, m.uname, m.mode) for m in members} == {(0, 0, 0, "", 0o644)}


@pytest.mark.parametrize(
    ("fault", "message"),
    [
        ("nan", r"group s1_10m has NaN or infinite pixels, by band: \{'VH': 1\}"),
        ("dtype", "group s2_20m has dtype int32, expected uint16"),
    ],
)
def test_patches_that_do_not_match_their_archive(fault, message):
    archive = MemoryArchive(broken={2: fault})
    with pytest.raises(PatchError, match=message):
        check_patch(archive.read(archive.entries()[0][2]), archive.groups, archive.nomenclatures)


def test_shape_label_and_key():
    archive = MemoryArchive()
    patch = archive.read(archive.entries()[0][0])
    wrong = {**patch.images, "s1_10m": np.zeros((2, 12, 11), np.float32)}
    for change, message in (
        ({"images": wrong}, r"group s1_10m is \(12, 11\) pixels, expected \(12, 12\)"),
        ({"labels": {"all": ("moon",)}}, r"labels \['moon'\] are not in nomenclature 'all'"),
        ({"labels": {"class": ()}}, r"has labels \[\] in the single-label nomenclature 'class', expected one"),
        ({"key": "A.b"}, r"key 'A.b' is not of the form \[a-z0-9_-\]\+"),
    ):
        with pytest.raises(PatchError, match=message):
            check_patch(type(patch)(**{**vars(patch), **change}), archive.groups, archive.nomenclatures)
    with pytest.raises(PatchError, match="has 111 characters, a tar header holds 100"):
        encode(type(patch)(**{**vars(patch), "key": "k" * 100}), archive.groups, archive.nomenclatures, 1024)


def test_an_array_header_one_bit_off_is_a_value_error():
    header = npy_header("float32", (2, 3, 3))
    assert parse_npy_header(header) == (np.dtype("float32"), (2, 3, 3))
    for damaged in (header.replace(b"<f4", b"<b4"), header.replace(b"<f4", b"<f1"), header.replace(b"False", b"Fals ")):
        with pytest.raises(ValueError, match="array header .*, expected"):
            parse_npy_header(damaged)
