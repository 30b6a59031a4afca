"""`rspretrain build` and the commands on its result: output, files, exit codes."""

import json
from pathlib import Path

import numpy as np
import pytest
import rasterio
import webdataset
from fakes.bigearthnet import band_files, write_bigearthnet, write_lists
from fakes.scenes import write_folder, write_resisc45

from rspretrain.archives.bigearthnet import BigEarthNet
from rspretrain.shardset.index import open_shards

ROOT = Path(__file__).parents[2]


def sources(root: Path) -> list[str]:
    return ["--source", f"S2={root}", f"S1={root}", f"splits={root}"]


def test_every_pixel_is_rasterios_through_stock_webdataset(tmp_path, command):
    root = write_bigearthnet(tmp_path / "archive", pairs=10)
    built = command("build", "bigearthnet", *sources(root), "--out", tmp_path / "out", "--samples-per-shard", 4)
    assert built.returncode == 0, built.stderr
    assert "10 of 10 patches in 3 shards" in built.stdout
    archive = BigEarthNet(s2=root, s1=root)
    entries = {entry.key: entry for entry in archive.entries()[0]}
    urls = [str(path) for path in sorted((tmp_path / "out").glob("*.tar"))]
    for sample in webdataset.WebDataset(urls, shardshuffle=False).decode():
        for group, files in band_files(archive, entries.pop(sample["__key__"])).items():
            for pixels, file in zip(sample[f"{group}.npy"], files, strict=True):
                with rasterio.open(file) as source:
                    expected = source.read(1)
                assert pixels.dtype == expected.dtype
                np.testing.assert_array_equal(pixels, expected)
    assert not entries


def test_broken_patches_are_named_left_out_and_counted(tmp_path, command):
    root = write_bigearthnet(tmp_path / "archive", pairs=10)
    archive = BigEarthNet(s2=root, s1=root)
    missing, cut, nan, label, lonely = archive.entries()[0][:5]
    band_files(archive, missing)["s2_60m"][0].unlink()
    file = band_files(archive, cut)["s2_10m"][1]
    file.write_bytes(file.read_bytes()[:5000])
    with rasterio.open(band_files(archive, nan)["s1_10m"][1], "r+") as target:
        pixels = target.read()
        pixels[0, 3, 4] = np.nan
        target.write(pixels)
    metadata = archive.s2 / label.source.s2 / f"{label.source.s2}_labels_metadata.json"
    metadata.write_text(metadata.read_text().replace('"labels": ["', '"labels": ["Moon base", "'))
    for path in (archive.s2 / lonely.source.s2).iterdir():
        path.unlink()
    (archive.s2 / lonely.source.s2).rmdir()

    built = command("build", "bigearthnet", *sources(root), "--out", tmp_path / "out")
    assert built.returncode == 3
    assert "5 of 10 patches in 1 shards" in built.stdout
    reasons = {
        fault["name"]: fault["reason"]
        for fault in json.loads((tmp_path / "out/build_report.json").read_text())["faults"]
    }
    for name, part in (
        (missing.name, "the file is missing"),
        (cut.name, "cannot be read"),
        (nan.name, "group s1_10m has NaN or infinite pixels, by band: {'VH': 1}"),
        (label.name, "Moon base"),
        (lonely.source.s1, "without its Sentinel-2 partner"),
    ):
        assert part in reasons[name]
        assert f"left out: {name}: " in built.stdout
    assert len(reasons) == 5
    allowed = command("build", "bigearthnet", *sources(root), "--out", tmp_path / "again", "--allow-skips")
    assert allowed.returncode == 0
    assert command("verify", tmp_path / "again").returncode == 0


def test_two_pictures_of_one_key(tmp_path, command):
    root = write_resisc45(tmp_path / "pictures")  # its stems are unique; a folder of pictures would keep both
    first = sorted(path for path in root.rglob("*") if path.is_file())[0]
    first.with_suffix(".tif").write_bytes(first.read_bytes())
    built = command("build", "resisc45", "--source", root, "--out", tmp_path / "out")
    assert built.returncode == 3
    assert "has the same key" in built.stdout


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["moon", "--source", "x"], "Unknown archive 'moon', expected one of bigearthnet, bigearthnet-v2, sen12ms, "),
        (["folder", "--source", "nowhere"], "nowhere is not a folder"),
        (["bigearthnet", "--source", "x"], "expected --source [s2=PATH] [s1=PATH] [splits=PATH]"),
        (["bigearthnet", "--source", "S3=x"], "has no source 'S3=x'"),
    ],
)
def test_mistakes_are_one_paragraph(tmp_path, command, arguments, message):
    done = command("build", *arguments, "--out", tmp_path / "out")
    assert done.returncode == 2
    assert message in done.stderr
    assert "Traceback" not in done.stderr


def test_output_that_is_in_use(tmp_path, command):
    root = write_folder(tmp_path / "pictures")
    (tmp_path / "out").mkdir()
    (tmp_path / "out/mine.txt").write_text("")
    done = command("build", "folder", "--source", root, "--out", tmp_path / "out")
    assert done.returncode == 2
    assert "is not empty: it holds ['mine.txt']" in done.stderr


@pytest.mark.parametrize("codec", ["zstd", "bitshuffle-lz4", "bitshuffle-zstd"])
def test_compressed_shards_have_the_same_pixels(tmp_path, command, codec):
    root = write_bigearthnet(tmp_path / "archive", pairs=10)
    for name in ("raw", codec):
        built = command("build", "bigearthnet", *sources(root), "--out", tmp_path / name, "--codec", name)
        assert built.returncode == 0, built.stderr
    one, other = open_shards(tmp_path / "raw"), open_shards(tmp_path / codec)
    assert other.manifest.codec == codec
    assert one.manifest.statistics == other.manifest.statistics
    for row in range(10):
        (images, metadata), (packed, packed_metadata) = one.read(row), other.read(row)
        assert all(np.array_equal(images[name], packed[name]) for name in images)
        assert {**metadata, "xxh3": None} == {**packed_metadata, "xxh3": None}
    assert command("verify", tmp_path / codec).returncode == 0


def test_samples_excluded_by_options_are_counted_but_no_faults(tmp_path, command):
    root = write_bigearthnet(tmp_path / "archive", pairs=10)
    write_lists(root, snow=2, cloud=1)
    built = command("build", "bigearthnet", *sources(root), "--option", "exclude=snow,cloud", "--out", tmp_path / "out")
    assert built.returncode == 0, built.stdout + built.stderr
    assert "7 of 10 patches in 1 shards" in built.stdout
    assert "0 left out, 3 excluded by options" in built.stdout
    report = json.loads((tmp_path / "out/build_report.json").read_text())
    assert sorted({line["reason"] for line in report["exclusions"]}) == [
        "is in the list of cloud", "is in the list of snow",
    ]  # fmt: skip
    assert command("verify", tmp_path / "out").returncode == 0
