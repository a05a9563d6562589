# Copyright 2026 The SACL for Hugging Face authors. Licensed under the Apache License, Version 2.0.
"""Graded contrast, ours: what is nearly right is learned at a temperature of its own."""

from typing import Any

import torch

from modeling_sacl.loss_sacl import weighted_contrastive_loss

from .base import BothDirections, ContrastiveBatch
from .sacl import SaclObjective


class GradedObjective(SaclObjective):
    r"""
    SACL, and beside it a second contrast of the same cosines that learns how right a negative is, at a temperature
    that stays warm:

        L_i = SACL_i - weight * sum_j target_ij * log softmax_j( cos_ij / graded temperature )
        target_ij = softmax_j( similarity_ij / target temperature ),    similarity = 1 at the positives

    The learned temperature of a contrast falls until the softmax sees the nearest few candidates only: that finds the
    one right answer, and says nothing of the order of the others. Softened targets at that temperature
    ([`CrossSampleObjective`], [`SoftAlignmentObjective`]) have to trade the one for the other. Here each has a softmax
    of its own. The similarity is [`ContrastiveBatch.similarity`]: the guide's while there is one, mixed with the
    teacher's or the model's own as it hands over; `guide_schedule="constant"` keeps it. With a weight of 0 it is
    [`SaclObjective`]; with `regulation_strength=0`, InfoNCE beside graded targets.

    This is not of the SACL paper, and not published elsewhere as far as we know.

    Args:
        weight (`float`, *optional*, defaults to 1.0):
            Weight of the second contrast, >= 0.
        graded_temperature (`float`, *optional*, defaults to 0.1):
            Its temperature, > 0, which is not learned.
        target_temperature (`float`, *optional*, defaults to 0.1):
            Temperature of its targets, > 0.
        filter_threshold, quantile (`float`, *optional*):
            As in [`SaclObjective`].
    """

    name = "graded"

    def __init__(
        self,
        weight: float = 1.0,
        graded_temperature: float = 0.1,
        target_temperature: float = 0.1,
        filter_threshold: float | None = None,
        quantile: float | None = None,
    ):
        super().__init__(filter_threshold, quantile)
        if weight < 0:
            raise ValueError(f"`weight` of the graded contrast must be at least 0, got {weight}.")
        for name, value in (("graded_temperature", graded_temperature), ("target_temperature", target_temperature)):
            if not value > 0:
                raise ValueError(f"`{name}` must be above 0, got {value}.")
        self.weight = weight
        self.graded_temperature = graded_temperature
        self.target_temperature = target_temperature

    @classmethod
    def from_arguments(cls, args: Any) -> "GradedObjective":
        return cls(
            weight=args.graded_weight,
            graded_temperature=args.graded_temperature,
            target_temperature=args.target_temperature,
            filter_threshold=args.filter_threshold,
            quantile=args.regulation_quantile,
        )

    def get_graded_targets(self, batch: ContrastiveBatch) -> BothDirections:
        """How right every candidate is, as distributions."""
        image_to_text, text_to_image = (
            (similarity.masked_fill(batch.positive_mask, 1.0) / self.target_temperature).softmax(dim=-1)
            for similarity in batch.similarity
        )
        return image_to_text.detach(), text_to_image.detach()

    def get_loss(self, batch: ContrastiveBatch) -> torch.Tensor:
        image_to_text, text_to_image = (
            weighted_contrastive_loss(logits, batch.positive_mask, soft_targets=targets)
            for logits, targets in zip(
                batch.student.logits(1 / self.graded_temperature), self.get_graded_targets(batch), strict=True
            )
        )
        return super().get_loss(batch) + self.weight * (image_to_text + text_to_image) / 2

    def get_config_dict(self) -> dict:
        return {
            **super().get_config_dict(),
            "graded_weight": self.weight,
            "graded_temperature": self.graded_temperature,
            "target_temperature": self.target_temperature,
        }
