"""The documents of docs/ keep their word: options and fields are all there, commands parse, examples run."""

import csv
import importlib.util
import inspect
import json
import re
import shlex
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import fsspec
import numpy as np
import pandas as pd
import pytest
import torch
import yaml
from fakes.bigearthnet import write_bigearthnet, write_lists
from fakes.bigearthnet_v2 import write_bigearthnet_v2
from fakes.eurosat import write_eurosat
from fakes.geotiff import write_band_folder, write_s1
from fakes.rois import write_dfc2020, write_sen12ms
from fakes.scenes import (
    write_aid_multilabel,
    write_folder,
    write_resisc45,
    write_rsscn7,
    write_ucmerced,
)
from servers import object_store

from rspretrain.archives import ARCHIVES, _text, _value, open_archive, parameters_of
from rspretrain.archives.bigearthnet_v2 import BigEarthNetV2
from rspretrain.config import _override, load
from rspretrain.shardset.build import build_shards
from rspretrain.shardset.index import open_shards
from rspretrain.shardset.manifest import GroupEntry, Layout, Manifest, NomenclatureEntry, ShardEntry, Span
from rspretrain.shardset.rows import _TYPES
from rspretrain.shardset.statistics import BandStatistics, Histogram
from rspretrain.strategies import STRATEGIES, resolve
from rspretrain.strategies.base import StrategySettings
from rspretrain.streaming.loader import Loader
from rspretrain.streaming.settings import DataSettings
from rspretrain.streaming.sources import open_sources
from rspretrain.world import World

ROOT = Path(__file__).parents[1]
PAGES = {path.stem: path.read_text() for path in sorted((ROOT / "docs").glob("*.md"))}
BLOCK = re.compile(r"^```(\w+)\n(.*?)^```$", re.MULTILINE | re.DOTALL)


def section(page: str, title: str) -> str:
    """What stands below a heading of the second level."""
    return PAGES[page].partition(f"\n## {title}\n")[2].partition("\n## ")[0]


def blocks(page: str, language: str) -> list[str]:
    return [text for kind, text in BLOCK.findall(PAGES[page]) if kind == language]


def commands() -> list[tuple[str, str]]:
    """(page, command) of every `python shards/…` in the documents, continued lines joined."""
    found = []
    for page, text in PAGES.items():
        lines = re.findall(r"^(?: {4})?(python shards/.*)$", text.replace("\\\n", " "), re.MULTILINE)
        found += [
            (page, re.sub("  +", " ", line.partition(" #")[0].strip())) for line in lines if " ARCHIVE " not in line
        ]
    return found


def parsed(command: str, monkeypatch: pytest.MonkeyPatch) -> tuple[str, Any]:
    """The script's name and its parsed command line, None for a script that is but its own; SystemExit where it does
    not parse."""
    _, script, *arguments = shlex.split(re.sub(r"\$SLURM_\w+", "8", command))
    monkeypatch.setattr(sys, "path", [str(ROOT), *sys.path])  # the scripts set their first entry
    monkeypatch.setattr(sys, "argv", [script, *arguments])
    spec = importlib.util.spec_from_file_location(f"docs_{Path(script).stem}", ROOT / script)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    if hasattr(module, "parse"):
        return Path(script).stem, module.parse()
    assert module.main() == 2  # it was understood, but there is no such shard set
    return Path(script).stem, None


@pytest.mark.parametrize("name", ARCHIVES)
def test_every_source_and_option_is_explained(name):
    text = section("archives", name)
    assert f"python shards/build.py {name} --source " in text
    paths, choices = parameters_of(name)
    for source in paths:
        assert re.search(rf"^\| (`\w+` )*`{source}` (`\w+` )*\| \S", text, re.MULTILINE), source
    for option, parameter in choices.items():
        row = re.search(rf"^\| (?:`\w+` )*`{option}` (?:`\w+` )*\| ([^|]*) \| \S", text, re.MULTILINE)
        assert row, option
        assert row[1].strip("`") == _text(parameter.default).replace("…", "none"), option


def write_v1(root: Path) -> list[str]:
    write_lists(write_bigearthnet(root, pairs=10))
    return [f"{source}={root}" for source in ("s2", "s1", "splits")]


