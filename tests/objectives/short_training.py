"""Thirty training steps on small images, enough to show that an objective learns and does not collapse."""

from collections.abc import Callable, Iterator

import numpy as np
import torch
import torch.nn.functional as F

from rspretrain.batch import Batch
from rspretrain.nn.ema import ema_update_, paired_parameters
from rspretrain.objectives.base import Losses, Objective, Progress
from rspretrain.rng import sample_seeds


def train_30_steps(objective: Objective, batch_at: Callable[[int], Batch], rate: float) -> Iterator[Losses]:
    """Yield the losses of 30 steps of AdamW with EMA updates, in schedules of 300 steps and 10 steps per epoch."""
    optimizer = torch.optim.AdamW([p for p in objective.parameters() if p.requires_grad], lr=rate)
    pairs = paired_parameters(objective.teachers())
    for step in range(30):
        objective.prepare(Progress(step, 300, 10))
        result = objective(batch_at(step))
        optimizer.zero_grad()
        result.loss.backward()
        optimizer.step()
        ema_update_([t.detach() for _, t in pairs], [s.detach() for s, _ in pairs], objective.momentum or 0)
        yield result


def scene_batch(step: int) -> Batch:
    """32 smooth images of different colours, the same at every step, with new views."""
    positions = np.arange(32)
    corners = [np.random.default_rng(k).integers(0, 256, (3, 2, 2)).astype(np.float32) for k in positions]
    images = F.interpolate(torch.from_numpy(np.stack(corners)), (32, 32), mode="bilinear").to(torch.uint8)
    return Batch({"rgb": images}, {}, torch.from_numpy(sample_seeds(0, step, positions)), positions)
