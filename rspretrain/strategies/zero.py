"""Access to DeepSpeed's parameters and optimizer state as whole tensors by name, for every ZeRO stage.

Stage 0: everything is whole. Stages 1 and 2: parameters are whole; their float32 masters and the optimizer state are
this rank's part of one flat vector per parameter group. Stage 3: parameters are also flattened and split into equal
partitions.
"""

from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping
from typing import Any, final

import torch
from torch import Tensor, nn

from rspretrain import world
from rspretrain.strategies.optim import (
    STATE_TENSORS,
    NamedParameters,
    OptimSettings,
    load_named_state_,
    named_state,
    update_count,
)


class Layout(ABC):
    """The layout of a ZeRO stage. `zero` is the engine's optimizer, `named` its parameters."""

    is_sharded: bool  # see Strategy

    def __init__(self, zero: Any, optim: OptimSettings, named: NamedParameters) -> None:
        self.zero, self.optim, self.named = zero, optim, named

    @abstractmethod
    def whole(self, tensor: Tensor) -> Tensor:
        """See Strategy._whole."""

    @abstractmethod
    def fill_(self, target: Tensor, whole: Tensor) -> None:
        """See Strategy._fill_."""

    @abstractmethod
    def local(self, parameter: nn.Parameter) -> Tensor:
        """See Strategy._local."""

    @abstractmethod
    def state(self) -> Iterator[tuple[str, Tensor]]:
        """The optimizer's tensors, after at least one update."""

    @abstractmethod
    def load_state_(self, tensors: Mapping[str, Tensor], updates: int) -> None:
        """See Strategy._load_optimizer_. Parameters must be loaded first."""

    def _empty_state_(self, flats: list[Tensor], updates: int) -> None:
        """Create the optimizer state of these flat partitions after `updates` updates, with zero tensors."""
        for flat in flats:
            state = update_count(self.optim, updates, flat.device)
            state |= {key: torch.zeros_like(flat) for key in STATE_TENSORS[self.optim.name]}
            self.zero.optimizer.state[flat] = state

    def _state_names(self) -> Iterator[tuple[str, str, nn.Parameter]]:
        for key in STATE_TENSORS[self.optim.name]:
            for name, parameter in self.named:
                yield key, f"{key}/{name}", parameter


class _WholeParameters(Layout):
    is_sharded = False

    def local(self, parameter: nn.Parameter) -> Tensor:
        return parameter.detach()  # already updated from the masters when teachers are updated

    def whole(self, tensor: Tensor) -> Tensor:
        return tensor.detach()

    def fill_(self, target: Tensor, whole: Tensor) -> None:
        target.copy_(whole)  # in place: they are views of flat buffers


@final
class Stage0(_WholeParameters):
    """`zero` is the torch optimizer itself."""

    def state(self) -> Iterator[tuple[str, Tensor]]:
        """See Layout."""
        yield from named_state(self.zero, self.optim, self.named)

    def load_state_(self, tensors: Mapping[str, Tensor], updates: int) -> None:
        """See Layout."""
        load_named_state_(self.zero, self.optim, self.named, tensors, updates)


@final
class Stage12(_WholeParameters):
    """Stages 1 and 2."""

    def state(self) -> Iterator[tuple[str, Tensor]]:
        """See Layout."""
        from deepspeed.utils import safe_get_full_optimizer_state

        # DeepSpeed 0.19 links parameters to their states after the first group's step, before the states of the other
        # groups exist ("exp_avg not found in optimizer state fragment"). Link them again.
        self.zero._hp_optimizer_states_linked = False
        self.zero._lazy_init_hp_params_optimizer_state()
        for key, name, parameter in self._state_names():
            yield name, safe_get_full_optimizer_state(parameter, key)

    def load_state_(self, tensors: Mapping[str, Tensor], updates: int) -> None:
        """See Layout."""
        from deepspeed.utils import safe_set_full_fp32_param

        for _, parameter in self.named:  # the masters are copies
            safe_set_full_fp32_param(parameter, parameter.detach())
        flats = self.zero.single_partition_of_fp32_groups
        self.zero.optimizer.state.clear()
        if not tensors:
            return
        self._empty_state_(flats, updates)
        for key, name, parameter in self._state_names():
            mapping = parameter._hp_mapping  # type: ignore[attr-defined]
            if mapping is not None:  # None: in another rank's partition
                target, source = mapping.hp_fragment_address, mapping.lp_fragment_address
                piece = tensors[name].flatten().narrow(0, source.start, source.numel)
                state = self.zero.optimizer.state[flats[mapping.param_group_index]][key]
                state.narrow(0, target.start, target.numel).copy_(piece)


