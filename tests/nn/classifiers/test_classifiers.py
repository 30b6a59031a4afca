"""Every classifier is built from its settings alone."""

import pytest
from pydantic import TypeAdapter

from nn.classifiers.pairs import S1, S2, STACK, resnet
from rspretrain.nn.backbones import BackboneSettings, create_backbone
from rspretrain.nn.classifiers import ClassifierSection, ClassifierSettings, build_classifier
from rspretrain.nn.classifiers.ca_conv_bilstm import CaConvBilstm
from rspretrain.nn.classifiers.k_branch import KBranch
from rspretrain.nn.classifiers.linear import LinearClassifier
from rspretrain.nn.classifiers.sct_fusion import SctFusion

VIT = BackboneSettings(name="vit_sct", args={"embed_dim": 16, "depth": 1, "num_heads": 1, "patch_size": 8})


def settings(**values: object) -> ClassifierSettings:
    return TypeAdapter(ClassifierSection).validate_python(values)


def test_names_choose_the_network() -> None:
    pair = [create_backbone(VIT, "s1", S1, 16), create_backbone(VIT, "s2", S2, 16)]
    sct = build_classifier(settings(name="sct_fusion", share_fusion=True), pair, 4)
    assert isinstance(sct, SctFusion)
    assert len(sct.fusions) == 1
    stack = build_classifier(settings(name="linear"), [resnet("s1+s2", S1 + S2)], 4, STACK)
    assert isinstance(stack, LinearClassifier)
    assert (stack.num_classes, stack.bands) == (4, STACK)
    assert isinstance(build_classifier(settings(name="k_branch", areas=1), [], 4), KBranch)
    assert isinstance(build_classifier(settings(name="ca_conv_bilstm", areas=1), [], 4), CaConvBilstm)


def test_backbones_for_a_classifier_without_backbones_are_an_error() -> None:
    with pytest.raises(
        ValueError, match=r"'k_branch' got backbones of \['s2'\], expected none, .*\. Remove the backbones, or set"
    ):
        build_classifier(settings(name="k_branch"), [resnet("s2", S2)], 4)
