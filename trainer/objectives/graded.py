# Copyright 2026 The SACL for Hugging Face authors. Licensed under the Apache License, Version 2.0.
"""Graded contrast, ours: what is nearly right is learned at a temperature of its own."""

from typing import Any

import torch

from modeling_sacl.loss_sacl import full_precision, weighted_contrastive_loss

from .base import BothDirections, ContrastiveBatch
from .sacl import SaclObjective


class GradedObjective(SaclObjective):
    r"""
    SACL, and beside it a second contrast, of the negatives among themselves, that learns how right each of them is, at
    a temperature that stays warm:

        L_i = SACL_i - weight * sum_{j != i} target_ij * log( g_ij / sum_{k != i} g_ik )
        g = exp(cos / graded temperature),    target_ij = softmax_{j != i}( similarity_ij / target temperature )

    The learned temperature of a contrast falls until the softmax sees the nearest few candidates only: that finds the
    one right answer, and says nothing of the order of the others. Softened targets at that temperature
    ([`CrossSampleObjective`], [`SoftAlignmentObjective`]) trade the one for the other, since what goes to a negative
    is taken from the positive. Here the positive has no part in the second contrast, which orders what comes after.

    The similarity is [`ContrastiveBatch.similarity`]: the teacher's if there is one, else the model's own, mixed with
    the guide's while there is one. With targets sharper than the second contrast (a lower temperature), a model
    without a guide makes more of the order that it has found. With a weight of 0 it is [`SaclObjective`]; with
    `regulation_strength=0`, InfoNCE and graded negatives.

    This is not of the SACL paper, and not published elsewhere as far as we know.

    Args:
        weight (`float`, *optional*, defaults to 0.5):
            Weight of the second contrast, >= 0.
        graded_temperature (`float`, *optional*, defaults to 0.15):
            Its temperature, > 0, which is not learned.
        target_temperature (`float`, *optional*, defaults to 0.1):
            Temperature of its targets, > 0.
        filter_threshold, quantile (`float`, *optional*):
            As in [`SaclObjective`].

    Source: ours; what is regulated in it is of Jiang et al., ACL 2023
    ([arXiv 2305.04474](https://huggingface.co/papers/2305.04474)).
    """

    name = "graded"

    def __init__(
        self,
        weight: float = 0.5,
        graded_temperature: float = 0.15,
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
        """How right every negative is, as distributions; 0 at the positives."""
        image_to_text, text_to_image = (
            masked_softmax(similarity.detach() / self.target_temperature, ~batch.positive_mask)
            for similarity in batch.similarity
        )
        return image_to_text, text_to_image

    def get_loss(self, batch: ContrastiveBatch) -> torch.Tensor:
        image_to_text, text_to_image = (
            weighted_contrastive_loss(
                logits, batch.positive_mask, soft_targets=targets, denominator_mask=~batch.positive_mask
            )
            for logits, targets in zip(
                batch.student.logits(1 / self.graded_temperature), self.get_graded_targets(batch), strict=True
            )
        )
        return super().get_loss(batch) + self.weight * (image_to_text + text_to_image) / 2

    def get_streamed_loss(self, batch: ContrastiveBatch, block_size: int) -> torch.Tensor:
        return self.get_loss_by_anchors(batch, block_size)

    def get_config_dict(self) -> dict:
        return {
            **super().get_config_dict(),
            "graded_weight": self.weight,
            "graded_temperature": self.graded_temperature,
            "target_temperature": self.target_temperature,
        }


def masked_softmax(logits: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
    """A distribution over what is in the mask, 0 elsewhere; all 0 in a row with an empty mask."""
    probabilities = full_precision(logits).masked_fill(~mask, -torch.inf).softmax(dim=-1)
    return torch.where(mask.any(dim=-1, keepdim=True), probabilities, 0.0)
