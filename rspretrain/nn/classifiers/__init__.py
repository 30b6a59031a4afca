"""Classifiers: images of one or several sensors to logits. One file per network; settings select it by `name`."""

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
# The section `classifier` of a configuration: the settings of the classifier with this `name`.
ClassifierSection = Annotated[ClassifierSettings, SettingsByName(CLASSIFIERS, default="linear")]


def build_classifier(
    settings: ClassifierSettings,
    backbones: Sequence[Backbone],
    num_classes: int,
    bands: Mapping[str, Sequence[str]] | None = None,
) -> Classifier:
    """Build the classifier `settings.name`. `bands`: sensor -> its bands, required if a backbone has several sensors.

    ValueError as in its class, and for backbones given to a classifier without any (K-Branch, CA-Conv-BiLSTM).
    """
    if backbones and settings.own_inputs() is not None:
        raise ValueError(
            f"The classifier {settings.name!r} got backbones of {[one.sensor for one in backbones]}, expected none, "
            "because it trains from random weights. Remove the backbones, or set classifier.name to linear."
        )
    make: Callable[..., Classifier] = CLASSIFIERS.find(settings.name)
    return make(settings, backbones, num_classes, bands)
