from dataclasses import replace

import numpy as np
import pytest
import torch
from gloo import run_ranks

from finetuning.mapped import GROUPS, MAP, mapped_shards, objective, step_on_this_rank
from rspretrain.archives.dfc2020 import CODES, dfc_labels
from rspretrain.batch import Batch
from rspretrain.evaluation.labels import LabelSettings, choose_labels
from rspretrain.finetuning.targets import MapTargets, choose_targets
from rspretrain.streaming.loader import evaluation_batches
from rspretrain.transforms.inputs import SensorInput, SensorSettings
from rspretrain.transforms.train_views import TrainViews, TrainViewSettings

NAMES = tuple(CODES)
WHOLE = torch.tensor([[0.0, 0.0, 1.0, 1.0]], dtype=torch.float64)


@pytest.fixture(scope="module")
def shards(tmp_path_factory):
    return mapped_shards(tmp_path_factory.mktemp("targets") / "shards")


def targets(multi):
    return MapTargets(MAP, "dfc", [[code] for code in CODES.values()], multi)


def labels(multi, boxes=WHOLE, **pixels):
    """Labels of a 10 x 10 map with the given number of pixels per code; other pixels are 0."""
    codes = np.zeros(100, dtype=np.uint8)
    codes[: sum(pixels.values())] = np.repeat(
        [int(name.removeprefix("code")) for name in pixels], list(pixels.values())
    )
    batch = Batch({"dfc_10m": torch.from_numpy(codes.reshape(1, 1, 10, 10))}, {}, torch.zeros(1), np.zeros(1))
    return [NAMES[index] for index in targets(multi).within(batch, boxes)[0].nonzero().flatten()]


def test_multi_label_classes_cover_at_least_a_tenth_of_all_pixels():
    assert labels(True, code1=10, code10=9, code4=81) == ["Forest", "Grassland"]  # exactly a tenth is enough
    assert labels(True, code1=10, code3=50, code8=40) == ["Forest"]  # savanna and snow are in the denominator only
    assert labels(True, code1=9, code3=91) == []  # invalid pixels are in the denominator, too
    assert labels(True, code7=10) == ["Urban"]


def test_the_single_label_is_the_most_frequent_value_in_the_window():
    assert labels(False, code10=40, code7=35, code1=25) == ["Water"]
    assert labels(False, code10=40, code7=40, code1=20) == ["Urban"]  # the first class of equals
    assert labels(False, code10=30, code3=30, code8=39) == []  # all invalid codes count as one value: 70 of 100
    assert labels(False, code10=50, code3=50) == ["Water"]  # in a tie with invalid pixels, the class wins
    assert labels(False, code10=49) == []
    assert labels(False) == []


def test_windows_are_cropped_without_interpolation():
    # Forest above urban: interpolation between the two would give codes 2 to 6.
    half = {"code1": 50, "code7": 50}
    for low, high, expected in ((0.0, 0.5, ["Forest"]), (0.5, 1.0, ["Urban"]), (0.4, 0.6, ["Forest", "Urban"])):
        assert labels(True, torch.tensor([[low, 0.0, high, 1.0]], dtype=torch.float64), **half) == expected


@pytest.mark.parametrize("nomenclature", ["dfc", "dfc_multi"])
@pytest.mark.parametrize("training", [True, False])
def test_labels_are_those_of_the_pixels_in_the_view(shards, nomenclature, training):
    """Compared with the archive's labels of the same crop, made by numpy."""
    one = objective(shards, nomenclature, crop_px=8, symmetry="dihedral").train(training)
    batch = next(iter(evaluation_batches(shards, one.groups, np.arange(40), 40)))
    found = one.targets.of(batch, one.views)
    corners = set()
    for number, box in enumerate(one.views.window(batch).boxes):
        top, left, bottom, right = (round(12 * edge) for edge in box.tolist())
        assert (bottom - top, right - left) == (8, 8)
        corners.add((top, left))
        cut = batch.images["dfc_10m"][number, 0, top:bottom, left:right].numpy()
        assert tuple(NAMES[index] for index in found[number].nonzero()) == dfc_labels(cut).get(nomenclature, ())
    assert len(corners) > 10 if training else corners == {(2, 2)}
    whole = [tuple(np.array(NAMES)[row]) for row in shards.labels(nomenclature)]
    assert whole != [tuple(np.array(NAMES)[row]) for row in found.numpy()]  # the labels of whole patches differ


def test_padding_of_maps_is_not_counted():
    canvas = torch.full((1, 1, 10, 10), 10, dtype=torch.uint8)  # a reused buffer may hold any values in its padding
    canvas[0, 0, :6, :4] = 1
    batch = Batch({"dfc_10m": canvas}, {"dfc_10m": torch.tensor([[6, 4]])}, torch.zeros(1), np.zeros(1))
    assert targets(True).within(batch, WHOLE)[0].nonzero().tolist() == [[0]]


