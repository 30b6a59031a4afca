"""Objectives are built from their settings, and invalid settings are errors."""

import numpy as np
import pytest
import torch
from fakes.batches import GROUPS, batch_of
from pydantic import TypeAdapter, ValidationError

from rspretrain.nn.backbones import BackboneSettings
from rspretrain.objectives import ObjectiveSection, build_objective
from rspretrain.objectives.byol import Byol
from rspretrain.objectives.dino import Dino
from rspretrain.objectives.dual_simclr import DualSimclr
from rspretrain.objectives.gsc_mim import GscMim
from rspretrain.objectives.mae import Mae
from rspretrain.objectives.mma import Mma
from rspretrain.objectives.moco_v3 import MocoV3
from rspretrain.objectives.simclr import Simclr
from rspretrain.transforms.inputs import SensorSettings

ADAPTER = TypeAdapter(ObjectiveSection)
SENSORS = {"s1": SensorSettings(bands=("VV", "VH")), "s2": SensorSettings(bands=("B02",))}


def test_name_selects_the_objective() -> None:
    dual = build_objective(
        ADAPTER.validate_python({"name": "dual_simclr", "crop_px": 24}), SENSORS, BackboneSettings(), GROUPS
    )
    assert isinstance(dual, DualSimclr)
    one = ADAPTER.validate_python({"name": "simclr", "sensor": "s2", "px": 24})
    assert isinstance(build_objective(one, {"s2": SENSORS["s2"]}, BackboneSettings(), GROUPS), Simclr)
    byol = ADAPTER.validate_python({"name": "byol", "px": 24, "hidden": 8})
    assert isinstance(build_objective(byol, SENSORS, BackboneSettings(name="test_resnet"), GROUPS), Byol)
    masked = ADAPTER.validate_python({"name": "gsc_mim", "px": 32, "hidden": 8, "outputs": 4})
    vit = BackboneSettings(name="vit_tiny_patch16_224", args={"depth": 1})
    assert isinstance(build_objective(masked, SENSORS, vit, GROUPS), GscMim)
    aligned = ADAPTER.validate_python({"name": "mma", "crop_px": 24})
    assert isinstance(build_objective(aligned, SENSORS, BackboneSettings(name="test_resnet"), GROUPS), Mma)
    small = {"moco_v3": {"hidden": 8}, "dino": {"hidden": 8, "outputs": 4}, "mae": {"decoder_depth": 1}}
    for (name, options), kind in zip(small.items(), (MocoV3, Dino, Mae), strict=True):
        settings = ADAPTER.validate_python({"name": name, "px": 32, **options})
        assert isinstance(build_objective(settings, SENSORS, vit, GROUPS), kind)


@pytest.mark.parametrize(
    "settings",
    [
        {"name": "simclr", "sensor": "s2", "px": 32},
        {"name": "dual_simclr", "crop_px": 24},
        {"name": "mma", "crop_px": 24},
        {"name": "moco_v3", "px": 32, "hidden": 8, "projection": 4},
        {"name": "dino", "px": 32, "hidden": 8, "outputs": 12, "local_crops": 2, "local_px": 16},
        {"name": "gsc_mim", "px": 32, "hidden": 8, "outputs": 12, "cls_weight": 0.5, "patch_weight": 2.0},
    ],
    ids=lambda settings: settings["name"],
)
def test_guessing_has_a_chance_ratio_of_1(settings: dict[str, object]) -> None:
    """At a temperature that makes all outputs uniform."""
    sensors = {"s2": SENSORS["s2"]} if "sensor" in settings else SENSORS
    vit = BackboneSettings(name="vit_tiny_patch16_224", args={"depth": 1, "patch_size": 8, "dynamic_img_size": True})
    backbone = BackboneSettings(name="test_resnet") if "crop_px" in settings else vit
    made = build_objective(ADAPTER.validate_python({**settings, "temperature": 1e6}), sensors, backbone, GROUPS)
    metrics = made(batch_of(np.arange(4))).metrics
    assert metrics["health/chance_ratio"].item() == pytest.approx(1.0, abs=1e-4)


@pytest.mark.parametrize(
    "wrong",
    [
        {"name": "byoll", "px": 24},
        {"name": "byol"},
        {"name": "gsc_mim", "px": 32, "masking": "none"},
        {"name": "dual_simclr", "crop_px": 24, "tau": 1},
        {"name": "simclr"},
        {"name": "mae", "px": 32, "mask_ratio": 1.0},
        {"name": "dino", "px": 32, "outputs": 1},
        {"name": "moco_v3", "px": 32, "projector_layers": 1},
        {"name": "mma", "crop_px": 24, "temperature": 0},
    ],
)
def test_unknown_or_missing_settings_are_errors(wrong: dict[str, object]) -> None:
    with pytest.raises(ValidationError):
        ADAPTER.validate_python(wrong)


VIT = BackboneSettings(name="vit_tiny_patch16_224", args={"depth": 1, "embed_dim": 24, "num_heads": 2})
CNN = BackboneSettings(name="test_resnet")
SMALL = {
    "byol": {"px": 32, "hidden": 8},
    "dino": {"px": 32, "hidden": 8, "outputs": 16},
    "dual_simclr": {"crop_px": 24},
    "gsc_mim": {"px": 32, "hidden": 8, "outputs": 16},
    "mae": {"px": 32, "decoder_width": 16, "decoder_depth": 1, "decoder_heads": 2},
    "mma": {"crop_px": 24},
    "moco_v3": {"px": 32, "hidden": 8},
    "simclr": {"sensor": "s2", "px": 32},
}


@pytest.mark.parametrize("name", SMALL)
def test_without_health_metrics_losses_and_gradients_are_equal(name: str) -> None:
    settings = ADAPTER.validate_python({"name": name, **SMALL[name]})
    sensors = {"s2": SENSORS["s2"]} if name == "simclr" else SENSORS
    found = []
    for with_health in (True, False):
        torch.manual_seed(0)
        objective = build_objective(settings, sensors, CNN if "crop_px" in SMALL[name] else VIT, GROUPS)
        assert objective.compute_health  # by default
        objective.compute_health = with_health
        losses = objective(batch_of(np.arange(4)))
        losses.loss.backward()
        gradients = [parameter.grad for parameter in objective.parameters() if parameter.grad is not None]
        found.append((losses, gradients, list(objective.buffers())))
    (full, *full_tensors), (short, *short_tensors) = found
    assert torch.equal(full.loss, short.loss)
    assert all(
        torch.equal(a, b)
        for one, other in zip(full_tensors, short_tensors, strict=True)
        for a, b in zip(one, other, strict=True)
    )
    assert set(full.metrics) == set(objective.metric_names)
    missing = set(full.metrics) - set(short.metrics)
    assert missing == {name for name in full.metrics if name.startswith("health/")} - {"health/chance_ratio"}
