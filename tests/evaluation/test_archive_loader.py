"""Batches of an archive equal those of its shard set; unreadable images are skipped and named."""

from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
import torch
from fakes.memory import PAIR_GROUPS, SCENE_GROUPS, MemoryArchive, memory_shards

from rspretrain.batch import Batch
from rspretrain.evaluation import archive_loader
from rspretrain.evaluation.archive_loader import ArchiveLoader
from rspretrain.sensors import Group
from rspretrain.shardset.rows import corners_of
from rspretrain.streaming.loader import evaluation_batches
from rspretrain.transforms.inputs import SensorInput, SensorSettings
from rspretrain.transforms.resample import full_geometry

CPU = torch.device("cpu")


def batches(archive: MemoryArchive, rows: list[int], batch_size: int = 3) -> ArchiveLoader:
    return ArchiveLoader(archive, archive.entries()[0], np.array(rows, dtype=np.int64), batch_size, CPU)


@pytest.mark.parametrize("groups", [PAIR_GROUPS, SCENE_GROUPS], ids=["pairs", "scenes"])
def test_batches_equal_those_of_a_shard_set(tmp_path: Path, groups: tuple[Group, ...]) -> None:
    """Also for images of different sizes."""
    shards, archive = memory_shards(tmp_path / "x", samples=9, groups=groups), MemoryArchive(9, groups)
    sensor, bands = ("s2", ("B02", "B8A", "B01")) if groups == PAIR_GROUPS else ("rgb", ("R", "G", "B"))
    one = SensorInput(sensor, SensorSettings(bands=bands), groups)

    def view(batch: Batch) -> torch.Tensor:
        return one(batch, full_geometry(len(batch), CPU), 10)

    wanted = [7, 2, 5, 8]
    rows = np.array([shards.row_of_key[f"patch-{number:05d}"] for number in wanted])
    stored = torch.cat([view(batch) for batch in evaluation_batches(shards, one.groups, rows, 3)])
    found = batches(archive, wanted)
    assert torch.equal(torch.cat([view(batch) for batch in found]), stored)
    assert found.rows == wanted
    corners = corners_of(locations(shards, rows))
    np.testing.assert_array_equal(found.corners(), corners)
    assert np.isfinite(corners).all()


def locations(shards, rows):
    return pa.table({name: shards.column(name).take(rows) for name in ("crs", "left", "bottom", "right", "top")})


def test_unreadable_images_are_skipped_and_named() -> None:
    archive = MemoryArchive(6, broken={1: "unreadable", 4: "cloudy"})
    found = batches(archive, [0, 1, 2, 3, 4, 5], batch_size=2)
    assert [batch.rows.tolist() for batch in found] == [[0, 2], [3, 5]]
    assert [(fault.name, fault.reason) for fault in found.faults] == [("Patch1", "Patch.tif: cannot be read")]
    assert [fault.name for fault in found.excluded] == ["Patch4"]
    assert found.corners().shape == (4, 5, 2)
    assert batches(archive, []).corners().shape == (0, 5, 2)


def test_large_images_are_read_in_smaller_batches(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(archive_loader, "_MAX_ELEMENTS", 2000)  # an image has 1,088 values
    assert [len(batch) for batch in batches(MemoryArchive(5), [0, 1, 2, 3, 4], batch_size=100)] == [2, 2, 1]
