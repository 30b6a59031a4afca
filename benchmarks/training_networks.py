"""The networks of an objective alone: replays all network calls of a step on tensors of the same shapes.

A step is recorded as calls of its students, teachers, heads, predictors and decoders. The replay runs each forward on
prepared tensors and, where the step has a backward, the backward from random gradients. The rest of a step is overhead.
"""

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager
from dataclasses import dataclass
from typing import Any
from unittest.mock import patch

import torch
from torch import Tensor, nn

from rspretrain.batch import Batch
from rspretrain.nn.heads import PrototypeHead
from rspretrain.objectives.base import Objective
from rspretrain.objectives.self_distillation import Center
from rspretrain.strategies.blocks import blocks_of
from rspretrain.transforms.shared_window import SharedWindow
from rspretrain.transforms.views import SensorViews

Autocast = Callable[[], AbstractContextManager[Any]]  # the context of network calls


@dataclass
class Call:
    function: Callable[..., Any]
    args: tuple[Any, ...]
    kwargs: dict[str, Any]
    trains: bool


def ready(value: Any) -> Any:
    """A detached copy of a tensor, which requires a gradient if the original does."""
    return value.detach().clone().requires_grad_(value.requires_grad) if isinstance(value, Tensor) else value


def tensors(value: Any) -> Iterator[Tensor]:
    if isinstance(value, Tensor):
        yield value
    elif isinstance(value, (tuple, list)):
        for part in value:
            yield from tensors(part)


def networks_of(objective: Objective) -> list[nn.Module]:
    """All modules except views, centers, and the parts of blocks, which may be compiled."""
    others = [part for part in objective.modules() if isinstance(part, (SensorViews, SharedWindow, Center))]
    skipped = {inner for part in (*others, *blocks_of(objective)) for inner in part.modules()}
    return [part for part in objective.modules() if part is not objective and part not in skipped]


class Networks:
    """The recorded network calls of a step of `objective` (as prepared by a strategy) on `batch`."""

    def __init__(self, objective: Objective, batch: Batch, autocast: Autocast) -> None:
        self.autocast, self.calls = autocast, list[Call]()
        self._is_inside = False
        with self._recorded(objective), torch.enable_grad(), autocast():
            objective(batch)
        self._leaves = [arg for call in self.calls for arg in tensors(call.args) if arg.requires_grad]
        self._parameters = list(objective.parameters())
        self._gradients = [torch.randn_like(output) for output in self._forward()]

    @contextmanager
    def _recorded(self, objective: Objective) -> Iterator[None]:
        with ExitStack() as stack:
            for part in networks_of(objective):
                names = ("forward", "directions", "outputs") if isinstance(part, PrototypeHead) else ("forward",)
                for name in names:
                    stack.enter_context(patch.object(part, name, self._recording(getattr(part, name))))
            yield

    def _recording(self, function: Callable[..., Any]) -> Callable[..., Any]:
        """Record the outermost of nested calls."""

        def record(*args: Any, **kwargs: Any) -> Any:
            if self._is_inside:
                return function(*args, **kwargs)
            copies = tuple(map(ready, args)), {name: ready(value) for name, value in kwargs.items()}
            self.calls.append(Call(function, *copies, torch.is_grad_enabled()))
            self._is_inside = True
            try:
                return function(*args, **kwargs)
            finally:
                self._is_inside = False

        return record

    def _forward(self) -> list[Tensor]:
        """The outputs with a gradient of all calls, in order."""
        outputs: list[Tensor] = []
        for call in self.calls:
            with torch.set_grad_enabled(call.trains), self.autocast():
                found = call.function(*call.args, **call.kwargs)
            outputs += [output for output in tensors(found) if output.requires_grad]
        return outputs

    def run(self) -> None:
        """Run forward and backward of all calls; gradients stay in `.grad` until `clear`."""
        torch.autograd.backward(self._forward(), self._gradients)

    def clear(self) -> None:
        for tensor in [*self._leaves, *self._parameters]:
            tensor.grad = None
