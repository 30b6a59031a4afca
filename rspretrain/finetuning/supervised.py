"""Learning from labels as an objective: the loop, the strategies and the checkpoints of pretraining serve it, too."""

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
    """A classifier, what it sees, and what every sample is.

    Several labels an image: binary cross-entropy of every class, the mean over B x K. One: cross-entropy, the mean over
    the images that have it. Chance is to know nothing: a probability of 1/2 for every class, or 1/K.
    """

    def __init__(self, classifier: Classifier, views: TrainViews, targets: Targets) -> None:
        super().__init__()
        self.classifier, self.views, self.targets = classifier, views, targets
        self.groups = tuple(dict.fromkeys((*views.groups, *targets.groups)))
        self.couples_samples = targets.may_lack  # by how many of them count
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
        """Of logits [B K] and labels [B K]; 0 where an image has one label and no image of any rank has it."""
        if self.targets.multi:
            return binary_cross_entropy_with_logits(logits, hot.float())
        if not self.targets.may_lack:
            return cross_entropy(logits, hot.long().argmax(dim=1))
        has = hot.any(dim=1)
        each = cross_entropy(logits, hot.long().argmax(dim=1), reduction="none")
        # By the ranks' mean count, not the own one: then the mean of the ranks' losses is that of one process.
        return (each * has).sum() / world.mean_over_ranks(has.sum(dtype=each.dtype)).clamp(min=1 / world.size())

    def backbones(self) -> dict[str, Backbone]:
        """None: a classifier is exported as a whole."""
        return {}

    def inputs(self) -> dict[str, NetworkInput]:
        """None, as there are no backbones."""
        return {}
