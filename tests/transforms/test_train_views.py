"""Views for fine-tuning: crops, flips, and how often sensors are dropped."""

import numpy as np
import pytest
import torch
from fakes.memory import memory_shards
from pydantic import ValidationError
from torch import Tensor

from rspretrain.batch import Batch
from rspretrain.rng import sample_seeds
from rspretrain.shardset.index import ShardSet
from rspretrain.streaming.loader import evaluation_batches
from rspretrain.transforms.inputs import SensorInput, SensorSettings
from rspretrain.transforms.train_views import TrainViews, TrainViewSettings, drop_sensors, dropped_sensor

BANDS = {"s1": ("VV", "VH"), "s2": ("B02", "B03", "B04", "B08")}


@pytest.fixture(scope="module")
def shards(tmp_path_factory: pytest.TempPathFactory) -> ShardSet:
    return memory_shards(tmp_path_factory.mktemp("views") / "shards", samples=64)


def inputs(shards: ShardSet) -> dict[str, SensorInput]:
    settings = {name: SensorSettings(bands=bands, normalise="bigearthnet") for name, bands in BANDS.items()}
    return {name: SensorInput(name, one, list(shards.groups.values())) for name, one in settings.items()}


def batch(shards: ShardSet) -> Batch:
    return next(iter(evaluation_batches(shards, ("s1_10m", "s2_10m"), shards.split_rows(None), 64)))


def views(shards: ShardSet, **settings: object) -> TrainViews:
    return TrainViews(TrainViewSettings.model_validate(settings), inputs(shards), {"s1": 12, "s2": 12})


def symmetries(x: Tensor) -> list[Tensor]:
    """The eight flips and rotations of [C H W]."""
    rotated = [torch.rot90(x, k, (1, 2)) for k in range(4)]
    return rotated + [y.flip(2) for y in rotated]


def which(seen: Tensor, plain: Tensor) -> list[int]:
    """[B]: index of the symmetry that maps each plain image to the seen one."""
    return [
        next(i for i, y in enumerate(symmetries(b)) if torch.allclose(a, y, atol=1e-5))
        for a, b in zip(seen, plain, strict=True)
    ]


def test_evaluation_returns_the_whole_image_unflipped(shards: ShardSet) -> None:
    shown = views(shards, independent=True, sensor_drop=1.0, scale=(0.5, 0.6)).eval()(batch(shards))
    alone = inputs(shards)
    for name, x in shown.items():
        expected = batch(shards).images[f"{name}_10m"].float()
        torch.testing.assert_close(x, alone[name].normalise.scale(expected), atol=1e-4, rtol=1e-5)


def test_sensors_share_flips_unless_they_are_independent(shards: ShardSet) -> None:
    plain = views(shards).eval()(batch(shards))
    together = views(shards).train()(batch(shards))
    drawn = {name: which(together[name], plain[name]) for name in together}
    assert drawn["s1"] == drawn["s2"]
    assert set(drawn["s1"]) == set(range(8))
    independent = views(shards, independent=True, symmetry="flips").train()(batch(shards))
    drawn = {name: which(independent[name], plain[name]) for name in independent}
    assert drawn["s1"] != drawn["s2"]
    assert set(drawn["s1"]) == set(drawn["s2"]) == {0, 2, 4, 6}  # identity, rotation by 180 degrees, two flips


def test_sensors_share_random_windows_and_evaluation_takes_the_centre(shards: ShardSet) -> None:
    cut = TrainViews(TrainViewSettings(crop_px=4, symmetry="none"), inputs(shards), {"s1": 4, "s2": 4})
    random, centre = cut.train()(batch(shards)), cut.eval()(batch(shards))
    plain = views(shards).eval()(batch(shards))
    positions = {}
    for name, x in random.items():
        windows = plain[name].unfold(2, 4, 1).unfold(3, 4, 1).permute(0, 2, 3, 1, 4, 5)  # [B 9 9 C 4 4]
        found = ((windows - x[:, None, None]).abs().amax(dim=(3, 4, 5)) < 1e-4).nonzero()
        positions[name] = found.tolist()
        torch.testing.assert_close(centre[name], plain[name][:, :, 4:8, 4:8], atol=1e-4, rtol=1e-4)
    assert positions["s1"] == positions["s2"]
    assert [number for number, _, _ in positions["s1"]] == list(range(64))
    assert len({(top, left) for _, top, left in positions["s1"]}) > 20


