"""Images of several sensors to logits: one network, one file each."""

from collections.abc import Callable, Mapping, Sequence
from typing import Annotated

from rspretrain.nn.backbones import Backbone
from rspretrain.nn.classifiers.base import Classifier, ClassifierSettings
from rspretrain.registry import Registry, SettingsByName

__all__ = ["CLASSIFIERS", "Classifier", "ClassifierSection", "ClassifierSettings", "build_classifier"]

CLASSIFIERS = Registry(
    "classifier",
    Classifier,  # type: ignore[type-abstract]
    {
        "ca_conv_bilstm": "rspretrain.nn.classifiers.ca_conv_bilstm:CaConvBilstm",
        "k_branch": "rspretrain.nn.classifiers.k_branch:KBranch",
        "linear": "rspretrain.nn.classifiers.linear:LinearClassifier",
        "sct_fusion": "rspretrain.nn.classifiers.sct_fusion:SctFusion",
    },
)
# The section `classifier` of a configuration: the settings of the classifier that `name` chooses.
ClassifierSection = Annotated[ClassifierSettings, SettingsByName(CLASSIFIERS, default="linear")]


def build_classifier(
    settings: ClassifierSettings,
    backbones: Sequence[Backbone],
    num_classes: int,
    bands: Mapping[str, Sequence[str]] | None = None,
) -> Classifier:
    """The classifier that `settings.name` chooses; `bands`: sensor -> its bands, for backbones of several sensors.

    ValueError as its class says, and for backbones of a classifier without backbones (K-Branch, CA-Conv-BiLSTM).
    """
    if backbones and settings.own_inputs() is not None:
        raise ValueError(
            f"The classifier {settings.name!r} got backbones of {[one.sensor for one in backbones]}, expected none: "
            "its networks are its own and start at random. Leave the backbones out, or set classifier.name to linear."
        )
    make: Callable[..., Classifier] = CLASSIFIERS.find(settings.name)
    return make(settings, backbones, num_classes, bands)