FAKES = {
    "bigearthnet": write_v1,
    "bigearthnet-v2": lambda root: [str(write_bigearthnet_v2(root, pairs=6))],
    "sen12ms": lambda root: [str(write_sen12ms(root))],
    "dfc2020": lambda root: [str(write_dfc2020(root))],
    "geotiff": lambda root: [f"s2={write_band_folder(root / 's2/a')}", f"s1={write_s1(root / 's1/b.tif').parent}"],
    "ucmerced": lambda root: [str(write_ucmerced(root))],
    "aid": lambda root: [str(write_aid_multilabel(root))],
    "resisc45": lambda root: [str(write_resisc45(root))],
    "rsscn7": lambda root: [str(write_rsscn7(root))],
    "eurosat": lambda root: [str(write_eurosat(root))],
    "folder": lambda root: [str(write_folder(root))],
}  # fmt: skip
OPTIONS = {"sen12ms": ["maps=true"], "dfc2020": ["lc=true"], "geotiff": ["window=12"]}


@pytest.mark.parametrize("name", ARCHIVES)
def test_groups_bands_labels_and_attributes_are_told(name, tmp_path):
    archive = open_archive(name, FAKES[name](tmp_path), OPTIONS.get(name, []))
    patch = archive.read(archive.entries()[0][0])
    text = section("archives", name)
    if name in ("bigearthnet-v2", "dfc2020"):  # "as in …"
        text += section("archives", {"dfc2020": "sen12ms"}.get(name, "bigearthnet"))
    told = set(re.findall(r"`([^`]+)`", text))
    told |= {f"{sensor}{end}" for sensor in ("s2", "s1") for end in ("_date", "_scene") if f"<instrument>{end}" in told}
    assert {group.name for group in archive.groups} <= told
    assert set(archive.nomenclatures) == set(patch.labels) <= told
    assert set(patch.attributes) <= told
    assert patch.split is None or f"`{patch.split}`" in text or "images_tr" in text
    for group in archive.groups:
        assert group.dtype in text


def test_no_option_is_explained_that_is_not_there():
    assert re.findall(r"^## (.*)$", PAGES["archives"], re.MULTILINE) == list(ARCHIVES)
    for name in ARCHIVES:
        known = {key for part in parameters_of(name) for key in part} | {"group"}
        for title, table in re.findall(
            r"^\| (source|option) \|.*\n\|[-|]*\n((?:\|.*\n)+)", section("archives", name), re.M
        ):
            told = {each for row in table.splitlines() for each in re.findall(r"`(\w+)`", row.split("|")[1])}
            assert told <= known, (name, title)


