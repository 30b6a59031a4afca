"""Build classifiers from exported or randomly initialised backbones, for a shard set's sensors and classes."""

from collections.abc import Mapping
from dataclasses import dataclass
from itertools import chain
from pathlib import Path
from typing import Literal

from pydantic import Field

from rspretrain.evaluation.probe import network_input_of
from rspretrain.nn.backbones import Backbone, BackboneSettings, create_backbone
from rspretrain.nn.classifiers import Classifier, ClassifierSettings, build_classifier
from rspretrain.nn.weights import load_backbone
from rspretrain.settings import Settings
from rspretrain.shardset.index import ShardSet
from rspretrain.transforms.inputs import NetworkInput, SensorInput, SensorSettings


class NetworkSettings(BackboneSettings):
    """Randomly initialised networks: one per sensor of `sensors`, or one for all of them."""

    px: int = Field(default=224, gt=0, description="Side of the network input in pixels.")
    fusion: Literal["none", "early"] = Field(
        default="none",
        description="none: one network per sensor; early: one network for the stacked bands of all sensors.",
    )


class ValidationSettings(Settings):
    """Validation during training: interval, metric, selection of weights, early stopping."""

    every_epochs: float = Field(default=1.0, gt=0.0, description="Interval between two validations in epochs.")
    metric: str | None = Field(
        default=None,
        description="Metric that selects the best weights. null: ap_macro (multi-label) or top1 (single-label).",
    )
    keep: Literal["best", "last"] = Field(default="best", description="Weights to test and export.")
    patience: int | None = Field(
        default=None,
        ge=1,
        description="Number of validations without improvement after which the run stops. null: no early stopping.",
    )
    resamples: int = Field(
        default=1000,
        ge=0,
        description="Number of bootstrap resamples for the confidence intervals of test metrics. 0: no intervals.",
    )


@dataclass(frozen=True)
class Networks:
    """The backbones of a classifier and the transforms of its inputs."""

    backbones: list[Backbone]
    inputs: dict[str, SensorInput]  # input name (sensor, or group for K-Branch) -> its transform
    initial: dict[str, str]  # backbone -> origin of its weights, for reports


def load_networks(
    folders: Mapping[str, Path],
    sensors: Mapping[str, SensorSettings],
    settings: NetworkSettings,
    shards: ShardSet,
    at_random: bool = False,
) -> Networks:
    """Exported backbones by name, then randomly initialised ones for `sensors`; with `at_random`, all are random.

    Random weights depend on torch's global seed. ValueError if a folder holds another sensor's backbone, or if the
    shard set has other bands or units.
    """
    found: list[tuple[Backbone, NetworkInput, str]] = []
    for name, folder in folders.items():
        backbone, contract = load_backbone(folder)
        if backbone.sensor != name:
            raise ValueError(
                f"backbone.{name}: {folder} holds a backbone of sensor {backbone.sensor!r}, expected {name!r}. Set "
                f"backbone.{backbone.sensor} to it, or give the folder of a backbone of {name!r}."
            )
        if at_random:
            args = (backbone.sensor, backbone.bands, backbone.px, backbone.architecture, backbone.model_args)
            backbone = Backbone(*args)
        source = f"random, as {folder}" if at_random else str(folder)
        found.append((backbone, network_input_of(contract, shards), source))
    taken = {part.sensor for _, network_input, _ in found for part in network_input.parts}
    if twice := taken & sensors.keys():
        raise ValueError(
            f"sensors: got {sorted(twice)}, which `backbone` has as well; expected each sensor in one of the two. "
            "Remove them from `sensors`, or their folders from `backbone`."
        )
    found += [(*network, "random") for network in fresh_networks(sensors, settings, shards)]
    if not found:
        raise ValueError(
            "backbone and sensors are both empty, expected at least one network. Set backbone.SENSOR to the folder of "
            "an exported backbone, or `sensors` for randomly initialised networks."
        )
    inputs = {part.sensor: part for _, network_input, _ in found for part in network_input.parts}
    return Networks([one for one, _, _ in found], inputs, {one.sensor: source for one, _, source in found})


def resize_(networks: Networks, px: int) -> None:
    """Set the input size of all backbones to px x px. ValueError without backbones, or if one has a fixed size."""
    fixed = [
        f"{one.sensor} ({one.architecture}, {one.px} px)" for one in networks.backbones if not one.is_convolutional
    ]
    if fixed or not networks.backbones:
        raise ValueError(
            f"views.px: got {px} for {', '.join(fixed) or 'a classifier without backbones'}, expected convolutional "
            "backbones, which accept any size. Remove views.px."
        )
    for one in networks.backbones:
        one.px = px


def fresh_networks(
    sensors: Mapping[str, SensorSettings], settings: NetworkSettings, shards: ShardSet
) -> list[tuple[Backbone, NetworkInput]]:
    """Randomly initialised networks: one per sensor, or one for all of them (early fusion)."""
    parts = [SensorInput(name, one, list(shards.groups.values())) for name, one in sensors.items()]
    together = [parts] if settings.fusion == "early" and parts else [[part] for part in parts]
    inputs = [NetworkInput(some) for some in together]
    kind = BackboneSettings(name=settings.name, drop_path=settings.drop_path, args=settings.args)
    return [(create_backbone(kind, one.name, one.bands, settings.px), one) for one in inputs]


def grid_inputs(
    settings: ClassifierSettings, sensors: Mapping[str, SensorSettings], shards: ShardSet
) -> dict[str, SensorInput]:
    """Inputs of a network with a separate input per pixel grid of one sensor. ValueError if bands are missing."""
    bands, (sensor, *others) = settings.own_inputs() or {}, [*sensors, None]
    wanted = set(chain.from_iterable(bands.values()))
    if len(others) != 1 or sensor is None or not wanted <= set(sensors[sensor].bands):
        raise ValueError(
            f"sensors: got { {name: list(one.bands) for name, one in sensors.items()} } for the classifier "
            f"{settings.name!r}, expected one sensor with the bands {sorted(wanted)}. Set sensors.s2.bands."
        )
    return {
        name: SensorInput(sensor, sensors[sensor].model_copy(update={"bands": some}), list(shards.groups.values()))
        for name, some in bands.items()
    }


def assemble(settings: ClassifierSettings, networks: Networks, num_classes: int) -> Classifier:
    """Build the classifier on these networks."""
    bands = {name: one.bands for name, one in networks.inputs.items()}
    return build_classifier(settings, networks.backbones, num_classes, bands)
