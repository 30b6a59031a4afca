"""docs/shards.md, queries.md, streaming.md and remote.md: complete fields and settings, and examples that run."""

import csv
import inspect
import json
import re
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import fsspec
import numpy as np
import pandas as pd
import pytest
import torch
import yaml
from fakes.bigearthnet_v2 import write_bigearthnet_v2
from servers import object_store

from docs.pages import PAGES, ROOT, blocks, section
from rspretrain.archives.bigearthnet_v2 import BigEarthNetV2
from rspretrain.config.loading import _override
from rspretrain.shardset.building.build import build_shards
from rspretrain.shardset.index import open_shards
from rspretrain.shardset.manifest import GroupEntry, Layout, Manifest, NomenclatureEntry, ShardEntry, Span
from rspretrain.shardset.rows import _TYPES
from rspretrain.shardset.statistics import BandStatistics, Histogram
from rspretrain.streaming.loader import Loader
from rspretrain.streaming.settings import DataSettings
from rspretrain.streaming.sources import open_sources
from rspretrain.world import World


@pytest.fixture(scope="module")
def shards(tmp_path_factory) -> Path:
    """A folder with the shard sets that the examples use: BigEarthNet v2 as `ben`, `ben_copy`, `raw` and `lz4`."""
    folder = tmp_path_factory.mktemp("docs")
    archive = BigEarthNetV2(write_bigearthnet_v2(folder / "archive", pairs=24), include_snow_cloud=True)
    build_shards(archive, folder / "data/ben")
    build_shards(archive, folder / "data/lz4", codec="bitshuffle-lz4")
    for copy in ("ben_copy", "raw"):
        shutil.copytree(folder / "data/ben", folder / "data" / copy)
    (folder / "shards").symlink_to("data")  # other pages call the folder shards
    return folder / "data"


@pytest.mark.parametrize(
    "model", [Manifest, GroupEntry, ShardEntry, NomenclatureEntry, Layout, Span, BandStatistics, Histogram]
)
def test_every_field_of_the_manifest_is_explained(model):
    text = section("shards", "manifest.json")
    assert [name for name in model.model_fields if f"`{name}`" not in text] == []


def test_every_column_of_the_index_is_explained(shards):
    text, index = section("shards", "index.parquet"), pd.read_parquet(shards / "ben/index.parquet")
    attributes = section("archives", "bigearthnet-v2")
    assert [name for name in (*_TYPES, "lon", "lat", "geometry") if f"`{name}`" not in text] == []
    rest = [name for name in index.columns if not re.match("offset_|bytes_|labels_", name) and f"`{name}`" not in text]
    assert [name for name in rest if f"`{name}`" not in attributes] == []


def test_codecs_have_the_figures_of_the_benchmark():
    with (ROOT / "benchmarks/results/compression.csv").open() as file:
        measured = {(row["images"], row["method"]): row for row in csv.DictReader(file)}
    methods = {"raw": "raw", "zstd": "zstd 3", "bitshuffle-lz4": "bit shuffle + lz4 9"}
    methods["bitshuffle-zstd"] = "bit shuffle + zstd 5"
    head, _, *rows = re.findall(r"^\|.*\|$", section("shards", "Codecs"), re.MULTILINE)
    images = [cell.strip() for cell in head.split("|")[2:6]]
    for row in rows:
        name, *cells, speed = [cell.strip() for cell in row.split("|")[1:-1]]
        found = [measured[each, methods.pop(name.strip("`"))] for each in images[:1]]
        method = found[0]["method"]
        assert cells == [f"{float(measured[each, method]['share_of_raw']):.0%}".replace("%", " %") for each in images]
        assert speed.partition("/s")[0] == f"{int(found[0]['decode_patches_per_s']):,}"
    assert not methods


@pytest.mark.filterwarnings("ignore::UserWarning:pyogrio")  # about the driver of footprints.gpkg
@pytest.mark.parametrize("number", range(len(blocks("queries", "python"))))
def test_queries_run_and_find_something(number, shards, monkeypatch):
    monkeypatch.chdir(shards.parent)
    names: dict = {}
    exec(blocks("queries", "python")[number], names)
    found = {name: value for name, value in names.items() if isinstance(value, (pd.DataFrame, pd.Series, list))}
    assert len(found) >= 1
    assert [name for name, value in found.items() if not len(value)] == []


def test_pandas_and_duckdb_agree(shards, monkeypatch):
    monkeypatch.chdir(shards.parent)
    panda, duck = {}, {}
    exec(blocks("queries", "python")[0], panda)
    exec(blocks("queries", "python")[1], duck)
    pairs = duck["together"].set_index(["one", "other"])["samples"]
    assert all(panda["together"].loc[one, other] == num for (one, other), num in pairs.items())
    assert panda["together"].to_numpy().diagonal().tolist() == panda["hot"].sum().tolist()
    train = panda["index"].query("split == 'train'")
    assert duck["by_country"]["samples"].sum() == len(train)


