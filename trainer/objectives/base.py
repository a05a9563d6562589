# Copyright 2026 The SACL for Hugging Face authors. Licensed under the Apache License, Version 2.0.
"""What a contrastive objective is given, what it returns, and the page that all of them share."""

from dataclasses import dataclass, field
from typing import Any

import torch

from modeling_sacl.loss_sacl import contrastive_logits, mix_similarities, weighted_contrastive_loss


# Cosines or distributions of images with candidate texts, and of texts with candidate images.
BothDirections = tuple[torch.Tensor, torch.Tensor]


@dataclass
class ContrastiveBatch:
    r"""
    Everything that a contrastive objective may look at; it never sees the model.

    Args:
        image_embeds, text_embeds (`torch.Tensor` of shape `(batch_size, dim)`):
            The anchors, L2-normalised, with gradient.
        candidate_image_embeds, candidate_text_embeds (`torch.Tensor` of shape `(num_candidates, dim)`):
            What anchors are compared with: the global batch, with gradient, then the queue, without.
        positive_mask (`torch.Tensor` of shape `(batch_size, num_candidates)`, bool):
            The candidates with the anchor's own pair id.
        logit_scale (`torch.Tensor`, scalar):
            The inverse of the temperature.
        teacher_similarity (two `torch.Tensor` of shape `(batch_size, num_candidates)`, *optional*):
            Cosines by the momentum teacher, image to text and text to image.
        guide_similarity (two `torch.Tensor` of shape `(batch_size, num_candidates)`, *optional*):
            Cosines by the guide, image to text and text to image.
        guide_share (`float`, *optional*, defaults to 0.0):
            The paper's alpha at this moment of training: 1 is the guide's similarity alone, 0 the model's.
        regulation_strength (`float`, *optional*, defaults to 0.0):
            The strength at this moment of training.
        distillation_weight (`float`, *optional*, defaults to 0.0):
            The share of the teacher in soft targets at this moment of training.
    """

    image_embeds: torch.Tensor
    text_embeds: torch.Tensor
    candidate_image_embeds: torch.Tensor
    candidate_text_embeds: torch.Tensor
    positive_mask: torch.Tensor
    logit_scale: torch.Tensor
    teacher_similarity: BothDirections | None = None
    guide_similarity: BothDirections | None = None
    guide_share: float = 0.0
    regulation_strength: float = 0.0
    distillation_weight: float = 0.0

    def similarity(self) -> BothDirections:
        """
        Detached cosines that say how alike two pairs are: the teacher's if there is one, else the model's own; mixed
        with the guide's while there is one.
        """
        if self.teacher_similarity is not None:
            image_to_text, text_to_image = self.teacher_similarity
        else:
            image_to_text = contrastive_logits(self.image_embeds.detach(), self.candidate_text_embeds.detach())
            text_to_image = contrastive_logits(self.text_embeds.detach(), self.candidate_image_embeds.detach())
        if self.guide_similarity is None:
            return image_to_text, text_to_image
        guide_image_to_text, guide_text_to_image = self.guide_similarity
        return (
            mix_similarities(guide_image_to_text, image_to_text, self.guide_share),
            mix_similarities(guide_text_to_image, text_to_image, self.guide_share),
        )


@dataclass
class ObjectiveOutput:
    """Named losses (to be weighted and summed) and detached metrics (to be logged), all scalar tensors."""

    losses: dict[str, torch.Tensor]
    metrics: dict[str, torch.Tensor] = field(default_factory=dict)


class ContrastiveObjective:
    r"""
    Cross-entropy over weighted candidates, in both directions:

        loss = mean_i - sum_j  target_ij * log_softmax_j( logit_ij + log w_ij )

    An objective says where it departs from InfoNCE by overriding a seam: `get_logits`, `get_log_weights`,
    `get_targets`. Each returns a pair, image to text and text to image.

    Attributes:
        name (`str`): what `SaclTrainingArguments(objective=...)` calls it.
        citation (`str`): BibTeX of its source, for model cards.
        needs_teacher (`bool`): whether it cannot do without a momentum teacher.
    """

    name: str
    citation: str
    needs_teacher: bool = False

    @classmethod
    def from_arguments(cls, args: Any) -> "ContrastiveObjective":
        """The objective with the settings that [`SaclTrainingArguments`] hold for it."""
        return cls()

    def get_logits(self, batch: ContrastiveBatch) -> BothDirections:
        """Scaled cosines of anchors with candidates."""
        return (
            contrastive_logits(batch.image_embeds, batch.candidate_text_embeds, batch.logit_scale),
            contrastive_logits(batch.text_embeds, batch.candidate_image_embeds, batch.logit_scale),
        )

    def get_log_weights(self, batch: ContrastiveBatch) -> BothDirections | None:
        """Logarithms of the negatives' weights; `None` weighs all alike."""
        return None

    def get_targets(self, batch: ContrastiveBatch) -> BothDirections | None:
        """Target distributions; `None` splits the target evenly over the positives."""
        return None

    def get_metrics(self, batch: ContrastiveBatch, log_weights: BothDirections | None) -> dict[str, torch.Tensor]:
        """What to log beside the loss."""
        return {}

    def get_config_dict(self) -> dict:
        """The settings that this objective adds, for model cards and configs."""
        return {}

    def __call__(self, batch: ContrastiveBatch) -> ObjectiveOutput:
        logits = self.get_logits(batch)
        log_weights = self.get_log_weights(batch)
        targets = self.get_targets(batch)
        image_to_text, text_to_image = (
            weighted_contrastive_loss(
                logits[direction],
                batch.positive_mask,
                log_weights=None if log_weights is None else log_weights[direction],
                soft_targets=None if targets is None else targets[direction],
            )
            for direction in (0, 1)
        )
        return ObjectiveOutput(
            losses={"itc_loss": (image_to_text + text_to_image) / 2}, metrics=self.get_metrics(batch, log_weights)
        )
