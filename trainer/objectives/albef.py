# Copyright 2026 The SACL for Hugging Face authors. Licensed under the Apache License, Version 2.0.
"""ALBEF: targets softened by a momentum teacher; and SACL with the same targets."""

from typing import Any

import torch

from .base import BothDirections, Comparison, ContrastiveBatch, ContrastiveObjective, streamed_features
from .sacl import SaclObjective


class AlbefObjective(ContrastiveObjective):
    r"""
    Momentum distillation: the target is shared between the positives and what the teacher finds.

        target = a * softmax(teacher logits) + (1 - a) * positives,    loss = cross-entropy with that target

    Where the teacher sees that a "negative" matches, the model is not punished for seeing it too. Unlike ALBEF, the
    candidates of the batch are the model's own features, with gradient; those of the queue are the teacher's.

    Source: Li et al., NeurIPS 2021, section 3.3 ([arXiv 2107.07651](https://huggingface.co/papers/2107.07651)).
    """

    name = "albef"
    citation = """@inproceedings{li2021albef,
    title = {Align before Fuse: Vision and Language Representation Learning with Momentum Distillation},
    author = {Junnan Li and Ramprasaath R. Selvaraju and Akhilesh Deepak Gotmare and others},
    booktitle = {NeurIPS},
    year = {2021},
}"""
    needs_teacher = True

    def get_targets(self, batch: ContrastiveBatch) -> BothDirections | None:
        self._teacher_of(batch)
        assert batch.teacher_similarity is not None
        share = batch.distillation_weight
        image_to_text, text_to_image = (
            share * (batch.logit_scale * similarity).detach().softmax(dim=-1) + (1 - share) * batch.hard_targets
            for similarity in batch.teacher_similarity
        )
        return image_to_text, text_to_image

    def get_streamed_options(self, batch: ContrastiveBatch) -> dict[str, Any]:
        return {
            **super().get_streamed_options(batch),
            **streamed_features("similarity", self._teacher_of(batch)),
            "distillation_weight": batch.distillation_weight,
        }

    def _teacher_of(self, batch: ContrastiveBatch) -> Comparison:
        if batch.teacher is None:
            raise ValueError(f"The objective `{self.name}` takes its targets from a momentum teacher; there is none.")
        return batch.teacher


class DistilledSaclObjective(AlbefObjective, SaclObjective):
    r"""
    SACL's weights with ALBEF's targets: the regulated contrastive loss inside the base model of the paper, with its
    momentum distillation left in place.

        L_i = - sum_j target_ij * log( w_ij f_ij / sum_k w_ik f_ik ),    f = exp(cos / temperature)

    with `w` as in [`SaclObjective`] (1 at the positives) and `target` as in [`AlbefObjective`].

    Source: Jiang et al., ACL 2023 ([arXiv 2305.04474](https://huggingface.co/papers/2305.04474)); Li et al., NeurIPS
    2021 ([arXiv 2107.07651](https://huggingface.co/papers/2107.07651)).
    """

    name = "sacl_distilled"
    citation = SaclObjective.citation + "\n" + AlbefObjective.citation


def distillation_loss(
    student_logits: torch.Tensor, teacher_logits: torch.Tensor, labels: torch.Tensor
) -> torch.Tensor:
    r"""
    Cross-entropy of a student with its teacher's distribution, over the positions that have a label: the momentum
    distillation of masked language modeling.

    Args:
        student_logits (`torch.Tensor` of shape `(..., vocab_size)`).
        teacher_logits (`torch.Tensor` of shape `(..., vocab_size)`).
        labels (`torch.Tensor` of shape `(...)`, int64): -100 where there is nothing to predict.

    Returns:
        `torch.Tensor`, scalar; 0 if no position has a label.

    Source: Li et al., NeurIPS 2021, equation 7.
    """
    losses = -(teacher_logits.detach().softmax(dim=-1) * student_logits.log_softmax(dim=-1)).sum(dim=-1)
    has_label = labels != -100
    return torch.where(has_label, losses, 0.0).sum() / has_label.sum().clamp(min=1)
