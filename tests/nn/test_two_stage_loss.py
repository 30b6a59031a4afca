import pytest
import torch

from rspretrain.nn.two_stage_loss import TwoStageLoss
from rspretrain.objectives.dual_simclr import DualSimclr
from rspretrain.objectives.simclr import Simclr


def test_contrastive_objectives_have_two_stages():
    assert issubclass(Simclr, TwoStageLoss)
    assert issubclass(DualSimclr, TwoStageLoss)


def test_both_stages_are_required():
    class Half(torch.nn.Module, TwoStageLoss):
        def embed(self, batch):
            return batch

    with pytest.raises(TypeError, match="abstract method '?compute_loss"):
        Half()
