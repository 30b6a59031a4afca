"""All configurations of configs/finetune, and the methods in their comments, on tiny archives."""

import re
import shlex
import string
from pathlib import Path

import pytest
import torch
from fakes.bigearthnet import write_bigearthnet
from fakes.rois import write_dfc2020
from fakes.scenes import write_ucmerced

from rspretrain import config
from rspretrain.archives import open_archive
from rspretrain.engine.finetune import prepare_finetune
from rspretrain.engine.fractions import parse_method
from rspretrain.nn.backbones import BackboneSettings, create_backbone
from rspretrain.nn.weights import export_backbone
from rspretrain.sensors import BAND_ORDER
from rspretrain.shardset.building.build import build_shards
from rspretrain.shipped_configs import find_config
from rspretrain.streaming.loader import evaluation_batches
from rspretrain.transforms.normalise import Normalise
from rspretrain.world import World

CONFIGS = Path(__file__).parents[2] / "configs/finetune"
# Small networks, and windows that fit images of 32 px.
SMALL = {
    "linear": (), "full": (), "ucmerced_multilabel": ("views.px=32",), "sct_fusion_bigearthnet": (),
    "k_branch_bigearthnet": (),
    "dual_simclr_dfc2020_frozen": ("views.crop_px=24", "views.px=24"),
    "dual_simclr_dfc2020_finetuned": ("views.crop_px=24", "views.px=24", "network.name=test_resnet"),
}  # fmt: skip
ARCHIVES = {"ucmerced": write_ucmerced, "dfc2020": write_dfc2020, "bigearthnet": write_bigearthnet}


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Archives as shards, and exported backbones of their sensors."""
    folder = tmp_path_factory.mktemp("configs")
    options = {"ucmerced": {"per_class": 5, "odd": False}, "bigearthnet": {"pairs": 10}}
    for name, write in ARCHIVES.items():
        root = folder / "raw" / name
        root.mkdir(parents=True)
        write(root, **options.get(name, {}))
        sources = [str(root)]
        if name == "bigearthnet":
            sources = [f"S2={root}/BigEarthNet-v1.0", f"S1={root}/BigEarthNet-S1-v1.0", f"splits={root}"]
        build_shards(open_archive(name, sources), folder / "shards" / name, samples_per_shard=8)
    ways = {"rgb": ("imagenet", "grey"), "s1": ("hsg", "db"), "s2": ("hsg", "dn")}
    for sensor, (scaling, units) in ways.items():
        bands = BAND_ORDER[sensor]
        backbone = create_backbone(BackboneSettings(name="test_resnet"), sensor, bands, 16)
        export_backbone(backbone, {sensor: Normalise(scaling, bands, units)}, folder / sensor, {})
    export_vits(folder)
    return folder


def export_vits(folder):
    """Two plain ViTs of the same width and depth, on bands of BigEarthNet."""
    for sensor, bands in (("s1", BAND_ORDER["s1"]), ("s2", ("B02", "B03", "B04"))):
        args = {"patch_size": 8, "embed_dim": 24, "depth": 2, "num_heads": 2}
        kind = BackboneSettings(name="vit_tiny_patch16_224", args=args)
        normalise = Normalise("bigearthnet", bands, "db" if sensor == "s1" else "dn")
        export_backbone(create_backbone(kind, sensor, bands, 24), {sensor: normalise}, folder / f"vit_{sensor}", {})


def prepared(folder, name, *overrides):
    """The job of a configuration on its archive."""
    settings = config.load_finetune(CONFIGS / f"{name}.yaml", [*SMALL[name], *overrides])
    archive = next((one for one in ("dfc2020", "bigearthnet") if one in name), "ucmerced")
    kind = "vit_" if "sct_fusion" in name else ""
    settings = settings.model_copy(update={
        "backbone": {sensor: folder / f"{kind}{sensor}" for sensor in settings.backbone},
        "data": settings.data.model_copy(update={"shards": str(folder / "shards" / archive), "streams": 1}),
        "strategy": settings.strategy.model_copy(update={"precision": "fp32"}),
    })  # fmt: skip
    return prepare_finetune(settings, World(0, 1, 0, torch.device("cpu")), False)


def methods_of(path):
    """Methods in the head comments: '#   NAME: overrides', continued in lines with deeper indentation."""
    head = path.read_text().partition("\nrun:")[0].replace("\n#     ", " ")
    values = dict(re.findall(r"^#   (S\d)='(.*)'$", head, re.MULTILINE))
    return [string.Template(text).substitute(values) for text in re.findall(r"^#   ([\w-]+: .*)$", head, re.MULTILINE)]


CASES = [(path.stem, ()) for path in sorted(CONFIGS.glob("*.yaml"))]
CASES += [
    (path.stem, parse_method(text).overrides) for path in sorted(CONFIGS.glob("*.yaml")) for text in methods_of(path)
]
CASES += [
    (f"dual_simclr_dfc2020_{kind}", ("labels.nomenclature=dfc_multi", "validation.metric=f1_macro"))
    for kind in ("frozen", "finetuned")
]


@pytest.mark.parametrize(("name", "overrides"), CASES, ids=lambda value: value if isinstance(value, str) else None)
def test_a_training_step_of_each_configuration(folder, name, overrides):
    job = prepared(folder, name, *overrides)
    objective = job.objective
    batch = next(
        iter(evaluation_batches(next(iter(job.sources.sets.values())), objective.groups, job.loader._rows[0][:2], 2))
    )
    loss = objective(batch).loss
    loss.backward()
    assert loss.isfinite()
    trained = {key.split(".")[1] for key, weight in objective.named_parameters() if weight.grad is not None}
    assert trained == ({"head"} if job.settings.tune.mode == "linear" else trained | {"head"})


def test_comments_name_the_comparisons():
    assert {text.partition(":")[0] for path in CONFIGS.glob("*.yaml") for text in methods_of(path)} == {
        "pretrained-ViTs", "S1-ViT", "early-fusion", "late-fusion", "CA-Conv-BiLSTM", "no-attention",
        "OnlySen-1", "OnlySen-2", "EarlyFusion", "LateFusion",
    }  # fmt: skip


def test_the_commands_of_the_page_are_valid():
    """docs/finetuning.md: the configurations exist and accept the overrides."""
    page = (CONFIGS.parents[1] / "docs/finetuning.md").read_text().replace("\\\n", " ")
    commands = [shlex.split(line) for line in re.findall(r"^    (.* --config .*)$", page, re.MULTILINE)]
    assert len(commands) == 3
    for command in commands:
        given = [text for text in command if "=" in text.partition(":")[0]]
        methods = command[command.index("--methods") + 1 :] if "--methods" in command else ["pretrained"]
        for text in (one for one in methods if one not in given):
            path = find_config(Path(command[command.index("--config") + 1]), "finetune")
            config.load_finetune(path, [*given, *parse_method(text).overrides])


def test_sct_fusion_has_the_parameter_count_of_the_paper(folder):
    job = prepared(folder, "sct_fusion_bigearthnet")
    assert sum(weight.numel() for weight in job.objective.parameters()) == 14_417_683


def test_dfc2020_follows_the_protocol_of_the_paper(folder):
    """The run has the numbers of docs/methods.md, DFC2020 protocol."""
    job = prepared(folder, "dual_simclr_dfc2020_finetuned")
    assert job.objective.targets.groups == ("dfc_10m",)
    assert job.objective.classifier.px == {"s1": 24, "s2": 24}  # instead of the backbones' 16
    assert job.objective.classifier.head.weight.shape[0] == 8
    rates = {job.lr(epoch * job.loader.steps_per_epoch) for epoch in (0, 99, 100, 200)}
    assert sorted(rates) == pytest.approx([3e-7, 3e-6])
    assert job.total_steps == 201 * job.loader.steps_per_epoch
    assert job.settings.optim.weight_decay == 1e-3
