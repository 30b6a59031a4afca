"""One window for two sensors: keyed by sample, equal in both, without gradient."""

import numpy as np
import pytest
import torch
from fakes.batches import GROUPS, batch_of

from rspretrain.transforms.inputs import SensorSettings
from rspretrain.transforms.shared_window import SharedWindow, WindowSettings

SENSORS = {"s1": SensorSettings(bands=("VV", "VH")), "s2": SensorSettings(bands=("B04", "B01"))}


def make(crop_px: int = 18, px: int | None = None) -> SharedWindow:
    return SharedWindow("mma", WindowSettings(crop_px=crop_px, px=px, symmetry="dihedral"), SENSORS, GROUPS)


def test_windows_do_not_depend_on_the_batch() -> None:
    window = make(px=12)
    whole, part = window(batch_of(np.arange(6))), window(batch_of(np.arange(3, 6)))
    for name, bands in (("s1", 2), ("s2", 2)):
        assert (whole[name].shape, whole[name].dtype) == ((6, bands, 12, 12), torch.float32)
        torch.testing.assert_close(whole[name][3:], part[name])
    assert window.groups == ("s1", "s2_10m", "s2_60m")
    assert list(window.inputs()) == ["s1", "s2"]
    assert make().px == 18


def test_errors() -> None:
    with pytest.raises(ValueError, match=r"mma compares two sensors: got 1, \['s1'\]. List two under `sensors`"):
        SharedWindow("mma", WindowSettings(crop_px=18), {"s1": SENSORS["s1"]}, GROUPS)
    with pytest.raises(ValueError, match=r"crop_px=48 pixels does not fit images of 24 pixels .* to at most 24"):
        make(crop_px=48)
