"""Classifiers on features: single, early and late fusion are one network; what is given, missing and wrong."""

import pytest
import torch
from laws import check_classifier

from rspretrain.nn.backbones import Backbone, BackboneSettings, create_backbone
from rspretrain.nn.classifiers import LinearClassifier
from rspretrain.nn.norm import SyncBatchNorm

torch.set_num_threads(1)
S1, S2 = ("VV", "VH"), ("B04", "B03", "B02")
STACK = {"s1": S1, "s2": S2}


def resnet(sensor: str, bands: tuple[str, ...], px: int = 32) -> Backbone:
    return create_backbone(BackboneSettings(name="test_resnet"), sensor, bands, px)


def late() -> LinearClassifier:
    torch.manual_seed(0)
    return LinearClassifier([resnet("s1", S1), resnet("s2", S2, 48)], 5)


def early() -> LinearClassifier:
    torch.manual_seed(0)
    return LinearClassifier([resnet("s1+s2", S1 + S2)], 5, STACK)


def images(num: int = 3, s2_px: int = 48) -> dict[str, torch.Tensor]:
    torch.manual_seed(1)
    return {"s1": torch.randn(num, 2, 32, 32), "s2": torch.randn(num, 3, s2_px, s2_px)}


def early_images(num: int = 3) -> dict[str, torch.Tensor]:
    return images(num, 32)


def test_late_fusion_is_one_linear_on_all_features() -> None:
    model, given = late().eval(), images()
    features = torch.cat([model.backbones[name](x) for name, x in given.items()], dim=1)
    assert torch.equal(model(given), model.head(features))
    assert model.head.in_features == sum(one.num_features for one in model.backbones.values())  # type: ignore[misc]
    assert (model.bands, model.px) == ({"s1": S1, "s2": S2}, {"s1": 32, "s2": 48})


def test_dual_simclr_s_head_has_the_published_size() -> None:
    """methods.md A.6: two ResNet18, 2 x 512 features, 8 classes."""
    pair = [create_backbone(BackboneSettings(), sensor, bands, 32) for sensor, bands in STACK.items()]
    assert sum(p.numel() for p in LinearClassifier(pair, 8).head.parameters()) == 1024 * 8 + 8


def test_early_fusion_stacks_the_bands_in_the_order_of_the_channels() -> None:
    model, given = early().eval(), early_images()
    stacked = torch.cat([given["s1"], given["s2"]], dim=1)
    want = model.head(model.backbones["s1+s2"](stacked))
    assert torch.equal(model(given), want)
    assert torch.equal(model(dict(reversed(given.items()))), want)
    assert model.bands == STACK


@pytest.mark.parametrize("make", [late, early])
def test_a_missing_sensor_is_zeros(make) -> None:
    model, given = make().eval(), images() if make is late else early_images()
    assert torch.equal(model({"s2": given["s2"]}), model({**given, "s1": torch.zeros(3, 2, 32, 32)}))


def test_norms_see_the_global_batch() -> None:
    norms = [type(part) for part in late().modules() if isinstance(part, torch.nn.modules.batchnorm._BatchNorm)]
    assert norms
    assert set(norms) == {SyncBatchNorm}


@pytest.mark.parametrize(("make", "batch"), [(late, images), (early, early_images)])
def test_law_8(make, batch) -> None:
    check_classifier(make, batch)


def test_wrong_images_are_errors_in_three_parts() -> None:
    model, given = late(), images()
    with pytest.raises(
        ValueError, match=r"got images of \['s3'\], expected some of \['s1', 's2'\]. Leave them out, or build a class"
    ):
        model({**given, "s3": given["s1"]})
    with pytest.raises(
        ValueError, match=r"images of no sensor, expected at least one of \['s1', 's2'\]. Give one of them"
    ):
        model({})
    with pytest.raises(
        ValueError,
        match=r"Images of 's2' have shape \[3, 3, 32, 32\], expected \[3, 3, 48, 48\] for bands .*\]. Resample",
    ):
        model({**given, "s2": given["s2"][:, :, :32, :32]})
    with pytest.raises(ValueError, match=r"Images of 's2' have shape \[2, 3, 48, 48\], expected \[3, 3, 48, 48\]"):
        model({**given, "s2": given["s2"][:2]})


def test_wrong_backbones_are_errors_in_three_parts() -> None:
    with pytest.raises(
        ValueError, match=r"got backbones of \['s1', 's1'\], expected at least one, and every .* Give one b"
    ):
        LinearClassifier([resnet("s1", S1), resnet("s1", S1)], 5)
    with pytest.raises(ValueError, match=r"got backbones of \[\], expected at least one"):
        LinearClassifier([], 5)
    with pytest.raises(
        ValueError,
        match=r"'s1\+s2' has the channels \['VV', 'VH', 'B04', 'B03', 'B02'\], the bands by sensor are "
        r"\{'s1': \[\], 's2': \[\]\}. Give the bands of each of its sensors, in the order",
    ):
        LinearClassifier([resnet("s1+s2", S1 + S2)], 5)
    with pytest.raises(
        ValueError, match=r"by sensor are \{'s1': \['VV', 'VH'\], 's2': \['B02', 'B03', 'B04'\]\}. Give"
    ):
        LinearClassifier([resnet("s1+s2", S1 + S2)], 5, {"s1": S1, "s2": S2[::-1]})
