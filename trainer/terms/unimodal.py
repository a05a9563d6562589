# Copyright 2026 The SACL for Hugging Face authors. Licensed under the Apache License, Version 2.0.
"""Self-supervision within each modality: an image is what its other views are, whatever its caption says."""

import torch

from modeling_sacl.loss_sacl import contrastive_logits, full_precision, weighted_contrastive_loss

from ..objectives.base import ObjectiveOutput
from .base import AdditiveTerm, TermBatch
from .rows import VIEW


def view_loss(
    embeds: torch.Tensor,
    view_embeds: torch.Tensor,
    candidate_embeds: torch.Tensor,
    same_pair: torch.Tensor,
    logit_scale: torch.Tensor,
) -> torch.Tensor:
    r"""
    InfoNCE of points with their own second views among the second views of other pairs.

    Args:
        embeds (`torch.Tensor` of shape `(num_anchors, dim)`): L2-normalised.
        view_embeds (`torch.Tensor` of shape `(num_anchors, dim)`): the second view of each.
        candidate_embeds (`torch.Tensor` of shape `(num_candidates, dim)`): the second views of all.
        same_pair (`torch.Tensor` of shape `(num_anchors, num_candidates)`, bool): those that are no negatives.
        logit_scale (`torch.Tensor`, scalar): the inverse of the temperature.

    Returns:
        `torch.Tensor`, scalar: the mean over the anchors.
    """
    with torch.autocast(embeds.device.type, enabled=False):
        own = logit_scale * (full_precision(embeds) * full_precision(view_embeds)).sum(dim=-1, keepdim=True)
    logits = torch.cat([own, contrastive_logits(embeds, candidate_embeds, logit_scale)], dim=1)
    removed = torch.cat([torch.zeros_like(same_pair[:, :1]), same_pair], dim=1)
    positive = torch.zeros_like(removed)
    positive[:, 0] = True
    log_weights = torch.zeros_like(logits).masked_fill(removed, -torch.inf)
    return weighted_contrastive_loss(logits, positive, log_weights=log_weights)


class UnimodalSelfSupervisionTerm(AdditiveTerm):
    r"""
    InfoNCE between two views of the same image among those of other images, and of the same text among other texts:

        L_i = -1/2 log softmax_j( cos(x_i, x'_j) / temperature )_i
              - 1/2 log softmax_j( cos(y_i, y'_j) / temperature )_i

    with `x, y` the image and text of a pair, `x', y'` their second views, and the temperature that of the contrast. A
    backdoor lives between the modalities: a patch in the image, a caption that it calls for. Within each modality it
    has nothing to say, so this term, which shapes embeddings by content, weakens it.

    A second image is the training augmentation drawn again (the source compares the image as it is with an augmented
    one: `view_transform` of [`PairCollator`]). A second text is another caption of the pair if it has one, else the
    same with words left out or swapped (two of the four operations of EDA, which the source takes). Second views go
    through the model in the same forward, as rows behind the pairs; matching, language modeling, teacher and queue see
    the first views alone. The candidates are the views of all processes. An image has only its own view as a positive:
    other rows with its pair id are no negatives, but no positives either, since ids come from captions, and captions
    are what an attacker writes.

    Source: Bansal et al., ICCV 2023 ([arXiv 2303.03323](https://huggingface.co/papers/2303.03323)), CleanCLIP.
    """

    name = "unimodal_self_supervision"
    reads = ("view_pixel_values", "view_input_ids")
    rows = VIEW
    citation = """@inproceedings{bansal2023cleanclip,
    title = {CleanCLIP: Mitigating Data Poisoning Attacks in Multimodal Contrastive Learning},
    author = {Hritik Bansal and Nishad Singhi and Yu Yang and others},
    booktitle = {ICCV},
    year = {2023},
}"""

    def __call__(self, batch: TermBatch) -> ObjectiveOutput:
        own, everyones = batch.require("views")
        images, texts = (
            view_loss(points, views, candidates, batch.positive_mask, batch.logit_scale)
            for points, views, candidates in zip(batch.student.anchors[:2], own[:2], everyones[:2], strict=True)
        )
        return self._output((images + texts) / 2, image_view_loss=images, text_view_loss=texts)


__all__ = ["UnimodalSelfSupervisionTerm", "view_loss"]
