"""Two small objectives for benchmarks/collapse.py, with a center and with a mask to take away."""

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from rspretrain.batch import Batch
from rspretrain.engine.job import Job
from rspretrain.nn.backbones import Backbone, create_backbone
from rspretrain.nn.ema import TeacherPair, make_teacher
from rspretrain.objectives.base import CHANCE_RATIO, Losses, Objective, Progress, Stationary
from rspretrain.objectives.contrastive import VIEW_HEALTH, view_health
from rspretrain.objectives.simclr import Simclr
from rspretrain.objectives.views import NetworkInput
from rspretrain.observe.health import center_entropy, effective_rank, feature_std, target_entropy, target_information
from rspretrain.world import mean_over_ranks

PROTOTYPES = 64


def parts_of(job: Job) -> Simclr:
    """The job's own objective: its views and its fresh backbone are used."""
    assert isinstance(job.objective, Simclr)
    return job.objective


class TinyDino(Objective):
    """Caron et al. 2021 with two views: the student's softmax follows the teacher's centered and sharpened one."""

    couples_samples = False
    metric_names = (
        "loss/dino", CHANCE_RATIO, *VIEW_HEALTH, "health/center_entropy", "health/target_entropy",
        "health/target_information",
    )  # fmt: skip

    def __init__(self, job: Job, center: float = 0.1) -> None:
        """`center`: how fast the center follows; 0 leaves it where it is, at zero."""
        super().__init__()
        self.views, self.groups, self.rate = parts_of(job).sensor_views, parts_of(job).groups, center
        encoder = create_backbone(job.settings.backbone, *_contract(parts_of(job)))
        width = encoder.num_features
        head = [nn.Linear(width, 128), nn.GELU(), nn.Linear(128, 64), _Unit()]
        self.student = nn.ModuleDict(
            {"encoder": encoder, "head": nn.Sequential(*head), "last": nn.Linear(64, 64, False)}
        )
        self.teacher = make_teacher(self.student)
        self.register_buffer("center", torch.zeros(PROTOTYPES))

    def prepare(self, progress: Progress) -> None:
        self.momentum = 0.9

    def teachers(self) -> Sequence[TeacherPair]:
        return (TeacherPair(self.student, self.teacher),)

    def forward(self, batch: Batch) -> Losses:
        (views,) = self.views(batch).values()
        with torch.no_grad():
            embedded = [_run(self.teacher, view) for view in views]
            logits = [self.teacher["last"](z) for z in embedded]
            targets = [F.softmax((one - self.center) / 0.04, dim=1) for one in logits]
        guesses = [F.log_softmax(self.student["last"](_run(self.student, view)) / 0.1, dim=1) for view in views]
        loss = -sum((t * g).sum(dim=1).mean() for t, g in zip(targets, guesses[::-1], strict=True)) / 2
        self.center = self.center.lerp(mean_over_ranks(torch.cat(logits).mean(dim=0)), self.rate)
        metrics = {
            "loss/dino": loss.detach(),
            CHANCE_RATIO: loss.detach() / torch.tensor(float(PROTOTYPES)).log(),
            "health/center_entropy": center_entropy(self.center, 0.04),
            "health/target_entropy": target_entropy(torch.cat(targets)),
            "health/target_information": target_information(torch.cat(targets)),
        }
        return Losses(loss, metrics | view_health(*embedded))

    def inputs(self) -> dict[str, NetworkInput]:
        return self.views.inputs()

    def backbones(self) -> dict[str, Backbone]:
        return {self.student["encoder"].sensor: self.student["encoder"]}


class TinyMasked(Stationary):
    """Pixels of hidden 8 x 8 patches from the others: a linear decoder of the pooled feature."""

    couples_samples = False
    metric_names = ("loss/masked", CHANCE_RATIO, "health/feature_std", "health/effective_rank")

    def __init__(self, job: Job, ratio: float = 0.6) -> None:
        """`ratio`: the share of patches that is hidden."""
        super().__init__()
        self.views, self.groups, self.ratio = parts_of(job).sensor_views, parts_of(job).groups, ratio
        sensor, bands, self.px = _contract(parts_of(job))
        self.encoder = create_backbone(job.settings.backbone, sensor, bands, self.px)
        self.decoder = nn.Linear(self.encoder.num_features, len(bands) * self.px**2)

    def forward(self, batch: Batch) -> Losses:
        x = self.views(batch)[self.encoder.sensor][0]
        side = self.px // 8
        order = torch.rand(len(x), side * side, device=x.device).argsort(dim=1)
        hidden = (order < round(self.ratio * side * side)).view(-1, 1, side, side).float()
        hidden = F.interpolate(hidden, scale_factor=8.0)
        features = self.encoder(x * (1 - hidden))
        error = (self.decoder(features).view_as(x) - x).square() * hidden
        loss = error.sum() / (hidden.sum() * x.shape[1])
        metrics = {
            "loss/masked": loss.detach(),
            CHANCE_RATIO: loss.detach() / x.var(),
            "health/feature_std": feature_std(features),
            "health/effective_rank": effective_rank(features),
        }
        return Losses(loss, metrics)

    def inputs(self) -> dict[str, NetworkInput]:
        return self.views.inputs()

    def backbones(self) -> dict[str, Backbone]:
        return {self.encoder.sensor: self.encoder}


class _Unit(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return F.normalize(x, dim=1)


def _run(network: nn.ModuleDict, view: Tensor) -> Tensor:
    z: Tensor = network["head"](network["encoder"](view))
    return z


def _contract(objective: Simclr) -> tuple[str, tuple[str, ...], int]:
    return objective.encoder.sensor, objective.encoder.bands, objective.encoder.px
