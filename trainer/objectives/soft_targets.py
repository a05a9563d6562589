# Copyright 2026 The SACL for Hugging Face authors. Licensed under the Apache License, Version 2.0.
"""Targets from within a modality: where two images, or two texts, are alike, their pairs are no strict negatives."""

from typing import Any

import torch

from .base import BothDirections, ContrastiveBatch, ContrastiveObjective


class ContinuousObjective(ContrastiveObjective):
    r"""
    Continuously weighted contrast: every candidate is a positive, as much as it resembles the anchor's own pair within
    the modality of the candidates.

        target_ij = v_ij / sum_k v_ik,    v_ij = (1 + cos(candidate_i, candidate_j)) / 2
        L_i = - sum_j target_ij * log( f_ij / sum_k f_ik ),    f = exp(cos / temperature)

    The published loss has this target in one direction, from the tower in training to the locked one, whose space it
    takes over; the other direction is InfoNCE. So it is here if a tower is locked. With none locked, both directions
    have such targets, which is ours. The similarity is `ContrastiveBatch.intra_modal_similarity`: the teacher's or the
    model's own, after its projections (which learn on above a locked tower, unlike the published frozen embeddings),
    mixed with the guide's while there is one. A guide with `guide_schedule="constant"` is the frozen similarity of the
    source. Positives by pair id have `v = 1`; no gradient flows through targets.

    Args:
        locked (`str`, *optional*):
            `"vision"` or `"text"`: the tower that is locked. Defaults to none or both.

    Source: Srinivasa et al., NeurIPS 2023 ([arXiv 2309.14580](https://huggingface.co/papers/2309.14580)).
    """

    name = "cwcl"
    citation = """@inproceedings{srinivasa2023cwcl,
    title = {CWCL: Cross-Modal Transfer with Continuously Weighted Contrastive Loss},
    author = {Rakshith Sharma Srinivasa and Jaejin Cho and Chouchang Yang and others},
    booktitle = {NeurIPS},
    year = {2023},
}"""

    def __init__(self, locked: str | None = None):
        if locked not in (None, "vision", "text"):
            raise ValueError(f"`locked` is the locked tower, 'vision', 'text' or None; got {locked!r}.")
        self.locked = locked

    @classmethod
    def from_arguments(cls, args: Any) -> "ContinuousObjective":
        locked = None
        if args.lock_vision != args.lock_text:
            locked = "vision" if args.lock_vision else "text"
        return cls(locked=locked)

    def get_targets(self, batch: ContrastiveBatch) -> BothDirections | None:
        text_to_image, image_to_text = (
            _shares_of(((1 + similarity) / 2).masked_fill(batch.positive_mask, 1.0))
            for similarity in batch.intra_modal_similarity
        )
        return (
            batch.hard_targets if self.locked == "vision" else image_to_text,
            batch.hard_targets if self.locked == "text" else text_to_image,
        )

    def get_streamed_loss(self, batch: ContrastiveBatch, block_size: int) -> torch.Tensor:
        return self.get_loss_by_anchors(batch, block_size)

    def get_config_dict(self) -> dict:
        return {"locked": self.locked}


def _shares_of(weights: torch.Tensor) -> torch.Tensor:
    # Rounding may put a cosine a little under -1.
    weights = weights.clamp(min=0)
    return weights / weights.sum(dim=-1, keepdim=True)


class SoftAlignmentObjective(ContrastiveObjective):
    r"""
    The target is shared between the positives and what resembles the anchor within its own modality:

        target = a * softmax_j( cos(anchor_i, anchor_j) / target temperature ) + (1 - a) * positives
        L_i = - sum_j target_ij * log( f_ij / sum_k f_ik ),    f = exp(cos / temperature)

    where `a` is `distillation_weight`. The similarity is `ContrastiveBatch.intra_modal_similarity`: the teacher's or
    the model's own, mixed with the guide's while there is one; no gradient flows through it. Of the source this is the
    softened target alone, and by whole images and texts. Its similarities are finer (regions of the image and their
    tags), and it adds a term in which the negatives are aligned by themselves; both are left out.

    Args:
        temperature (`float`, *optional*, defaults to 0.1):
            Temperature of the targets, > 0.

    Source: Gao et al., AAAI 2024 ([arXiv 2303.17561](https://huggingface.co/papers/2303.17561)), SoftCLIP.
    """

    name = "softclip"
    citation = """@inproceedings{gao2024softclip,
    title = {SoftCLIP: Softer Cross-Modal Alignment Makes CLIP Stronger},
    author = {Yuting Gao and Jinfeng Liu and Zihan Xu and others},
    booktitle = {AAAI},
    year = {2024},
}"""

    def __init__(self, temperature: float = 0.1):
        if not temperature > 0:
            raise ValueError(f"`temperature` of the targets must be above 0, got {temperature}.")
        self.temperature = temperature

    @classmethod
    def from_arguments(cls, args: Any) -> "SoftAlignmentObjective":
        return cls(temperature=args.target_temperature)

    def get_targets(self, batch: ContrastiveBatch) -> BothDirections | None:
        share = batch.distillation_weight
        image_to_text, text_to_image = (
            share * (similarity / self.temperature).softmax(dim=-1) + (1 - share) * batch.hard_targets
            for similarity in batch.intra_modal_similarity
        )
        return image_to_text, text_to_image

    def get_streamed_loss(self, batch: ContrastiveBatch, block_size: int) -> torch.Tensor:
        return self.get_loss_by_anchors(batch, block_size)

    def get_config_dict(self) -> dict:
        return {"target_temperature": self.temperature}
