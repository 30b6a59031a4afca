import math

import numpy as np
import pytest
import torch
from fakes.memory import MemoryArchive

from rspretrain.evaluation.linear_eval import draw_training_sets, evaluate, fit
from rspretrain.evaluation.probe import extract_features
from rspretrain.nn.backbones import BackboneSettings, create_backbone
from rspretrain.nn.tokens import TokenFeatures
from rspretrain.shardset.building.build import build_shards
from rspretrain.shardset.index import open_shards
from rspretrain.transforms.inputs import NetworkInput, SensorInput, SensorSettings

BANDS = ("B02", "B03", "B04", "B08")
NET = {"patch_size": 4, "embed_dim": 16, "depth": 4, "num_heads": 2}
LABELS = {"nomenclature": "class", "train_split": "train", "test_split": "test"}


class BrightBands(MemoryArchive):
    """Noise images in which one band, different for each class, is bright."""

    def pixels(self, number, group):
        pixels = super().pixels(number, group).astype(np.float64)
        if group.name == "s2_10m":
            pixels[number % 3] += 5000
        return pixels.astype(group.dtype)


@pytest.fixture(scope="module")
def shards(tmp_path_factory):
    folder = tmp_path_factory.mktemp("linear_eval") / "shards"
    build_shards(BrightBands(samples=200), folder, samples_per_shard=64)  # 160 train: 53, 53 and 54 per class
    return open_shards(folder)


@pytest.fixture(scope="module")
def network(shards):
    torch.manual_seed(0)
    part = SensorInput("s2", SensorSettings(bands=BANDS), list(shards.groups.values()))
    backbone = create_backbone(BackboneSettings(name="vit_tiny_patch16_224", args=NET), "s2", BANDS, 12)
    return TokenFeatures(backbone, "cls4"), NetworkInput([part])


@pytest.mark.parametrize(("fraction", "expected"), [(0.001, 1), (0.01, 1), (0.05, 3), (0.5, 27)])
def test_training_sets_hold_a_fraction_of_each_class_and_at_least_one_image(shards, fraction, expected):
    draws = draw_training_sets(shards, fraction, range(3), LABELS)
    hot = shards.labels("class")
    for draw in draws.values():
        found = hot[draw.train].sum(axis=0)
        assert found.tolist() == [max(1, round(fraction * n)) for n in hot[shards.split_rows("train")].sum(axis=0)]
        assert abs(found[0] - expected) <= 1
        assert set(shards.keys(draw.train)) <= set(shards.keys(shards.split_rows("train")))
        assert set(shards.keys(draw.test)) == set(shards.keys(shards.split_rows("test")))
    assert len({tuple(draw.train) for draw in draws.values()}) == 3


def test_three_training_images_suffice_for_three_distinct_classes(shards, network):
    draws = draw_training_sets(shards, 0.01, range(5), LABELS)
    found = evaluate(*network, shards, draws)
    assert (found.num_test, found.classes, len(found.draws)) == (40, ("field", "forest", "water"), 5)
    assert [draw.keys for draw in found.draws] == [tuple(shards.keys(draw.train)) for draw in draws.values()]
    mean, std = found.top1
    values = np.array([draw.scores.top1 for draw in found.draws])
    assert (mean, std) == (pytest.approx(values.mean()), pytest.approx(values.std(ddof=1)))
    assert mean > 0.6  # a third is chance
    assert found.as_dict()["top1_mean"] == mean
    again = evaluate(*network, shards, draw_training_sets(shards, 0.01, [3], LABELS), batch_size=7)
    assert again.draws[0].scores.top1 == pytest.approx(values[3], abs=0.03)
    assert again.top1[1] is None


def test_a_draw_trains_on_its_own_images_and_labels(shards, network):
    draw = draw_training_sets(shards, 0.05, [0], LABELS)[0]
    class_of = torch.from_numpy(shards.labels("class").argmax(axis=1))
    x = [extract_features(*network, shards, rows) for rows in (draw.train, draw.test)]
    linear, loss = fit(x[0], class_of[draw.train], 3, seed=0)
    correct = (linear(x[1]).argmax(dim=1) == class_of[draw.test]).float().mean().item()
    (found,) = evaluate(*network, shards, {0: draw}).draws
    assert found.scores.top1 == pytest.approx(correct, abs=0.03)
    assert found.train_loss == pytest.approx(loss, rel=1e-3)


def test_the_optimizer_is_heavy_ball_sgd_by_hand():
    """A numpy reference: weights from N(0, 0.01), momentum 0.9, no weight decay, cosine from 0.1 to 0 in 100 steps."""
    rng = np.random.default_rng(0)
    x, y = rng.normal(size=(12, 5)), rng.integers(0, 3, 12)
    linear, _ = fit(torch.from_numpy(x).float(), torch.from_numpy(y), 3, seed=4)
    w = 0.01 * torch.randn(3, 5, generator=torch.Generator().manual_seed(4)).double().numpy()
    b, dw, db = np.zeros(3), np.zeros((3, 5)), np.zeros(3)
    for step in range(100):
        p = np.exp(x @ w.T + b)
        error = (p / p.sum(axis=1, keepdims=True) - np.eye(3)[y]) / 12
        dw, db = 0.9 * dw + error.T @ x, 0.9 * db + error.sum(axis=0)
        rate = 0.1 * (1 + math.cos(math.pi * step / 100)) / 2
        w, b = w - rate * dw, b - rate * db
    np.testing.assert_allclose(linear.weight.detach(), w, atol=1e-5)
    np.testing.assert_allclose(linear.bias.detach(), b, atol=1e-5)


def test_multi_label_data_is_refused(shards):
    with pytest.raises(ValueError, match=r"labels.per_class: got true for 'all', which has several labels per image"):
        draw_training_sets(shards, 0.01, [0], LABELS | {"nomenclature": "all"})
