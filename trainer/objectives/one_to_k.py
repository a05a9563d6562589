# Copyright 2026 The SACL for Hugging Face authors. Licensed under the Apache License, Version 2.0.
"""One image with several of its captions at once: languages, or ways to say it, are treated alike in every step."""

import torch

from modeling_sacl.loss_sacl import contrastive_logits, find_positives, weighted_contrastive_loss
from modeling_sacl.streamed_loss_sacl import streamed_contrastive_loss

from .base import ContrastiveBatch, ContrastiveObjective


class OneToKObjective(ContrastiveObjective):
    r"""
    InfoNCE with K captions of each image in the batch, in place of one:

        image to text:   L_i = - 1/K sum_k log( f_ik / sum_t f_it )    over the K texts k of image i, of all texts t
        text to image:   L_t = - log( f_ti / sum_j f_tj )              for each text t of image i, of all images j

    with `f = exp(cos / temperature)`, each averaged over its anchors. All captions of an image move at once, so that
    none of its languages is learned through another. The further captions come with the batch, as `further_input_ids`
    and so on; [`PairCollator`] draws them from the row's `captions` (`captions_per_image`), and repeats where there
    are fewer. With K = 1 this is [`InfoNCEObjective`]. Images with the same pair id share their texts, and the queue
    has one text for each image.

    In the code of the source the direction from text to image counts 1/K, here as much as the other. Its further
    losses, matching and masked language modeling in several languages, are not here: those of this trainer see the
    first caption.

    Source: Nie et al., KDD 2024 ([arXiv 2406.18254](https://huggingface.co/papers/2406.18254)).
    """

    name = "one_to_k"
    citation = """@inproceedings{nie2024onetok,
    title = {Improving the Consistency in Cross-Lingual Cross-Modal Retrieval with 1-to-K Contrastive Learning},
    author = {Zhijie Nie and Richong Zhang and Zhangchi Feng and Hailang Huang and Xudong Liu},
    booktitle = {KDD},
    year = {2024},
}"""
    extra_texts = "further"

    def get_loss(self, batch: ContrastiveBatch) -> torch.Tensor:
        further, scale = self.extra_texts_of(batch), batch.logit_scale
        image_to_text, text_to_image = self.get_logits(batch)
        image_embeds, _, pair_ids = batch.student.anchors
        own_texts, texts = (part.embeds.flatten(0, 1) for part in further)
        of_texts = find_positives(pair_ids, _ids_of_texts(batch))
        images = torch.cat([part.image_embeds for part in batch.student.candidates])
        of_own_texts = batch.positive_mask.repeat_interleave(further.anchors.embeds.shape[1], dim=0)
        losses = [
            weighted_contrastive_loss(
                torch.cat([image_to_text, contrastive_logits(image_embeds, texts, scale)], dim=1),
                torch.cat([batch.positive_mask, of_texts], dim=1),
            ),
            weighted_contrastive_loss(
                torch.cat([text_to_image, contrastive_logits(own_texts, images, scale)]),
                torch.cat([batch.positive_mask, of_own_texts]),
            ),
        ]
        return (losses[0] + losses[1]) / 2

    def get_streamed_loss(self, batch: ContrastiveBatch, block_size: int) -> torch.Tensor:
        further, student = self.extra_texts_of(batch), batch.student
        image_embeds, text_embeds, pair_ids = student.anchors
        own_texts, texts = (part.embeds.flatten(0, 1) for part in further)
        image_to_text = streamed_contrastive_loss(
            image_embeds,
            [*(part.text_embeds for part in student.candidates), texts],
            batch.logit_scale,
            pair_ids=pair_ids,
            candidate_pair_ids=torch.cat([student.candidate_pair_ids, _ids_of_texts(batch)]),
            block_size=block_size,
        )
        text_to_image = streamed_contrastive_loss(
            torch.cat([text_embeds, own_texts]),
            [part.image_embeds for part in student.candidates],
            batch.logit_scale,
            pair_ids=torch.cat([pair_ids, pair_ids.repeat_interleave(further.anchors.embeds.shape[1])]),
            candidate_pair_ids=student.candidate_pair_ids,
            block_size=block_size,
        )
        return (image_to_text + text_to_image) / 2

    def get_metrics(self, batch: ContrastiveBatch) -> dict[str, torch.Tensor]:
        """How alike the captions of an image are: the mean cosine of the first with the others."""
        text_embeds, further = batch.student.anchors.text_embeds, self.extra_texts_of(batch).anchors.embeds
        return {"caption_agreement": (text_embeds[:, None] * further).sum(dim=-1).mean()}


def _ids_of_texts(batch: ContrastiveBatch) -> torch.Tensor:
    """Pair ids of the further texts of all processes."""
    assert batch.extra_texts is not None
    per_pair = batch.extra_texts.candidates.embeds.shape[1]
    return batch.student.candidates[0].pair_ids.repeat_interleave(per_pair)
