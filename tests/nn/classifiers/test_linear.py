"""Linear classifier for single sensors, early and late fusion."""

import pytest
import torch
from laws import check_classifier

from nn.classifiers.pairs import S1, S2, STACK, early, early_images, images, late
from rspretrain.nn.backbones import BackboneSettings, create_backbone
from rspretrain.nn.classifiers.linear import LinearClassifier, LinearSettings
from rspretrain.nn.norm import SyncBatchNorm

torch.set_num_threads(1)


def test_late_fusion_has_one_linear_on_all_features() -> None:
    model, given = late().eval(), images()
    features = torch.cat([model.backbones[name](x) for name, x in given.items()], dim=1)
    assert torch.equal(model(given), model.head(features))
    assert model.head.in_features == sum(one.num_features for one in model.backbones.values())  # type: ignore[misc]
    assert (model.bands, model.px) == ({"s1": S1, "s2": S2}, {"s1": 32, "s2": 48})


def test_the_head_of_dual_simclr_has_the_published_size() -> None:
    """Two ResNet18, 2 x 512 features, 8 classes (docs/methods.md, Linear classifier)."""
    pair = [create_backbone(BackboneSettings(), sensor, bands, 32) for sensor, bands in STACK.items()]
    assert sum(p.numel() for p in LinearClassifier(LinearSettings(), pair, 8).head.parameters()) == 1024 * 8 + 8


def test_early_fusion_stacks_the_bands_in_channel_order() -> None:
    model, given = early().eval(), early_images()
    stacked = torch.cat([given["s1"], given["s2"]], dim=1)
    expected = model.head(model.backbones["s1+s2"](stacked))
    assert torch.equal(model(given), expected)
    assert torch.equal(model(dict(reversed(given.items()))), expected)
    assert model.bands == STACK


def test_norms_are_synchronised() -> None:
    norms = [type(part) for part in late().modules() if isinstance(part, torch.nn.modules.batchnorm._BatchNorm)]
    assert norms
    assert set(norms) == {SyncBatchNorm}


@pytest.mark.parametrize(("make", "batch"), [(late, images), (early, early_images)])
def test_learns_16_samples(make, batch) -> None:
    check_classifier(make, batch)
