"""Supervised training as an objective, so that it uses the loop, strategies and checkpoints of pretraining."""

import math
from typing import final

import torch
from torch import Tensor
from torch.nn.functional import binary_cross_entropy_with_logits, cross_entropy

from rspretrain import world
from rspretrain.batch import Batch
from rspretrain.finetuning.targets import Targets
from rspretrain.nn.backbones import Backbone
from rspretrain.nn.classifiers import Classifier
from rspretrain.objectives.base import CHANCE_RATIO, Losses, StaticObjective
from rspretrain.transforms.inputs import NetworkInput
from rspretrain.transforms.train_views import TrainViews


@final
class Supervised(StaticObjective):
    """Trains a classifier on labelled views.

    Multi-label: binary cross-entropy, the mean over B x K. Single-label: cross-entropy, the mean over the images that
    have a label. The chance level is the loss of constant probabilities, 1/2 per class or 1/K.
    """

    def __init__(self, classifier: Classifier, views: TrainViews, targets: Targets) -> None:
        super().__init__()
        self.classifier, self.views, self.targets = classifier, views, targets
        self.groups = tuple(dict.fromkeys((*views.groups, *targets.groups)))
        self.couples_samples = targets.may_be_missing  # the loss depends on the number of labelled samples
        self._name = "loss/bce" if targets.multi else "loss/ce"
        self._chance = math.log(2.0) if targets.multi else math.log(classifier.num_classes)
        self.metric_names = (self._name, CHANCE_RATIO)

    def forward(self, batch: Batch) -> Losses:
        """See Objective."""
        logits = self.classifier(self.views(batch)).float()
        hot = self.targets.of(batch, self.views).to(logits.device)
        with torch.autocast(logits.device.type, enabled=False):
            loss = self._loss(logits, hot)
        return Losses(loss, {self._name: loss.detach(), CHANCE_RATIO: loss.detach() / self._chance})

    def _loss(self, logits: Tensor, hot: Tensor) -> Tensor:
        """Loss of logits [B K] and labels [B K]; 0 in the single-label case if no image of any rank has a label."""
        if self.targets.multi:
            return binary_cross_entropy_with_logits(logits, hot.float())
        if not self.targets.may_be_missing:
            return cross_entropy(logits, hot.long().argmax(dim=1))
        has = hot.any(dim=1)
        each = cross_entropy(logits, hot.long().argmax(dim=1), reduction="none")
        # Divide by the mean count over ranks: then the mean loss over ranks equals the loss of a single process.
        return (each * has).sum() / world.mean_over_ranks(has.sum(dtype=each.dtype)).clamp(min=1 / world.size())

    def backbones(self) -> dict[str, Backbone]:
        """None: the evaluator exports the whole classifier."""
        return {}

    def inputs(self) -> dict[str, NetworkInput]:
        """None, as there are no backbones."""
        return {}