@pytest.mark.parametrize(("page", "command"), commands(), ids=lambda text: text[:60])
def test_every_command_parses(page, command, monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    if command.endswith("--help"):
        with pytest.raises(SystemExit, match="0"):
            parsed(command, monkeypatch)
        return
    script, args = parsed(command, monkeypatch)
    if script != "build":
        return
    paths, choices = parameters_of(args.archive)
    assert all(given.partition("=")[0].lower() in paths for given in args.source if "=" in given)
    assert len(args.source) == 1 or all("=" in given for given in args.source)
    for given in args.option:
        name, _, text = given.partition("=")
        _value(args.archive, text, choices[name])


def test_there_are_commands_of_every_script():
    scripts = {command.split()[1] for _, command in commands()}
    assert scripts == {f"shards/{name}.py" for name in ("build", "inspect", "merge", "upgrade", "verify")}


@pytest.mark.parametrize("command", re.findall(r"^\w+ .*launchers/pretrain\.py .*$", PAGES["strategies"], re.MULTILINE))
def test_every_run_could_start(command):
    before, _, given = command.partition(" launchers/pretrain.py ")
    launcher = before.split()[0]
    path, *overrides = shlex.split(given.removeprefix("--config ").replace(" --resume", ""))
    settings = load(ROOT / path, ["run.dir=unused", *overrides])
    resolve(settings.strategy, World(0, 8, 0, torch.device("cpu")), settings.optim, launcher == "deepspeed")


def test_every_setting_of_the_strategy_is_explained():
    text = section("strategies", "Settings")
    assert [name for name in StrategySettings.model_fields if f"\n| `{name}` | " not in text] == []


def test_every_strategy_and_deepspeed_file_has_its_row():
    text = section("strategies", "What each one holds")
    names = [*STRATEGIES, *(path.name for path in (ROOT / "configs/deepspeed").iterdir())]
    assert [name for name in names if not re.search(rf"^\| .*\b{re.escape(name)}\b", text, re.MULTILINE)] == []


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


@pytest.fixture(scope="module")
def shards(tmp_path_factory) -> Path:
    """A folder with the shard sets that the examples use: BigEarthNet v2 as `ben`, `ben_copy`, `raw` and `lz4`."""
    folder = tmp_path_factory.mktemp("docs")
    archive = BigEarthNetV2(write_bigearthnet_v2(folder / "archive", pairs=24), include_snow_cloud=True)
    build_shards(archive, folder / "shards/ben")
    build_shards(archive, folder / "shards/lz4", codec="bitshuffle-lz4")
    for copy in ("ben_copy", "raw"):
        shutil.copytree(folder / "shards/ben", folder / "shards" / copy)
    return folder / "shards"


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
def test_stock_webdataset_reads_what_the_page_says(number, shards, monkeypatch):
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
    told = {
        0: lambda: names["same"].key == names["first"].key and names["finnish"] and "Finland" in names["countries"],
        1: lambda: names["images"].shape[:2] == (4, 4) and names["labels"].shape == (4, 19),
        2: lambda: len(names["keys"]) == 8 and names["bands"].shape == (8, 4, 120, 120),
        3: lambda: names["seen"][0] == names["keys"] and len(set(names["seeds"].tolist())) == 4,
    }  # fmt: skip
    assert told[number]()


def test_the_mixture_of_the_page_is_one(shards, monkeypatch):
    monkeypatch.chdir(shards.parent)
    (text,) = blocks("streaming", "yaml")
    settings = DataSettings(**yaml.safe_load(text)["data"])
    sources = open_sources(settings)
    here = World(0, 1, 0, torch.device("cpu"))
    loader = Loader(sources, settings, ["s2_10m"], global_batch=4, seed=0, world=here)
    counts = loader.samples_of(2500)
    assert counts == {"ben": 7000, "finland": 3000}
    override = re.search(r'`"(data\.sources=.*?)"`', PAGES["streaming"])[1]
    tree: dict[str, Any] = {}
    _override(tree, override)
    assert [source.called for source in DataSettings(**tree["data"]).all_sources()] == ["a", "b"]


@pytest.fixture(scope="module")
def far(shards) -> Iterator[str]:
    """An object store that has `ben`; its endpoint."""
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
    told = dict(re.findall(r"^\| `data\.(\w+)` \| (\S+) \|", section("remote", "Settings"), re.MULTILINE))
    fields = {name: str(field.default).lower() for name, field in DataSettings.model_fields.items()}
    assert told == {name: fields[name] for name in fields if re.match("cache_|fetch", name)}


def test_errors_of_remote_sets_say_what_is_quoted():
    code = " ".join(path.read_text() for path in (ROOT / "rspretrain/shardset").glob("*.py"))
    code = re.sub(r'"\s+f?"|\{[^{}]*\}', "", code)  # texts as they are put together
    quoted = re.findall(r'"([a-z ]+?)(?: in 9 attempts)?"', section("remote", "What happens when …"))
    assert len(quoted) >= 6
    assert [text for text in quoted if text not in code] == []


def test_configuration_of_file_systems_is_theirs(monkeypatch):
    (text,) = blocks("remote", "json")
    for protocol, options in json.loads(text).items():
        monkeypatch.setitem(fsspec.config.conf, protocol, options)
        assert fsspec.filesystem(protocol, skip_instance_cache=True).protocol[0] == protocol


def test_the_job_array_is_bash():
    (script,) = blocks("shards", "bash")
    done = subprocess.run(["bash", "-n"], input=script, capture_output=True, text=True, timeout=10, check=False)
    assert (done.returncode, done.stderr) == (0, "")


def test_links_lead_somewhere():
    for page, text in PAGES.items():
        for target in re.findall(r"\]\(([^)#]*)[^)]*\)", text):
            assert (ROOT / "docs" / target).is_file(), (page, target)