def test_evaluated_images_have_the_labels_of_their_central_crop(shards):
    for nomenclature in ("dfc", "dfc_multi"):
        one = objective(shards, nomenclature, crop_px=8)
        data = choose_labels(shards, LabelSettings(nomenclature=nomenclature, from_map="dfc"))
        assert len(data.train) + len(data.val) + len(data.test) == 40  # includes patches without a label
        _, kept, hot = choose_targets(shards, data, one.views, "dfc")
        batch = next(iter(evaluation_batches(shards, one.groups, data.test, 8)))
        expected = one.eval().targets.of(batch, one.views)
        has = expected.any(dim=1) | (nomenclature == "dfc_multi")
        assert kept.test.tolist() == data.test[has.numpy()].tolist()
        assert torch.equal(hot[torch.from_numpy(kept.test)], expected[has])
        assert nomenclature == "dfc_multi" or 0 < len(kept.test) < len(data.test) or len(kept.val) < len(data.val)
        assert torch.equal(hot[torch.from_numpy(data.train)], torch.from_numpy(shards.labels(nomenclature)[data.train]))


def test_two_ranks_have_the_loss_of_one_process_with_unlabelled_images(shards):
    has = _has(shards, np.arange(40))
    whole = np.concatenate(
        [np.flatnonzero(has)[:8], np.flatnonzero(~has)[:8]]
    )  # one rank has labels only, the other none
    loss, gradients = step_on_this_rank(shards.path, whole)
    for other_loss, others in run_ranks(2, step_on_this_rank, shards.path, whole):
        torch.testing.assert_close(other_loss, loss, rtol=1e-6, atol=0)
        for name, value in others.items():
            torch.testing.assert_close(value, gradients[name], rtol=1e-5, atol=1e-7)


def _has(shards, rows):
    """[N] bool: whether the window of a row has a label."""
    one = objective(shards, "dfc", crop_px=8)
    batch = next(iter(evaluation_batches(shards, one.groups, rows, len(rows))))
    return one.targets.of(batch, one.views).any(dim=1).numpy()


def test_the_loss_ignores_images_without_a_label(shards):
    one = objective(shards, "dfc", crop_px=8)
    assert one.couples_samples
    batch = next(iter(evaluation_batches(shards, one.groups, np.arange(16), 16)))
    hot = one.targets.of(batch, one.views)
    targets = torch.where(hot.any(dim=1), hot.int().argmax(dim=1), 255)
    expected = torch.nn.functional.cross_entropy(one.classifier(one.views(batch)), targets, ignore_index=255)
    torch.testing.assert_close(one(batch).loss, expected)


@pytest.mark.parametrize(
    ("settings", "views", "message"),
    [
        ({"from_map": "lc"}, {}, r"labels.from_map: got 'lc', expected one of the maps of .*: \['dfc'\]. Build shards"),
        (
            {"from_map": "dfc"},
            {"independent": True},
            r"got a map together with views.independent, .*one window",
        ),
    ],
)
def test_invalid_maps_are_refused(shards, settings, views, message):
    inputs = {"s1": SensorInput("s1", SensorSettings(bands=("VV",)), GROUPS)}
    train_views = TrainViews(TrainViewSettings(**views), inputs, {"s1": 12})
    data = choose_labels(shards, LabelSettings(nomenclature="dfc", **settings))
    with pytest.raises(ValueError, match=message):
        choose_targets(shards, data, train_views, settings["from_map"])


def test_classes_without_a_code_and_other_grids_are_refused(shards):
    data = choose_labels(shards, LabelSettings(nomenclature="dfc"))
    inputs = {"s1": SensorInput("s1", SensorSettings(bands=("VV",)), GROUPS)}
    train_views = TrainViews(TrainViewSettings(), inputs, {"s1": 12})
    with pytest.raises(ValueError, match=r"'dfc' has no code for the classes \['Moon'\] of 'dfc'; its cl"):
        choose_targets(shards, replace(data, classes=(*data.classes, "Moon")), train_views, "dfc")
    finer = [replace(GROUPS[0], shape=(24, 24)), MAP]
    train_views = TrainViews(
        TrainViewSettings(), {"s1": SensorInput("s1", SensorSettings(bands=("VV",)), finer)}, {"s1": 12}
    )
    message = r"'dfc' has \(12, 12\) pixels, the finest input images have \(24, 24\); expected the same grid"
    with pytest.raises(ValueError, match=message):
        choose_targets(shards, data, train_views, "dfc")
