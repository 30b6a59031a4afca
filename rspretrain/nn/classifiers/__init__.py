"""Images of several sensors to logits: one network, one file each. Settings tell them apart by `name`."""

from collections.abc import Mapping, Sequence
from typing import Annotated

from pydantic import Field

from rspretrain.nn.backbones import Backbone
from rspretrain.nn.classifiers.base import Classifier
from rspretrain.nn.classifiers.ca_conv_bilstm import CaConvBilstm, CaConvBilstmSettings
from rspretrain.nn.classifiers.k_branch import KBranch, KBranchSettings
from rspretrain.nn.classifiers.linear import LinearClassifier, LinearSettings
from rspretrain.nn.classifiers.sct_fusion import SctFusion, SctSettings

__all__ = ["Classifier", "ClassifierSettings", "LinearClassifier", "LinearSettings", "build_classifier"]

ClassifierSettings = Annotated[
    CaConvBilstmSettings | KBranchSettings | LinearSettings | SctSettings, Field(discriminator="name")
]


def build_classifier(
    settings: ClassifierSettings,
    backbones: Sequence[Backbone],
    num_classes: int,
    bands: Mapping[str, Sequence[str]] | None = None,
) -> Classifier:
    """The classifier that the settings describe; `bands`: sensor -> its bands, where a backbone takes several sensors.

    ValueError as its class says, and for backbones of one that has none (K-Branch, CA-Conv-BiLSTM).
    """
    if isinstance(settings, LinearSettings):
        return LinearClassifier(backbones, num_classes, bands)
    if isinstance(settings, SctSettings):
        return SctFusion(settings, backbones, num_classes, bands)
    if backbones:
        raise ValueError(
            f"The classifier {settings.name!r} got backbones of {[one.sensor for one in backbones]}, expected none: "
            "its networks are its own and start at random. Leave the backbones out, or set classifier.name to linear."
        )
    return (
        KBranch(settings, num_classes) if isinstance(settings, KBranchSettings) else CaConvBilstm(settings, num_classes)
    )
