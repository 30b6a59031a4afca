"""Learning from labels as an objective: the loop, the strategies and the checkpoints of pretraining serve it, too."""

import math
from typing import final

import torch
from torch import Tensor
from torch.nn.functional import binary_cross_entropy_with_logits, cross_entropy

from rspretrain.batch import Batch
from rspretrain.downstream.train_views import TrainViews
from rspretrain.nn.backbones import Backbone
from rspretrain.nn.classifiers import Classifier
from rspretrain.objectives.base import CHANCE_RATIO, Losses, Stationary
from rspretrain.objectives.views import NetworkInput


@final
class Supervised(Stationary):
    """A classifier, what it sees, and what every sample is.

    Several labels an image: binary cross-entropy of every class, the mean over B x K. One: cross-entropy. Chance is to
    know nothing: a probability of 1/2 for every class, or 1/K.
    """

    couples_samples = False

    def __init__(self, classifier: Classifier, views: TrainViews, targets: Tensor, multi: bool) -> None:
        """`targets` [rows of the shard set, K] bool; rows that no batch has may be empty."""
        super().__init__()
        self.classifier, self.views, self.multi = classifier, views, multi
        self.groups = views.groups
        # No buffer: the table belongs to the shard set, neither to the weights nor to a device.
        self._targets = targets.float() if multi else targets.long().argmax(dim=1)
        self._name = "loss/bce" if multi else "loss/ce"
        self._chance = math.log(2.0) if multi else math.log(classifier.num_classes)
        self.metric_names = (self._name, CHANCE_RATIO)

    def forward(self, batch: Batch) -> Losses:
        """See Objective."""
        logits = self.classifier(self.views(batch)).float()
        targets = self._targets[torch.from_numpy(batch.rows)].to(logits.device)
        with torch.autocast(logits.device.type, enabled=False):
            loss = (binary_cross_entropy_with_logits if self.multi else cross_entropy)(logits, targets)
        return Losses(loss, {self._name: loss.detach(), CHANCE_RATIO: loss.detach() / self._chance})

    def backbones(self) -> dict[str, Backbone]:
        """None: a classifier is exported as a whole."""
        return {}

    def inputs(self) -> dict[str, NetworkInput]:
        """None, as there are no backbones."""
        return {}
