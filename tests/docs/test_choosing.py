"""docs/choosing.md: the computed tables follow from the committed results."""

import csv
import re

import pytest

from docs.pages import ROOT, section

NETWORKS = {
    "densenet121": "DenseNet-121",
    "resnet10t": "ResNet-10-T",
    "resnet18": "ResNet-18",
    "resnet50": "ResNet-50",
    "vit_small_patch16_224": "ViT-S/16",
    "vit_tiny_patch16_224": "ViT, 4 blocks",
}


def results(name: str) -> list[dict[str, str]]:
    with (ROOT / f"benchmarks/results/{name}.csv").open() as file:
        return list(csv.DictReader(file))


def table(title: str) -> list[list[str]]:
    """The cells of the first table of a section, without the two header lines."""
    rows = re.search(r"(?:^\|.*\|\n)+", section("choosing", title), re.MULTILINE)[0].splitlines()
    return [[cell.strip() for cell in row.split("|")[1:-1]] for row in rows[2:]]


def test_every_shipped_configuration_has_its_row():
    names = [
        path.stem for path in sorted((ROOT / "configs/pretrain").glob("*.yaml")) if not path.stem.startswith("own_")
    ]
    assert [row[0] for row in table("What fits")] == [f"`{name}`" for name in names]


@pytest.mark.parametrize("row", [row for row in results("memory") if ".py" not in row["config"]])
def test_what_fits_follows_the_documented_arithmetic(row):
    (cells,) = [cells for cells in table("What fits") if cells[0] == f"`{row['config']}`"]
    trained, frozen = float(row["params_m"]), float(row["teacher_params_m"])
    fixed_mb, sample_mb = float(row["weights_mb"]), float(row["activations_mb_per_sample"])
    assert fixed_mb == pytest.approx(16 * trained + 4 * frozen, abs=1)
    limits = [f"{int((0.8 * gb * 1000 - fixed_mb) / sample_mb):,}" for gb in (24, 80)]
    batch, operations = f"{int(row['global_batch']):,}", f"{float(row['gflop_per_sample']):.1f}"
    assert cells[1:] == [
        NETWORKS[row["backbone"]],
        f"{fixed_mb / 1000:.2f}",
        f"{sample_mb:.1f}",
        *limits,
        batch,
        operations,
    ]


def test_costs_of_archives_are_those_of_the_benchmark():
    shares = {
        name: float(row["share_of_raw"])
        for row in results("compression")
        for name, images in (("bigearthnet-mm", "BigEarthNet-MM pairs"), ("sen12ms", "SEN12MS pair"))
        if (row["images"], row["method"]) == (images, "bit shuffle + lz4 9")
    }
    shown = table("Size and build time of the archives")
    for row, cells in zip(results("archive_costs"), shown, strict=True):
        size = float(row["shards_gb"])
        assert size == pytest.approx(int(row["samples"]) * int(row["bytes_per_sample"]) / 1e9, abs=0.1)
        packed = float(cells[3].removesuffix(" GB")) if row["archive"] in shares else None
        assert packed is None or packed == pytest.approx(size * shares[row["archive"]], rel=0.01)
        expected = [
            f"{int(row['samples']):,}",
            f"{size:.1f} GB",
            f"{float(row['build_core_minutes']):.0f} min",
            f"{size:.0f} s",
        ]
        assert [*cells[1:3], *cells[4:]] == expected
