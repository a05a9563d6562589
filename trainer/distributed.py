# Copyright 2026 The SACL for Hugging Face authors. Licensed under the Apache License, Version 2.0.
"""Tensors of all processes in every process: the candidates of a contrastive loss are those of the global batch."""

import functools
from typing import Any

import torch
import torch.distributed as dist


def world_size() -> int:
    """Number of processes; 1 outside of distributed training."""
    return dist.get_world_size() if dist.is_available() and dist.is_initialized() else 1


def rank() -> int:
    """The number of this process among all; 0 outside of distributed training."""
    return dist.get_rank() if dist.is_available() and dist.is_initialized() else 0


def _processors() -> dist.ProcessGroup:
    """All processes, talking from processor to processor, whatever their accelerators are doing."""
    world = dist.group.WORLD
    assert world is not None
    return world if dist.get_backend(world) == "gloo" else _beside(world)


@functools.lru_cache(maxsize=1)
def _beside(world: dist.ProcessGroup) -> dist.ProcessGroup:
    group = dist.new_group(backend="gloo")
    assert isinstance(group, dist.ProcessGroup)
    return group


def row_counts(tensor: torch.Tensor) -> list[int]:
    """
    How many rows the tensor has in each process: batches may differ, at the end of an epoch or after a bad pair. No
    accelerator is waited for.
    """
    if world_size() == 1:
        return [len(tensor)]
    counts = [torch.empty(1, dtype=torch.int64) for _ in range(world_size())]
    dist.all_gather(counts, torch.tensor([len(tensor)]), group=_processors())
    return torch.cat(counts).tolist()


class _GatherWithGradient(torch.autograd.Function):
    """All-gather whose backward sums what every process derived for this process's rows."""

    @staticmethod
    def forward(context: Any, tensor: torch.Tensor, counts: list[int]) -> torch.Tensor:
        context.counts = counts
        # Collectives want equal shapes: shorter parts are padded, and the padding is cut off again.
        longest = max(counts)
        padded = tensor.new_zeros(longest, *tensor.shape[1:])
        padded[: len(tensor)] = tensor
        gathered = [torch.empty_like(padded) for _ in counts]
        dist.all_gather(gathered, padded)
        return torch.cat([part[:count] for part, count in zip(gathered, counts, strict=True)])

    @staticmethod
    def backward(context: Any, gradient: torch.Tensor) -> tuple[torch.Tensor, None]:
        gradient = gradient.contiguous()
        dist.all_reduce(gradient)
        return gradient.split(context.counts)[dist.get_rank()], None


def gather(tensor: torch.Tensor, counts: list[int] | None = None) -> torch.Tensor:
    r"""
    The rows of all processes, in the order of their ranks; differentiable. With one process, the tensor itself.

    The gradient of each process's loss reaches the rows wherever they were computed, so that the mean of gradients
    over processes, which data-parallel training takes, is the gradient of the mean loss over processes.

    Args:
        tensor (`torch.Tensor` of shape `(batch_size, ...)`):
            The batch size may differ between processes, the other sizes may not.
        counts (`list[int]`, *optional*):
            What [`row_counts`] returned for a tensor of this batch; saves asking the other processes again.

    Returns:
        `torch.Tensor` of shape `(global_batch_size, ...)`.
    """
    if world_size() == 1:
        return tensor
    return _GatherWithGradient.apply(tensor, row_counts(tensor) if counts is None else counts)