@final
class Stage3(Layout):
    """A parameter's `ds_tensor` is this rank's partition; `data` is empty unless a running module needs it."""

    is_sharded = True

    def __init__(self, zero: Any, optim: OptimSettings, named: NamedParameters) -> None:
        super().__init__(zero, optim, named)
        # Small parameters stay gathered between steps, except those of teachers: their partitions are updated directly,
        # which would leave the gathered copy outdated.
        for parameter in zero.persistent_parameters:
            parameter.ds_persist = parameter.requires_grad
        zero.persistent_parameters[:] = [one for one in zero.persistent_parameters if one.ds_persist]

    def whole(self, tensor: Tensor) -> Tensor:
        """See Layout."""
        return _gather(tensor, _partition(tensor)) if isinstance(tensor, nn.Parameter) else tensor.detach()

    def fill_(self, target: Tensor, whole: Tensor) -> None:
        """See Layout."""
        from deepspeed.utils import safe_set_local_fp32_param

        if not isinstance(target, nn.Parameter):
            target.copy_(whole)
            return
        piece = _piece(target, whole)
        _partition(target).copy_(piece)
        safe_set_local_fp32_param(target, piece)  # the float32 master; no effect for a frozen parameter

    def local(self, parameter: Any) -> Tensor:
        """See Layout. Partitions have equal lengths; those of the last ranks may end in padding, which is removed."""
        piece = _partition(parameter)
        start = world.rank() * piece.numel()
        return piece[: max(0, min(piece.numel(), parameter.ds_numel - start))]

    def state(self) -> Iterator[tuple[str, Tensor]]:
        """See Layout."""
        from deepspeed.utils import safe_get_local_optimizer_state

        for key, name, parameter in self._state_names():
            yield name, _gather(parameter, safe_get_local_optimizer_state(parameter, key))

    def load_state_(self, tensors: Mapping[str, Tensor], updates: int) -> None:
        """See Layout."""
        from deepspeed.utils import safe_set_local_optimizer_state

        self.zero.empty_partition_cache()  # gathered parameters are outdated
        self.zero.optimizer.state.clear()
        if not tensors:
            return
        self._empty_state_(self.zero.fp32_partitioned_groups_flat, updates)
        for key, name, parameter in self._state_names():
            safe_set_local_optimizer_state(parameter, _piece(parameter, tensors[name]), key)


def _partition(parameter: Any) -> Tensor:
    piece: Tensor = parameter.ds_tensor
    return piece


def _gather(parameter: Any, piece: Tensor) -> Tensor:
    """The partitions of all ranks as one tensor with the parameter's shape. Collective."""
    return world.gather_stack(piece).flatten()[: parameter.ds_numel].view(parameter.ds_shape)


def _piece(parameter: Any, whole: Tensor) -> Tensor:
    """This rank's partition of a whole tensor, padded with zeros."""
    piece = torch.zeros_like(_partition(parameter))
    start = world.rank() * piece.numel()
    own = whole.flatten()[start : start + piece.numel()]
    piece[: own.numel()].copy_(own)
    return piece


LAYOUTS: dict[int, type[Layout]] = {0: Stage0, 1: Stage12, 2: Stage12, 3: Stage3}
