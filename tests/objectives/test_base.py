"""Losses of several networks: mean, metric names, worst health values."""

import torch

from rspretrain.objectives.base import loss_names, mean_loss


def test_names() -> None:
    assert loss_names("mae", ["s2"]) == ("loss/mae", "health/chance_ratio")
    assert loss_names("mae", ["s1", "s2"]) == ("loss/mae", "loss/mae_s1", "loss/mae_s2", "health/chance_ratio")


def test_mean_loss_has_the_worst_health_values() -> None:
    losses = {"s1": torch.tensor(1.0, requires_grad=True), "s2": torch.tensor(3.0, requires_grad=True)}
    health = [{"health/a": torch.tensor(one), "health/b": torch.tensor(0.0)} for one in (0.5, 0.25)]
    result = mean_loss("mae", losses, health, 4.0)
    assert result.loss.item() == 2.0
    assert result.loss.requires_grad
    assert {name: value.item() for name, value in result.metrics.items()} == {
        "loss/mae": 2.0,
        "loss/mae_s1": 1.0,
        "loss/mae_s2": 3.0,
        "health/chance_ratio": 0.5,
        "health/a": 0.25,
        "health/b": 0.0,
    }
    assert not any(value.requires_grad for value in result.metrics.values())
    alone = mean_loss("mae", {"s1": losses["s1"]}, health[:1], 1.0).metrics
    assert list(alone) == ["loss/mae", "health/chance_ratio", "health/a", "health/b"]
