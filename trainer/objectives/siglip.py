# Copyright 2026 The SACL for Hugging Face authors. Licensed under the Apache License, Version 2.0.
"""SigLIP: each pair of image and text is judged by itself, and nothing is normalised over a batch."""

from collections.abc import Iterator
from itertools import chain, product

import torch
from torch.utils.checkpoint import checkpoint

from modeling_sacl.loss_sacl import contrastive_logits, find_positives, sigmoid_contrastive_loss

from .base import BothDirections, Comparison, ContrastiveBatch, ContrastiveObjective


class SigmoidObjective(ContrastiveObjective):
    r"""
    Pairwise sigmoid loss: every candidate is a yes-or-no question, and no candidate competes with another.

        L_i = - sum_j log sigmoid( l_ij * ( cos_ij / temperature + bias ) ),    l_ij = 1 for positives, else -1

    averaged over the anchors and, since a queue makes them differ, over both directions. The bias is learned: at -10
    it starts where negatives, which are many, cost nothing. It is the model's `logit_bias` ([`SiglipModel`] has one,
    [`SaclModel`] with `SaclConfig(logit_bias_init_value=-10.0)`); a model without one is refused. Candidates with the
    anchor's own pair id are positives, any number of them, where the source has the pair alone.

    The sum over candidates makes the loss grow with the batch and the queue, as published.

    Source: Zhai et al., ICCV 2023 ([arXiv 2303.15343](https://huggingface.co/papers/2303.15343)).
    """

    name = "siglip"
    citation = """@inproceedings{zhai2023siglip,
    title = {Sigmoid Loss for Language Image Pre-Training},
    author = {Xiaohua Zhai and Basil Mustafa and Alexander Kolesnikov and Lucas Beyer},
    booktitle = {ICCV},
    year = {2023},
}"""
    needs_logit_bias = True

    def get_logits(self, batch: ContrastiveBatch) -> BothDirections:
        image_to_text, text_to_image = super().get_logits(batch)
        bias = self.logit_bias_of(batch)
        return image_to_text + bias, text_to_image + bias

    def get_loss(self, batch: ContrastiveBatch) -> torch.Tensor:
        image_to_text, text_to_image = (
            sigmoid_contrastive_loss(logits, batch.positive_mask) for logits in self.get_logits(batch)
        )
        return (image_to_text + text_to_image) / 2

    def get_streamed_loss(self, batch: ContrastiveBatch, block_size: int) -> torch.Tensor:
        bias, sums = self.logit_bias_of(batch), []
        for block in _blocks(batch.student, block_size):
            # Of a block nothing is kept but its sum: backward computes the logits again.
            arguments = (*block, batch.logit_scale, bias)
            sums.append(checkpoint(_sum_of_block, *arguments, use_reentrant=False, preserve_rng_state=False))
        return torch.stack(sums).sum() / (2 * len(batch.student.anchors.pair_ids))

    def get_metrics(self, batch: ContrastiveBatch) -> dict[str, torch.Tensor]:
        """The bias."""
        # A copy: the parameter itself will have moved when it is read.
        return {"logit_bias": self.logit_bias_of(batch).clone()}


# Anchors and candidates, and the pair ids of both.
_Block = tuple[torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor]


def _blocks(student: Comparison, size: int) -> Iterator[_Block]:
    """The anchors of both directions with all their candidates, `size` with `size` at a time."""
    # Split once: what is sliced anew for every block would have its gradient added up in full length as often.
    anchors = [tensor.split(size) for tensor in student.anchors]
    candidates = [[part.split(size) for part in parts] for parts in zip(*student.candidates, strict=True)]
    candidate_images, candidate_texts, candidate_ids = (list(chain.from_iterable(parts)) for parts in candidates)
    for ours, theirs in ((anchors[0], candidate_texts), (anchors[1], candidate_images)):
        rows, columns = zip(ours, anchors[2], strict=True), zip(theirs, candidate_ids, strict=True)
        for (anchor_embeds, ids), (candidate_embeds, their_ids) in product(rows, columns):
            yield anchor_embeds, candidate_embeds, ids, their_ids


def _sum_of_block(
    anchors: torch.Tensor,
    candidates: torch.Tensor,
    pair_ids: torch.Tensor,
    candidate_pair_ids: torch.Tensor,
    logit_scale: torch.Tensor,
    logit_bias: torch.Tensor,
) -> torch.Tensor:
    logits = contrastive_logits(anchors, candidates, logit_scale) + logit_bias
    return len(anchors) * sigmoid_contrastive_loss(logits, find_positives(pair_ids, candidate_pair_ids))
