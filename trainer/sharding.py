# Copyright 2026 The SACL for Hugging Face authors. Licensed under the Apache License, Version 2.0.
"""Fully sharded training (FSDP2): what it asks of a dual encoder, and of the state that lives beside it.

Each process holds a slice of every parameter and gathers the whole of a layer when the layer's turn comes. Three
things of contrastive training do not fit into that: the temperature is a scalar, which cannot be sliced; it, and the
feature methods of evaluation, are used outside of the model's forward, where parameters are slices; and the momentum
teacher is a second model.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import nn
from torch.distributed.fsdp import FSDPModule
from torch.distributed.tensor import DTensor, Partial, distribute_tensor


def make_sliceable(model: nn.Module) -> set[str]:
    """Gives scalar parameters one dimension of size 1, in place; returns their names, for [`with_scalars`]."""
    scalars = {name: parameter for name, parameter in model.named_parameters() if parameter.dim() == 0}
    for parameter in scalars.values():
        parameter.data = parameter.data.view(1)
    return set(scalars)


def with_scalars(state: dict[str, torch.Tensor], names: set[str]) -> dict[str, torch.Tensor]:
    """The weights as the model's class declares them: with the scalars that [`make_sliceable`] took away."""
    return {name: tensor.view(()) if name in names else tensor for name, tensor in state.items()}


def shard_beside(accelerator: Any, model: nn.Module) -> None:
    """Slices a second model as `accelerate` slices the first, in place; nothing happens to one that is sliced."""
    from accelerate.utils.fsdp_utils import fsdp2_prepare_model

    fsdp2_prepare_model(accelerator, model)


def whole(tensor: torch.Tensor) -> torch.Tensor:
    """
    The whole of a parameter that may be sliced, in every process, which all have to ask. Differentiable: gradients of
    the processes are averaged, as data-parallel training averages them.
    """
    if not isinstance(tensor, DTensor):
        return tensor
    return tensor.full_tensor(grad_placements=[Partial("avg")] * tensor.device_mesh.ndim)


def copy_from_whole(tensor: torch.Tensor, values: torch.Tensor) -> None:
    """Overwrites a parameter that may be sliced with its part of what every process has whole."""
    if isinstance(tensor, DTensor):
        values = distribute_tensor(values.to(tensor.device), tensor.device_mesh, tensor.placements)
    tensor.copy_(values)


def slice_again(model: nn.Module) -> None:
    """Leaves every process its slice alone. A forward that no backward follows keeps some parameters whole."""
    for module in model.modules():
        if isinstance(module, FSDPModule):
            module.reshard()


@contextmanager
def gathered(model: nn.Module) -> Iterator[None]:
    """
    Inside, parameters that belong to no layer, such as projections, are whole, so that methods other than `forward`
    can be called. Layers gather themselves, as in the forward.
    """
    if isinstance(model, FSDPModule):
        model.unshard()
    try:
        yield
    finally:
        slice_again(model)
