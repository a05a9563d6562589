# Copyright 2026 The SACL for Hugging Face authors. Licensed under the Apache License, Version 2.0.
"""Objectives that a guide leads from the first step to the last: it says what is no negative, or what to aim at."""

from typing import Any

import torch

from modeling_sacl.loss_sacl import full_precision

from .base import BothDirections, ContrastiveBatch, ContrastiveObjective


class GuidedNegativesObjective(ContrastiveObjective):
    r"""
    InfoNCE without the negatives that a guide finds more similar to the anchor than its own pair, less a margin:

        L_i = -log f_ii / ( f_ii + sum_{j != i} w_ij f_ij ),    f = exp(cos / temperature)
        w_ij = 0 if guide_ij > guide_ii - margin else 1

    A dual encoder as guide compares images with texts; a guide of one modality compares captions, or images, with one
    another, so that its `guide_ii` is 1: with `margin=0` it removes nothing, beyond what rounding does to duplicates.
    Positives are never removed. Compared with the source, the negatives that it draws from within a modality (anchors
    with anchors, positives with positives) are left out.

    Args:
        margin (`float`, *optional*, defaults to 0.0):
            The difference of cosines by which a negative may be less similar and is still removed. 0 is published.

    Source: Solatorio, 2024 ([arXiv 2402.16829](https://huggingface.co/papers/2402.16829)).
    """

    name = "gist"
    citation = """@misc{solatorio2024gistembed,
    title = {GISTEmbed: Guided In-sample Selection of Training Negatives for Text Embedding Fine-tuning},
    author = {Aivin V. Solatorio},
    howpublished = {arXiv 2402.16829},
    year = {2024},
}"""
    needs_guide = True

    def __init__(self, margin: float = 0.0):
        self.margin = margin

    @classmethod
    def from_arguments(cls, args: Any) -> "GuidedNegativesObjective":
        return cls(margin=args.guide_margin)

    def get_log_weights(self, batch: ContrastiveBatch) -> BothDirections | None:
        guide = self.guide_of(batch)
        image_embeds, text_embeds = (full_precision(embeds) for embeds in guide.anchors[:2])
        own = (image_embeds * text_embeds).sum(dim=-1, keepdim=True)
        image_to_text, text_to_image = (
            # `0 * similarity` keeps a NaN alive, which a comparison alone would turn into a kept negative.
            torch.where((similarity > own - self.margin) & ~batch.positive_mask, -torch.inf, 0.0 * similarity).detach()
            for similarity in guide.logits()
        )
        return image_to_text, text_to_image

    def get_streamed_loss(self, batch: ContrastiveBatch, block_size: int) -> torch.Tensor:
        return self.get_loss_by_anchors(batch, block_size)

    def get_metrics(self, batch: ContrastiveBatch) -> dict[str, torch.Tensor]:
        """The share of negatives removed; NaN, undefined, for a batch without a negative."""
        log_weights = self.get_log_weights(batch)
        assert log_weights is not None
        removed = sum((weights == -torch.inf).sum() for weights in log_weights)
        return {"filtered_negatives": removed / (2 * (~batch.positive_mask).sum())}

    def get_config_dict(self) -> dict:
        return {"guide_margin": self.margin}


class CrossSampleObjective(ContrastiveObjective):
    r"""
    Targets are what a guide says of how alike the texts are, in both directions:

        target_ij = softmax_j( cos(guide text_i, guide text_j) / target temperature )
        L_i = - sum_j target_ij * log( f_ij / sum_k f_ik ),    f = exp(cos / temperature)

    A guide without texts compares images. Positives count as fully alike, whatever the guide says of them. As the
    target temperature falls to 0, this becomes InfoNCE, but for negatives that the guide cannot tell from a positive.

    Args:
        temperature (`float`, *optional*, defaults to 0.1):
            Temperature of the targets, > 0.

    Source: Sobal et al., 2024 ([arXiv 2407.18134](https://huggingface.co/papers/2407.18134)), where it is X-CLR.
    """

    name = "xclr"
    citation = """@misc{sobal2024xclr,
    title = {X-Sample Contrastive Loss: Improving Contrastive Learning with Sample Similarity Graphs},
    author = {Vlad Sobal and Mark Ibrahim and Randall Balestriero and others},
    howpublished = {arXiv 2407.18134},
    year = {2024},
}"""
    needs_guide = True

    def __init__(self, temperature: float = 0.1):
        if not temperature > 0:
            raise ValueError(f"`temperature` of the targets must be above 0, got {temperature}.")
        self.temperature = temperature

    @classmethod
    def from_arguments(cls, args: Any) -> "CrossSampleObjective":
        return cls(temperature=args.target_temperature)

    def get_targets(self, batch: ContrastiveBatch) -> BothDirections | None:
        _, texts = self.guide_of(batch).intra_modal()
        targets = (texts.detach().masked_fill(batch.positive_mask, 1.0) / self.temperature).softmax(dim=-1)
        return targets, targets

    def get_streamed_loss(self, batch: ContrastiveBatch, block_size: int) -> torch.Tensor:
        return self.get_loss_by_anchors(batch, block_size)

    def get_config_dict(self) -> dict:
        return {"target_temperature": self.temperature}
