# Copyright 2026 The SACL for Hugging Face authors. Licensed under the Apache License, Version 2.0.
"""Tensors of all processes in every process: the candidates of a contrastive loss are those of the global batch."""

from typing import Any

import torch
import torch.distributed as dist


def world_size() -> int:
    """Number of processes; 1 outside of distributed training."""
    return dist.get_world_size() if dist.is_available() and dist.is_initialized() else 1


class _GatherWithGradient(torch.autograd.Function):
    """All-gather whose backward sums what every process derived for this process's rows."""

    @staticmethod
    def forward(context: Any, tensor: torch.Tensor) -> torch.Tensor:
        context.rows = len(tensor)
        gathered = [torch.empty_like(tensor) for _ in range(dist.get_world_size())]
        dist.all_gather(gathered, tensor.contiguous())
        return torch.cat(gathered)

    @staticmethod
    def backward(context: Any, gradient: torch.Tensor) -> torch.Tensor:
        gradient = gradient.contiguous()
        dist.all_reduce(gradient)
        start = dist.get_rank() * context.rows
        return gradient[start : start + context.rows]


def gather(tensor: torch.Tensor) -> torch.Tensor:
    r"""
    The rows of all processes, in the order of their ranks; differentiable. With one process, the tensor itself.

    The gradient of each process's loss reaches the rows wherever they were computed, so that the mean of gradients
    over processes, which data-parallel training takes, is the gradient of the loss over the global batch.

    Args:
        tensor (`torch.Tensor` of shape `(batch_size, ...)`): as many rows in every process.

    Returns:
        `torch.Tensor` of shape `(world_size * batch_size, ...)`.
    """
    if world_size() == 1:
        return tensor
    return _GatherWithGradient.apply(tensor)
