"""Missing and invalid inputs of classifiers."""

import pytest
import torch

from nn.classifiers.pairs import S1, S2, early, early_images, images, late, resnet
from rspretrain.nn.classifiers.linear import LinearClassifier, LinearSettings

torch.set_num_threads(1)


@pytest.mark.parametrize("make", [late, early])
def test_a_missing_sensor_is_zeros(make) -> None:
    model, given = make().eval(), images() if make is late else early_images()
    assert torch.equal(model({"s2": given["s2"]}), model({**given, "s1": torch.zeros(3, 2, 32, 32)}))


def test_invalid_images_are_errors() -> None:
    model, given = late(), images()
    with pytest.raises(
        ValueError, match=r"got images of \['s3'\], expected some of \['s1', 's2'\]. Remove them, or build a class"
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


def test_invalid_backbones_are_errors() -> None:
    with pytest.raises(
        ValueError, match=r"got backbones of \['s1', 's1'\], expected at least one, and each .* Give one b"
    ):
        LinearClassifier(LinearSettings(), [resnet("s1", S1), resnet("s1", S1)], 5)
    with pytest.raises(ValueError, match=r"got backbones of \[\], expected at least one"):
        LinearClassifier(LinearSettings(), [], 5)
    with pytest.raises(
        ValueError,
        match=r"'s1\+s2' has the channels \['VV', 'VH', 'B04', 'B03', 'B02'\], got the bands by sensor "
        r"\{'s1': \[\], 's2': \[\]\}. Give the bands of each of its sensors, in channel order",
    ):
        LinearClassifier(LinearSettings(), [resnet("s1+s2", S1 + S2)], 5)
    with pytest.raises(ValueError, match=r"by sensor \{'s1': \['VV', 'VH'\], 's2': \['B02', 'B03', 'B04'\]\}. Give"):
        LinearClassifier(LinearSettings(), [resnet("s1+s2", S1 + S2)], 5, {"s1": S1, "s2": S2[::-1]})
