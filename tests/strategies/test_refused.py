"""Configurations that are refused at the start (table in docs/strategies.md), on real jobs; all others start."""

from dataclasses import replace
from pathlib import Path

import pytest

from rspretrain.engine.job import prepare
from strategies.jobs import CASES, Case, land_shards, settings
from strategies.toys import this_world

NORMS, COUPLED = "batch norms (", "couples the samples of a step other than through their embeddings"
ACCUMULATE = {
    "simclr": NORMS,
    "simclr without norm": None,
    "dual_simclr": None,
    "dual_simclr on a ResNet": NORMS,
    "mma": COUPLED,
    "mae": None,
    "byol": NORMS,
    "moco_v3": NORMS,
    "dino": COUPLED,
    "gsc_mim": COUPLED,
}
STAGES = (1, 2, 3)
LARS, EACH = {"name": "lars"}, {"clip": "per_tensor", "clip_norm": 3.0}
RESNET, DENSENET = {"name": "test_resnet"}, {"name": "densenet121"}


@pytest.fixture(scope="module")
def shards(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return land_shards(tmp_path_factory.mktemp("refused") / "shards")


def case_of(name: str) -> Case:
    case = CASES[name.split()[0]]
    if name == "simclr without norm":
        return replace(case, objective={**case.objective, "norm": False})
    return replace(case, backbone=RESNET) if "ResNet" in name else case


def refusal(shards: Path, case: Case, name: str = "single", stage: int = 0, **strategy: object) -> str | None:
    try:
        prepare(settings(shards, case, name, stage, **strategy), this_world(), deepspeed_launcher=False)
    except ValueError as error:
        return str(error)
    return None


@pytest.mark.parametrize("name", ACCUMULATE)
def test_accumulation(shards: Path, name: str) -> None:
    message, expected = refusal(shards, case_of(name), accumulate=2), ACCUMULATE[name]
    assert (message is None) == (expected is None), message
    assert expected is None or (message.startswith("strategy.accumulate: ") and expected in message)


@pytest.mark.parametrize("stage", [0, *STAGES])
@pytest.mark.parametrize("name", ["simclr without norm", "dual_simclr", "mae"])
def test_accumulation_with_deepspeed(shards: Path, name: str, stage: int) -> None:
    message = refusal(shards, case_of(name), "deepspeed", stage, accumulate=2)
    assert message.startswith("strategy.accumulate: got 2 with strategy.name=deepspeed, expected 1: DeepSpeed")


@pytest.mark.parametrize("optim", [LARS, EACH], ids=["lars", "per_tensor"])
def test_norms_of_layers(shards: Path, optim: dict[str, object]) -> None:
    """For every objective: ZeRO stages 1 to 3 have no norms of single layers."""
    start = "optim.name: got lars" if optim is LARS else "optim.clip: got per_tensor"
    for case in (replace(case, optim=optim) for case in CASES.values()):
        for stage in STAGES:
            assert refusal(shards, case, "deepspeed", stage).startswith(f"{start} with ZeRO stage {stage}, expected")
        for other in ("ddp", "fsdp", "deepspeed"):  # with zero0.json
            assert refusal(shards, case, other) is None


def test_compiling(shards: Path) -> None:
    for case in CASES.values():
        message = refusal(shards, case, "deepspeed", 3, compile=True)
        assert message.startswith("strategy.compile: got true with ZeRO stage 3, expected false: its hooks gather")
        for name, stage in (("ddp", 0), ("fsdp", 0), ("deepspeed", 0), ("deepspeed", 2)):
            assert refusal(shards, case, name, stage, compile=True) is None


@pytest.mark.parametrize("setting", ["compile", "checkpoint_activations"])
def test_networks_without_blocks(shards: Path, setting: str) -> None:
    message = refusal(shards, replace(CASES["dual_simclr"], backbone=DENSENET), **{setting: True})
    assert message.startswith(f"strategy.{setting}: got true for a network without repeated blocks")
    for case in CASES.values():
        assert refusal(shards, case, **{setting: True}) is None


@pytest.mark.parametrize(("name", "backbone"), [("mae", RESNET), ("gsc_mim", RESNET), ("mma", CASES["mae"].backbone)])
def test_unsuitable_backbones(shards: Path, name: str, backbone: dict[str, object]) -> None:
    message = refusal(shards, replace(CASES[name], backbone=backbone))
    assert (
        "is not a plain ViT" if name != "mma" else "expected a feature map [B D h w] whose mean is the feature"
    ) in message
