# Copyright 2026 The SACL for Hugging Face authors. Licensed under the Apache License, Version 2.0.
"""What rises and falls over a training: strengths, weights and shares, as they are at one moment of it."""

import math
from dataclasses import dataclass

from .sacl_config import GUIDE_SCHEDULES, SaclTrainingArguments


@dataclass(frozen=True)
class Moment:
    """
    A moment of a training, and what the schedules of its arguments say at it.

    Args:
        args ([`SaclTrainingArguments`]): The arguments.
        step (`int`): Optimiser steps so far.
        max_steps (`int`): Optimiser steps of the whole training.
        in_training (`bool`): Whether a training is under way at all; an evaluation may be in its midst.
        learning (`bool`): Whether what is asked for now is to be learned from.
    """

    args: SaclTrainingArguments
    step: int
    max_steps: int
    in_training: bool
    learning: bool

    def ramp(self, share_or_steps: float) -> float:
        """
        Rises from 0 to 1 over the given share or steps of training; 1 in evaluation, even in its midst: a loss that
        moves with the ramp would say nothing about the model.
        """
        steps = self.args.steps_of(share_or_steps, self.max_steps)
        if not (self.in_training and self.learning) or steps <= 0:
            return 1.0
        return min(1.0, self.step / steps)

    def regulation_strength(self, warmed_up: bool = False) -> float:
        """How strongly negatives are regulated; `warmed_up` from the beginning."""
        return self.args.regulation_strength * (1.0 if warmed_up else self.ramp(self.args.regulation_warmup))

    @property
    def hard_negative_share(self) -> float:
        """How many of the negatives of matching are hard ones."""
        return self.ramp(self.args.hard_negative_warmup)

    @property
    def distillation_weight(self) -> float:
        """The share of the teacher in soft targets."""
        return self.args.distillation_weight * self.ramp(self.args.distillation_warmup)

    @property
    def guide_share(self) -> float:
        """The paper's alpha: 1 at the start of training, 0 from the end of `guide_duration` on."""
        if not self.in_training:
            return 0.0
        progress = min(1.0, self.step / (self.args.guide_duration * self.max_steps))
        return GUIDE_SCHEDULES[self.args.guide_schedule](progress)

    @property
    def patch_selection_share(self) -> float:
        """How much of their patches image towers drop; in tenths, since each share is compiled anew."""
        return math.floor(10 * self.ramp(self.args.patch_selection_warmup)) / 10
