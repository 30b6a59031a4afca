"""The same SimCLR and BYOL steps with lightly's heads, losses, momentum update and transforms, as in its documentation.

Both sides have the same initial weights of the same timm ViT, optimizer, batch and threads. `ready views` compares
steps on normalised tensors. `from images` includes views: ours are made from the uint8 batch, lightly's transform each
image with PIL. lightly's documentation does this in DataLoader workers; here it runs in the process, so that both use
one core.
"""

import copy
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from PIL import Image
from torch import Tensor, nn
from training_bench import CASES, Run, Setting, make_job

from rspretrain.batch import Batch
from rspretrain.nn.backbones import timm  # noqa: F401  (first: it makes torchvision importable for lightly)
from rspretrain.objectives.base import Objective
from rspretrain.strategies.optim import build_optimizer

VIEWS = ("ready views", "from images")


@dataclass
class Comparison:
    """Two equivalent training steps, each with forward, backward and update; they return the loss."""

    ours: Callable[[], float]
    lightly: Callable[[], float]
    to_ours: Callable[[float], float]  # converts lightly's loss to our scale


class Simclr(nn.Module):
    """As docs.lightly.ai/self-supervised-learning/examples/simclr.html, on our weights."""

    def __init__(self, ours: Objective, px: int) -> None:
        super().__init__()
        from lightly.loss import NTXentLoss
        from lightly.models.modules import SimCLRProjectionHead
        from lightly.transforms import SimCLRTransform

        width = ours.encoder.num_features
        self.backbone = copy.deepcopy(ours.encoder.model)
        self.projection_head = SimCLRProjectionHead(width, width, 128, batch_norm=False)
        copy_weights_(self.projection_head, ours.head)
        self.criterion, self.transform = NTXentLoss(temperature=ours.settings.temperature), SimCLRTransform(px)

    def forward(self, x0: Tensor, x1: Tensor) -> Tensor:
        z0, z1 = (self.projection_head(self.backbone(x).flatten(start_dim=1)) for x in (x0, x1))
        return self.criterion(z0, z1)

    def before(self) -> None:
        """SimCLR has no momentum update."""


class Byol(nn.Module):
    """As docs.lightly.ai/self-supervised-learning/examples/byol.html, on our weights."""

    def __init__(self, ours: Objective, px: int) -> None:
        super().__init__()
        from lightly.loss import NegativeCosineSimilarity
        from lightly.models.modules import BYOLPredictionHead, BYOLProjectionHead
        from lightly.models.utils import deactivate_requires_grad
        from lightly.transforms.byol_transform import BYOLTransform, BYOLView1Transform, BYOLView2Transform

        student, settings = ours.student["rgb"], ours.settings
        self.backbone = copy.deepcopy(student.encoder.model)
        self.projection_head = BYOLProjectionHead(student.encoder.num_features, settings.hidden, settings.projection)
        self.prediction_head = BYOLPredictionHead(settings.projection, settings.hidden, settings.projection)
        copy_weights_(self.projection_head, student.projector)
        copy_weights_(self.prediction_head, ours.predictor["rgb"])
        self.backbone_momentum = copy.deepcopy(self.backbone)
        self.projection_head_momentum = copy.deepcopy(self.projection_head)
        deactivate_requires_grad(self.backbone_momentum)
        deactivate_requires_grad(self.projection_head_momentum)
        self.criterion, self.momentum = NegativeCosineSimilarity(), settings.momentum
        views = BYOLView1Transform(input_size=px), BYOLView2Transform(input_size=px)
        self.transform = BYOLTransform(view_1_transform=views[0], view_2_transform=views[1])

    def student(self, x: Tensor) -> Tensor:
        return self.prediction_head(self.projection_head(self.backbone(x).flatten(start_dim=1)))

    def teacher(self, x: Tensor) -> Tensor:
        return self.projection_head_momentum(self.backbone_momentum(x).flatten(start_dim=1)).detach()

    def before(self) -> None:
        from lightly.models.utils import update_momentum

        update_momentum(self.backbone, self.backbone_momentum, m=self.momentum)
        update_momentum(self.projection_head, self.projection_head_momentum, m=self.momentum)

    def forward(self, x0: Tensor, x1: Tensor) -> Tensor:
        p0, z0, p1, z1 = self.student(x0), self.teacher(x0), self.student(x1), self.teacher(x1)
        return 0.5 * (self.criterion(p0, z1) + self.criterion(p1, z0))


def copy_weights_(theirs: nn.Module, ours: nn.Module) -> None:
    """Copy our head's weights into lightly's. The bias of its last layer in BYOL, which ours lacks, becomes 0."""
    kinds = (nn.Linear, nn.modules.batchnorm._BatchNorm)
    pairs = zip(*([part for part in head.modules() if isinstance(part, kinds)] for head in (theirs, ours)), strict=True)
    for their, our in pairs:
        state = our.state_dict()
        if "bias" in their.state_dict() and "bias" not in state:
            state["bias"] = torch.zeros_like(their.bias)
        their.load_state_dict(state)


COMPETITORS: dict[str, tuple[type[nn.Module], dict[str, object], Callable[[float], float]]] = {
    # Without norms, because lightly's head ends with one: so both have the same network.
    "simclr": (Simclr, {"norm": False}, lambda loss: loss),
    "byol": (Byol, {"momentum": 0.996, "momentum_end": 0.996}, lambda loss: 4.0 + 4.0 * loss),
}


def make_comparison(method: str, setting: Setting, shards: Path, folder: Path, views: str) -> tuple[Comparison, Run]:
    """Both sides before their first step, and our run, which the caller closes."""
    competitor_of, options, to_ours = COMPETITORS[method]
    case = CASES[method]
    case = replace(case, objective={**case.objective, **options})
    job = make_job(case, setting, shards, folder, clip_norm=None)
    competitor = competitor_of(job.objective, setting.px).train()
    optimizer = build_optimizer(job.settings.optim, competitor)
    run = Run(job, setting)
    batch = next(run.batches)
    maker = getattr(job.objective, "sensor_views", None) or job.objective.views
    ready = maker(batch)
    pictures = [Image.fromarray(image.permute(1, 2, 0).numpy()) for image in batch.images["rgb"]]
    if views == VIEWS[0]:
        maker.forward = lambda batch: ready  # type: ignore[method-assign]

    def lightly() -> float:
        if views == VIEWS[0]:
            x0, x1 = ready["rgb"]
        else:
            pairs = [competitor.transform(picture) for picture in pictures]
            x0, x1 = (torch.stack(side) for side in zip(*pairs, strict=True))
        competitor.before()
        loss = competitor(x0, x1)
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        return loss.item()

    return Comparison(lambda: step_of(run, batch), lightly, to_ours), run


def step_of(run: Run, batch: Batch) -> float:
    return float(run.take(batch).loss)


def time_both(comparison: Comparison, rounds: int, now: Callable[[], float]) -> dict[str, float]:
    """Seconds of both sides in alternating rounds, and the losses of one warm-up round before them."""
    first = comparison.ours(), comparison.to_ours(comparison.lightly())
    seconds: dict[str, list[float]] = {"ours": [], "lightly": []}
    for number in range(rounds):
        sides = [("ours", comparison.ours), ("lightly", comparison.lightly)]
        for name, step in sides if number % 2 else sides[::-1]:
            started = now()
            step()
            seconds[name].append(now() - started)
    return {**seconds, "loss_ours": first[0], "loss_lightly": first[1]}
