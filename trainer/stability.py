# Copyright 2026 The SACL for Hugging Face authors. Licensed under the Apache License, Version 2.0.
"""Losses that are not finite: noticed, named with their pairs, and answered with a stop or a skipped step."""

from typing import NamedTuple

import torch
import torch.distributed as dist
from transformers.utils import logging

from .distributed import world_size


logger = logging.get_logger(__name__)

# As many broken steps one after another are no longer the fault of single pairs.
MAX_SKIPPED_IN_A_ROW = 10


class _Step(NamedTuple):
    number: int
    losses: dict[str, torch.Tensor]
    pair_ids: torch.Tensor


class NonFiniteGuard:
    r"""
    Watches the losses of every batch.

    Reading a number from an accelerator makes the processor wait for it, in every step. So with `deferred` losses are
    kept there until somebody looks ([`~NonFiniteGuard.flush`]: before logging, saving and evaluating); a broken run
    then goes on for a few steps, but nothing of it is ever saved. To skip a step it has to be known to be broken
    before the optimiser moves, which is worth the wait.

    Args:
        policy (`str`):
            `"raise"` stops the training; `"skip"` leaves out the optimiser step of the broken batch and warns.
        deferred (`bool`):
            Whether `"raise"` may come some steps late.
    """

    def __init__(self, policy: str, deferred: bool):
        self.policy = policy
        self.deferred = deferred and policy == "raise"
        self._unread: list[_Step] = []
        self._broken_batches = 0
        self._skipped_in_a_row = 0

    def watch(self, losses: dict[str, torch.Tensor], pair_ids: torch.Tensor, step: int, training: bool = True) -> bool:
        """
        Takes in the losses of a batch.

        Returns:
            `bool`: whether the batch can be used. `False` with policy `"skip"` and a loss that is not finite.

        Raises:
            FloatingPointError: for a loss that is not finite, unless it is deferred or skipped.
        """
        seen = _Step(step, {name: value.detach() for name, value in losses.items()}, pair_ids)
        if training and self.deferred:
            self._unread.append(seen)
            return True
        if not _broken([seen]):
            return True
        if self.policy == "raise" or not training:
            raise FloatingPointError(f"{_description(seen)} Nothing was updated with this batch. {_ADVICE}")
        self._broken_batches += 1
        logger.warning(f"{_description(seen)} The step is skipped (`nan_policy='skip'`).")
        return False

    def flush(self) -> None:
        """
        Looks at the losses that have not been read.

        Raises:
            FloatingPointError: if one of them is not finite; the message names the first.
        """
        unread, self._unread = self._unread, []
        if broken := _broken(unread):
            raise FloatingPointError(
                f"{_description(broken[0])} The model was updated with it, so resume from the last checkpoint. "
                f"{_ADVICE}"
            )

    def step_is_broken(self, device: torch.device) -> bool:
        """
        Whether a batch of this optimiser step was broken, in any process. Asked once for every step.

        Raises:
            FloatingPointError: after `MAX_SKIPPED_IN_A_ROW` broken steps one after another.
        """
        if self.policy == "raise":
            return False
        broken = torch.tensor(float(self._broken_batches), device=device)
        if world_size() > 1:
            dist.all_reduce(broken)
        self._broken_batches = 0
        self._skipped_in_a_row = self._skipped_in_a_row + 1 if broken > 0 else 0
        if self._skipped_in_a_row >= MAX_SKIPPED_IN_A_ROW:
            raise FloatingPointError(
                f"{MAX_SKIPPED_IN_A_ROW} steps one after another had a loss that is not finite: the fault is the "
                f"model's, no longer that of single pairs. Resume from an earlier checkpoint. {_ADVICE}"
            )
        return self._skipped_in_a_row > 0


_ADVICE = (
    "Look at the images and captions of these pairs for NaN or inf; if they are sound, lower the learning rate or "
    "raise `min_temperature`."
)


def _broken(steps: list[_Step]) -> list[_Step]:
    """The steps with a loss that is not finite; reads from the device once, whether there are any."""
    steps = [step for step in steps if step.losses]
    if not steps or torch.stack([value for step in steps for value in step.losses.values()]).isfinite().all():
        return []
    return [step for step in steps if not all(value.isfinite() for value in step.losses.values())]


def _description(step: _Step) -> str:
    names = [name for name, value in step.losses.items() if not value.isfinite()]
    values = ", ".join(f"{name} = {value.item()}" for name, value in step.losses.items())
    return (
        f"At step {step.number} {' and '.join(names)} is not finite ({values}); the pairs of the batch are "
        f"{step.pair_ids.tolist()[:32]}."
    )
