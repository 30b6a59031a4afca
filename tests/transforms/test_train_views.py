import pytest
import torch
from fakes.memory import memory_shards
from pydantic import ValidationError
from torch import Tensor

from rspretrain.batch import Batch
from rspretrain.shardset.index import ShardSet
from rspretrain.streaming.loader import evaluation_batches
from rspretrain.transforms.inputs import SensorInput, SensorSettings
from rspretrain.transforms.train_views import TrainViews, TrainViewSettings

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
    """The eight of [C H W]."""
    turned = [torch.rot90(x, k, (1, 2)) for k in range(4)]
    return turned + [y.flip(2) for y in turned]


def which(seen: Tensor, plain: Tensor) -> list[int]:
    """[B]: the number of the symmetry that makes each seen image of its plain one."""
    return [
        next(i for i, y in enumerate(symmetries(b)) if torch.allclose(a, y, atol=1e-5))
        for a, b in zip(seen, plain, strict=True)
    ]


def test_in_evaluation_the_image_is_shown_as_it_lies(shards: ShardSet) -> None:
    shown = views(shards, independent=True, sensor_drop=1.0, scale=(0.5, 0.6)).eval()(batch(shards))
    alone = inputs(shards)
    for name, x in shown.items():
        expected = batch(shards).images[f"{name}_10m"].float()
        torch.testing.assert_close(x, alone[name].normalise.scale(expected), atol=1e-4, rtol=1e-5)


def test_sensors_are_turned_alike_unless_they_are_independent(shards: ShardSet) -> None:
    plain = views(shards).eval()(batch(shards))
    together = views(shards).train()(batch(shards))
    turns = {name: which(together[name], plain[name]) for name in together}
    assert turns["s1"] == turns["s2"]
    assert set(turns["s1"]) == set(range(8))
    apart = views(shards, independent=True, symmetry="flips").train()(batch(shards))
    turns = {name: which(apart[name], plain[name]) for name in apart}
    assert turns["s1"] != turns["s2"]
    assert set(turns["s1"]) == set(turns["s2"]) == {0, 2, 4, 6}  # the identity, half a turn, two flips


def test_windows_lie_alike_and_the_middle_one_is_tested(shards: ShardSet) -> None:
    cut = TrainViews(TrainViewSettings(crop_px=4, symmetry="none"), inputs(shards), {"s1": 4, "s2": 4})
    random, middle = cut.train()(batch(shards)), cut.eval()(batch(shards))
    plain = views(shards).eval()(batch(shards))
    places = {}
    for name, x in random.items():
        windows = plain[name].unfold(2, 4, 1).unfold(3, 4, 1).permute(0, 2, 3, 1, 4, 5)  # [B 9 9 C 4 4]
        found = ((windows - x[:, None, None]).abs().amax(dim=(3, 4, 5)) < 1e-4).nonzero()
        places[name] = found.tolist()
        torch.testing.assert_close(middle[name], plain[name][:, :, 4:8, 4:8], atol=1e-4, rtol=1e-4)
    assert places["s1"] == places["s2"]
    assert [number for number, _, _ in places["s1"]] == list(range(64))
    assert len({(top, left) for _, top, left in places["s1"]}) > 20


def test_dropped_sensors_are_zero_in_training_only(shards: ShardSet) -> None:
    dropping = views(shards, sensor_drop=1.0)
    seen = dropping.train()(batch(shards))
    gone = {name: (x == 0).flatten(1).all(dim=1) for name, x in seen.items()}
    assert (gone["s1"] ^ gone["s2"]).all()
    assert 10 < int(gone["s1"].sum()) < 54
    assert not any((x == 0).flatten(1).all(dim=1).any() for x in dropping.eval()(batch(shards)).values())


def test_a_crop_shows_a_part_of_the_image(shards: ShardSet) -> None:
    small = views(shards, scale=(0.3, 0.3), symmetry="none").train()(batch(shards))
    plain = views(shards).eval()(batch(shards))
    assert small["s1"].shape == plain["s1"].shape
    assert not torch.allclose(small["s1"], plain["s1"])


def test_what_does_not_fit_is_refused(shards: ShardSet) -> None:
    with pytest.raises(ValidationError, match=r"views.crop_px 4 and views.scale \(0.5, 1.0\) both cut windows"):
        TrainViewSettings(crop_px=4, scale=(0.5, 1.0))
    with pytest.raises(ValidationError, match=r"views.scale is \(0.9, 0.5\), expected 0 < least <= greatest <= 1"):
        TrainViewSettings(scale=(0.9, 0.5))
    with pytest.raises(ValueError, match=r"crop_px=13 pixels does not fit images of 12 pixels"):
        views(shards, crop_px=13)
    one = {"s2": inputs(shards)["s2"]}
    with pytest.raises(ValueError, match=r"views.sensor_drop: got 0.5 for the inputs \['s2'\], expected a classifier"):
        TrainViews(TrainViewSettings(sensor_drop=0.5), one, {"s2": 12})
