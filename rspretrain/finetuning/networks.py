"""From exported backbones, or networks at random, to a classifier of a shard set's sensors and classes."""

from collections.abc import Mapping
from dataclasses import dataclass
from itertools import chain
from pathlib import Path
from typing import Literal

from pydantic import Field

from rspretrain.evaluation.probe import network_input_of
from rspretrain.nn.backbones import Backbone, BackboneSettings, create_backbone
from rspretrain.nn.classifiers import Classifier, ClassifierSettings, build_classifier
from rspretrain.nn.classifiers.ca_conv_bilstm import CaConvBilstmSettings
from rspretrain.nn.classifiers.k_branch import KBranchSettings
from rspretrain.nn.weights import load_backbone
from rspretrain.settings import Settings
from rspretrain.shardset.index import ShardSet
from rspretrain.transforms.inputs import NetworkInput, SensorInput, SensorSettings


class NetworkSettings(BackboneSettings):
    """The networks that start at random: one of this kind for every sensor of `sensors`, or one for all of them."""

    px: int = Field(default=224, gt=0, description="Side of the network input in pixels.")
    fusion: Literal["none", "early"] = Field(
        default="none",
        description="none: one network per sensor; early: one network for the stacked bands of all sensors.",
    )


class ValidationSettings(Settings):
    """When a run is examined on the validation samples, and what follows."""

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
        description="Number of bootstrap resamples for the confidence intervals of test figures. 0: no intervals.",
    )


@dataclass(frozen=True)
class Networks:
    """Backbones in the order of their names, and how a shard set's pixels become every input of a classifier."""

    backbones: list[Backbone]
    inputs: dict[str, SensorInput]  # input name (sensor, or group for K-Branch) -> its pixels
    initial: dict[str, str]  # backbone -> where its weights come from, for people


def load_networks(
    folders: Mapping[str, Path],
    sensors: Mapping[str, SensorSettings],
    settings: NetworkSettings,
    shards: ShardSet,
    at_random: bool = False,
) -> Networks:
    """Exported backbones by name, then fresh ones for the further `sensors`; all fresh with `at_random`.

    Fresh weights are a function of torch's global seed. ValueError where a folder holds another sensor's backbone, and
    where bands or units are not the shard set's.
    """
    found: list[tuple[Backbone, NetworkInput, str]] = []
    for name, folder in folders.items():
        backbone, contract = load_backbone(folder)
        if backbone.sensor != name:
            raise ValueError(
                f"backbone.{name}: {folder} holds a backbone of sensor {backbone.sensor!r}, expected {name!r}. Give it "
                f"as backbone.{backbone.sensor}, or name the folder of {name!r}."
            )
        if at_random:
            args = (backbone.sensor, backbone.bands, backbone.px, backbone.architecture, backbone.model_args)
            backbone = Backbone(*args)
        source = f"random, as {folder}" if at_random else str(folder)
        found.append((backbone, network_input_of(contract, shards), source))
    taken = {part.sensor for _, network_input, _ in found for part in network_input.parts}
    if twice := taken & sensors.keys():
        raise ValueError(
            f"sensors: got {sorted(twice)} beside backbones of the same sensors, which know their own bands. Leave "
            "them out of `sensors`, or the folders out of `backbone`."
        )
    found += [(*network, "random") for network in fresh_networks(sensors, settings, shards)]
    if not found:
        raise ValueError(
            "backbone and sensors are both empty, expected at least one network. Give backbone.SENSOR=FOLDER of an "
            "exported backbone, or `sensors` for networks that start at random."
        )
    inputs = {part.sensor: part for _, network_input, _ in found for part in network_input.parts}
    return Networks([one for one, _, _ in found], inputs, {one.sensor: source for one, _, source in found})


def resize_(networks: Networks, px: int) -> None:
    """Let backbones take images of px x px. ValueError where one takes one size only, or there is none."""
    fixed = [
        f"{one.sensor} ({one.architecture}, {one.px} px)" for one in networks.backbones if not one.is_convolutional
    ]
    if fixed or not networks.backbones:
        raise ValueError(
            f"views.px: got {px} for {', '.join(fixed) or 'a classifier without backbones'}, expected convolutional "
            "backbones, which take any size. Leave it out."
        )
    for one in networks.backbones:
        one.px = px


def fresh_networks(
    sensors: Mapping[str, SensorSettings], settings: NetworkSettings, shards: ShardSet
) -> list[tuple[Backbone, NetworkInput]]:
    """One network for every sensor, or one for all of them."""
    parts = [SensorInput(name, one, list(shards.groups.values())) for name, one in sensors.items()]
    together = [parts] if settings.fusion == "early" and parts else [[part] for part in parts]
    inputs = [NetworkInput(some) for some in together]
    kind = BackboneSettings(name=settings.name, drop_path=settings.drop_path, args=settings.args)
    return [(create_backbone(kind, one.name, one.bands, settings.px), one) for one in inputs]


def grid_inputs(
    settings: KBranchSettings | CaConvBilstmSettings, sensors: Mapping[str, SensorSettings], shards: ShardSet
) -> dict[str, SensorInput]:
    """Inputs of a network that takes every pixel grid of one sensor by itself. ValueError where bands are missing."""
    bands, (sensor, *others) = settings.bands(), [*sensors, None]
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
    """The classifier on these networks."""
    bands = {name: one.bands for name, one in networks.inputs.items()}
    return build_classifier(settings, networks.backbones, num_classes, bands)