def test_dropped_sensors_are_zero_in_training_only(shards: ShardSet) -> None:
    dropping = views(shards, sensor_drop=1.0)
    seen = dropping.train()(batch(shards))
    dropped = {name: (x == 0).flatten(1).all(dim=1) for name, x in seen.items()}
    assert (dropped["s1"] ^ dropped["s2"]).all()
    assert 10 < int(dropped["s1"].sum()) < 54
    assert not any((x == 0).flatten(1).all(dim=1).any() for x in dropping.eval()(batch(shards)).values())


def test_random_resized_crops_differ_from_the_whole_image(shards: ShardSet) -> None:
    small = views(shards, scale=(0.3, 0.3), symmetry="none").train()(batch(shards))
    plain = views(shards).eval()(batch(shards))
    assert small["s1"].shape == plain["s1"].shape
    assert not torch.allclose(small["s1"], plain["s1"])


def test_invalid_settings_are_errors(shards: ShardSet) -> None:
    with pytest.raises(ValidationError, match=r"views.crop_px 4 and views.scale \(0.5, 1.0\) both crop, expected"):
        TrainViewSettings(crop_px=4, scale=(0.5, 1.0))
    with pytest.raises(ValidationError, match=r"views.scale: got \(0.9, 0.5\), expected 0 < min <= max <= 1"):
        TrainViewSettings(scale=(0.9, 0.5))
    with pytest.raises(ValueError, match=r"crop_px=13 pixels does not fit images of 12 pixels"):
        views(shards, crop_px=13)
    one = {"s2": inputs(shards)["s2"]}
    with pytest.raises(ValueError, match=r"views.sensor_drop: got 0.5 for the inputs \['s2'\], expected a classifier"):
        TrainViews(TrainViewSettings(sensor_drop=0.5), one, {"s2": 12})


NUM = 200_000


def seeds(num: int = NUM) -> Tensor:
    return torch.from_numpy(sample_seeds(0, 3, np.arange(num)))


@pytest.mark.parametrize(("num", "probability"), [(2, 0.5), (3, 0.5), (2, 0.2), (2, 0.0), (2, 1.0)])
def test_sensor_drop_frequencies(num: int, probability: float) -> None:
    """Two sensors: 50 % both, 25 % each alone; within four standard deviations of 200,000 draws."""
    counts = torch.bincount(dropped_sensor(seeds(), num, probability) + 1, minlength=num + 1)
    assert len(counts) == num + 1
    for found, share in zip(counts.tolist(), [1 - probability, *[probability / num] * num], strict=True):
        assert abs(found - NUM * share) <= 4 * (NUM * share * (1 - share)) ** 0.5


def test_sensor_drop_zeroes_one_whole_sensor_or_none() -> None:
    x = {"s1": torch.rand(64, 2, 3, 3) + 1, "s2": torch.rand(64, 10, 5, 5) + 1}
    x["s1"][:, 0, 0, 0] = torch.nan  # a dropped sensor is 0 even if it was NaN
    which_sensor = dropped_sensor(seeds(64), 2)
    out = drop_sensors(x, seeds(64))
    assert set(which_sensor.tolist()) == {-1, 0, 1}
    for index, name in enumerate(x):
        dropped = which_sensor == index
        assert torch.equal(out[name][dropped], torch.zeros_like(out[name][dropped]))
        assert torch.equal(out[name][~dropped].nan_to_num(), x[name][~dropped].nan_to_num())
    assert bool((x["s2"] > 0).all())  # the input is unchanged


def test_sensor_drop_does_not_depend_on_the_batch() -> None:
    both = {"s1": torch.rand(8, 2, 3, 3), "s2": torch.rand(8, 1, 3, 3)}
    whole = drop_sensors(both, seeds(8))
    halves = [drop_sensors({k: v[part] for k, v in both.items()}, seeds(8)[part]) for part in (slice(4), slice(4, 8))]
    for name in both:
        assert torch.equal(whole[name], torch.cat([half[name] for half in halves]))
    assert dropped_sensor(seeds(20), 2).tolist() != dropped_sensor(seeds(20), 2, purpose="another").tolist()


def test_a_single_sensor_is_never_dropped() -> None:
    x = torch.rand(16, 2, 3, 3)
    assert torch.equal(drop_sensors({"s1": x}, seeds(16), probability=1.0)["s1"], x)
