"""RandomSensorDrop: how often, never all, and a choice of the sample's own."""

import numpy as np
import pytest
import torch

from rspretrain.rng import sample_seeds
from rspretrain.transforms.sensor_drop import drop_sensors, dropped_sensor

NUM = 200_000


def seeds(num: int = NUM) -> torch.Tensor:
    return torch.from_numpy(sample_seeds(0, 3, np.arange(num)))


@pytest.mark.parametrize(("num", "probability"), [(2, 0.5), (3, 0.5), (2, 0.2), (2, 0.0), (2, 1.0)])
def test_frequencies(num: int, probability: float) -> None:
    """Two sensors: 50 % both, 25 % each alone; within four standard deviations of 200,000 draws."""
    counts = torch.bincount(dropped_sensor(seeds(), num, probability) + 1, minlength=num + 1)
    assert len(counts) == num + 1
    for found, share in zip(counts.tolist(), [1 - probability, *[probability / num] * num], strict=True):
        assert abs(found - NUM * share) <= 4 * (NUM * share * (1 - share)) ** 0.5


def test_a_whole_sensor_or_nothing_is_zero_and_never_all() -> None:
    x = {"s1": torch.rand(64, 2, 3, 3) + 1, "s2": torch.rand(64, 10, 5, 5) + 1}
    x["s1"][:, 0, 0, 0] = torch.nan  # a dropped sensor is 0 whatever it was
    which = dropped_sensor(seeds(64), 2)
    out = drop_sensors(x, seeds(64))
    assert set(which.tolist()) == {-1, 0, 1}
    for place, name in enumerate(x):
        gone = which == place
        assert torch.equal(out[name][gone], torch.zeros_like(out[name][gone]))
        assert torch.equal(out[name][~gone].nan_to_num(), x[name][~gone].nan_to_num())
    assert bool((x["s2"] > 0).all())  # the input is not touched


def test_belongs_to_the_sample() -> None:
    both = {"s1": torch.rand(8, 2, 3, 3), "s2": torch.rand(8, 1, 3, 3)}
    whole = drop_sensors(both, seeds(8))
    halves = [drop_sensors({k: v[part] for k, v in both.items()}, seeds(8)[part]) for part in (slice(4), slice(4, 8))]
    for name in both:
        assert torch.equal(whole[name], torch.cat([half[name] for half in halves]))
    assert dropped_sensor(seeds(20), 2).tolist() != dropped_sensor(seeds(20), 2, purpose="another").tolist()


def test_a_lone_sensor_stays() -> None:
    x = torch.rand(16, 2, 3, 3)
    assert torch.equal(drop_sensors({"s1": x}, seeds(16), probability=1.0)["s1"], x)
