import pytest
import torch

from rspretrain.nn.two_stage_loss import TwoStageLoss
from rspretrain.objectives.dual_simclr import DualSimclr
from rspretrain.objectives.simclr import Simclr


def test_contrastive_objectives_are_in_two_halves():
    assert issubclass(Simclr, TwoStageLoss)
    assert issubclass(DualSimclr, TwoStageLoss)


def test_both_halves_must_be_there():
    class Half(torch.nn.Module, TwoStageLoss):
        def embed(self, batch):
            return batch

    with pytest.raises(TypeError, match="abstract method '?compare"):
        Half()