def test_filters_find_something_but_not_everything(shards):
    given = re.findall(r'"(data\.filter=.*)"', section("queries", "A run: data.filter"))
    trees: list[dict[str, Any]] = [{} for _ in given]
    for tree, text in zip(trees, given, strict=True):
        _override(tree, text)
    found = [tree["data"]["filter"] for tree in trees]
    opened = open_shards(shards / "ben")
    assert len(found) >= 3
    for expression in found[:-1]:
        assert 0 < len(opened.select(None, expression)) < len(opened), expression
    assert len(opened.select(None, found[-1])) > 0


@pytest.mark.parametrize("number", [0, 1])
def test_stock_webdataset_reads_as_documented(number, shards, monkeypatch):
    monkeypatch.chdir(shards.parent)
    names: dict = {}
    exec(blocks("shards", "python")[number], names)
    opened, sample = open_shards(shards / "ben"), names["sample"]
    images, _ = opened.read(opened.row_of_key[sample["__key__"]])
    member = "s2_10m.npy" if number == 0 else "s2_10m.npy.blosc"
    np.testing.assert_array_equal(sample[member], images["s2_10m"], strict=True)
    if number == 1:
        assert (
            len(inspect.cleandoc(blocks("shards", "python")[1]).partition("def ")[2].partition("\n\n")[0].split("\n"))
            == 3
        )


@pytest.mark.parametrize("number", range(len(blocks("streaming", "python"))))
def test_every_way_to_read_works(number, shards, monkeypatch):
    monkeypatch.chdir(shards.parent)
    names: dict = {}
    exec(blocks("streaming", "python")[number], names)
    examples = {
        0: lambda: names["same"].key == names["first"].key and names["finnish"] and "Finland" in names["countries"],
        1: lambda: names["images"].shape[:2] == (4, 4) and names["labels"].shape == (4, 19),
        2: lambda: len(names["keys"]) == 8 and names["bands"].shape == (8, 4, 120, 120),
        3: lambda: names["seen"][0] == names["keys"] and len(set(names["seeds"].tolist())) == 4,
    }  # fmt: skip
    assert examples[number]()


def test_the_mixture_of_the_page_is_one(shards, monkeypatch):
    monkeypatch.chdir(shards.parent)
    (text,) = blocks("streaming", "yaml")
    settings = DataSettings(**yaml.safe_load(text)["data"])
    sources = open_sources(settings)
    world = World(0, 1, 0, torch.device("cpu"))
    loader = Loader(sources, settings, ["s2_10m"], global_batch=4, seed=0, world=world)
    counts = loader.samples_seen(2500)
    assert counts == {"ben": 7000, "finland": 3000}
    override = re.search(r'`"(data\.sources=.*?)"`', PAGES["streaming"])[1]
    tree: dict[str, Any] = {}
    _override(tree, override)
    assert [source.display_name for source in DataSettings(**tree["data"]).all_sources()] == ["a", "b"]


@pytest.fixture(scope="module")
def far(shards) -> Iterator[str]:
    """An object store with `ben`; returns its endpoint."""
    with object_store(shards / "ben", "archive", "ben") as endpoint:
        yield endpoint


@pytest.mark.parametrize("number", range(len(blocks("remote", "python"))))
def test_remote_sets_are_read_as_the_page_says(number, shards, far, monkeypatch, tmp_path):
    for name, value in (("ACCESS_KEY_ID", "k"), ("SECRET_ACCESS_KEY", "s"), ("ENDPOINT_URL", far)):
        monkeypatch.setenv(f"AWS_{name}", value)
    names: dict = {}
    exec(blocks("remote", "python")[number].replace("/local/cache", str(tmp_path)), names)
    near = open_shards(shards / "ben")
    assert names["keys"] == near.keys(near.select("train" if "data" in names else None))


def test_settings_of_remote_sets_have_their_defaults():
    documented = dict(re.findall(r"^\| `data\.(\w+)` \| (\S+) \|", section("remote", "Settings"), re.MULTILINE))
    fields = {name: str(field.default).lower() for name, field in DataSettings.model_fields.items()}
    assert documented == {name: fields[name] for name in fields if re.match("cache_|fetch", name)}


def test_errors_of_remote_sets_are_those_quoted():
    packages = ("rspretrain/shardset", "rspretrain/download")
    code = " ".join(path.read_text() for package in packages for path in (ROOT / package).glob("*.py"))
    code = re.sub(r'"\s+f?"|\{[^{}]*\}', "", code)  # the texts of the messages
    quoted = re.findall(r'"([a-z ]+?)(?: in 9 attempts)?"', section("remote", "Faults"))
    assert len(quoted) >= 6
    assert [text for text in quoted if text not in code] == []


def test_configuration_of_file_systems_is_theirs(monkeypatch):
    (text,) = blocks("remote", "json")
    for protocol, options in json.loads(text).items():
        monkeypatch.setitem(fsspec.config.conf, protocol, options)
        assert fsspec.filesystem(protocol, skip_instance_cache=True).protocol[0] == protocol
