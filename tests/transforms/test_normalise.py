"""Normalisation: the numbers in sensors.SCALINGS, bands by name, and the preset that divides by the crop's maximum."""

import pytest
import torch

from rspretrain.transforms.normalise import Normalise


def test_fixed_maps_physical_ranges_to_unit() -> None:
    one = Normalise("fixed", ("VV", "VH"), "db")
    x = torch.tensor([-40.0, -25.0, -12.5, 5.0]).expand(1, 2, 1, 4).clone()
    assert one.scale(x.clip(-25, 0)).tolist() == [[[[0.0, 0.0, 0.5, 1.0]]] * 2]


def test_bands_are_by_name() -> None:
    one = Normalise("bigearthnet", ("B11", "VV"), "dn")
    x = torch.tensor([1594.42694882, -12.619993741972])[None, :, None, None]
    torch.testing.assert_close(one.scale(x), torch.zeros(1, 2, 1, 1), atol=1e-6, rtol=0)
    assert not one.clips


def test_limits_are_those_of_the_bands() -> None:
    one = Normalise("fixed", ("B02", "VV"), "dn")
    assert one.clips
    assert (one.low.tolist(), one.high.tolist()) == ([0.0, -25.0], [10000.0, 0.0])


def test_hsg_divides_every_band_by_its_own_maximum() -> None:
    one = Normalise("hsg", ("VV", "VH"), "db")
    x = torch.randn(3, 2, 8, 8) * 5 - 12
    y = one.scale(x.clip(-25, 0))
    expected = (x.clip(-25, 0) + 25) / ((x.clip(-25, 0) + 25).amax((2, 3), keepdim=True) + 1e-5)
    torch.testing.assert_close(y, expected)


def test_the_state_dict_has_no_buffers() -> None:
    assert Normalise("fixed", ("VV",), "db").state_dict() == {}


def test_a_scaling_without_a_band_is_an_error() -> None:
    with pytest.raises(ValueError, match=r"Normalisation 'imagenet' has no scaling for bands \['VV'\]"):
        Normalise("imagenet", ("R", "VV"), "grey")
