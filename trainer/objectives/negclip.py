# Copyright 2026 The SACL for Hugging Face authors. Licensed under the Apache License, Version 2.0.
"""Hard negative captions: the same words in another order, so that a caption is more than a bag of words."""

import torch

from modeling_sacl.loss_sacl import contrastive_logits, full_precision, weighted_contrastive_loss
from modeling_sacl.streamed_loss_sacl import streamed_contrastive_loss

from .base import ContrastiveBatch, ContrastiveObjective


class SwappedCaptionsObjective(ContrastiveObjective):
    r"""
    InfoNCE in which each image is also compared with captions made wrong on purpose, its own and those of all others:

        L_i = -log f_ii / ( sum_j f_ij + sum_k f_ik' ),    f = exp(cos / temperature),    k' the negative captions

    from image to text; from text to image there is no term for negative captions, which no image belongs to, so that
    direction is InfoNCE. The captions come with the batch, as `negative_input_ids` and so on; [`PairCollator`] makes
    them with [`swap_words`]. One that is a caption of another pair in the batch does not count twice, as a candidate
    and as a negative. The queue has true captions alone. Several positives of one image share its target evenly.

    Compared with the source, words are swapped by their place and not by their part of speech; and its second kind of
    hard negatives, images that resemble the image together with their own captions, is left out.

    Source: Yuksekgonul et al., ICLR 2023 ([arXiv 2210.01936](https://huggingface.co/papers/2210.01936)), NegCLIP.
    """

    name = "negclip"
    citation = """@inproceedings{yuksekgonul2023negclip,
    title = {When and Why Vision-Language Models Behave like Bags-of-Words, and What to Do About It?},
    author = {Mert Yuksekgonul and Federico Bianchi and Pratyusha Kalluri and Dan Jurafsky and James Zou},
    booktitle = {ICLR},
    year = {2023},
}"""
    extra_texts = "negative"

    def get_loss(self, batch: ContrastiveBatch) -> torch.Tensor:
        negatives = self.extra_texts_of(batch).candidates
        image_to_text, text_to_image = self.get_logits(batch)
        image_embeds = batch.student.anchors.image_embeds
        negative_logits = contrastive_logits(image_embeds, negatives.embeds.flatten(0, 1), batch.logit_scale)
        # Added and not filled in: what does not count may still be NaN, and is not hidden.
        negative_logits = negative_logits + torch.where(negatives.counted.flatten(), 0.0, -torch.inf)
        positives = torch.cat([batch.positive_mask, torch.zeros_like(negative_logits, dtype=torch.bool)], dim=1)
        image_to_text = torch.cat([image_to_text, negative_logits], dim=1)
        losses = [
            weighted_contrastive_loss(image_to_text, positives),
            weighted_contrastive_loss(text_to_image, batch.positive_mask),
        ]
        return (losses[0] + losses[1]) / 2

    def get_streamed_loss(self, batch: ContrastiveBatch, block_size: int) -> torch.Tensor:
        negatives, student = self.extra_texts_of(batch).candidates, batch.student
        counted = negatives.embeds[negatives.counted]
        # The id of no anchor.
        negative_ids = (student.anchors.pair_ids.min() - 1).expand(len(counted))
        image_to_text = streamed_contrastive_loss(
            student.anchors.image_embeds,
            [*(part.text_embeds for part in student.candidates), counted],
            batch.logit_scale,
            pair_ids=student.anchors.pair_ids,
            candidate_pair_ids=torch.cat([student.candidate_pair_ids, negative_ids]),
            block_size=block_size,
        )
        text_to_image = streamed_contrastive_loss(
            student.anchors.text_embeds,
            [part.image_embeds for part in student.candidates],
            batch.logit_scale,
            pair_ids=student.anchors.pair_ids,
            candidate_pair_ids=student.candidate_pair_ids,
            block_size=block_size,
        )
        return (image_to_text + text_to_image) / 2

    def get_metrics(self, batch: ContrastiveBatch) -> dict[str, torch.Tensor]:
        """
        How often an image is closer to its caption than to the negative made of it, NaN without any; and the share of
        captions with such a negative.
        """
        image_embeds, text_embeds = (full_precision(embeds) for embeds in batch.student.anchors[:2])
        negatives = self.extra_texts_of(batch).anchors
        own = (image_embeds * text_embeds).sum(dim=-1, keepdim=True)
        found = own > (image_embeds[:, None] * full_precision(negatives.embeds)).sum(dim=-1)
        return {
            "negative_caption_accuracy": (found & negatives.counted).sum() / negatives.counted.sum(),
            "negative_captions": negatives.counted.to(own.dtype).mean(),
        }
