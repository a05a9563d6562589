# Copyright 2026 The SACL for Hugging Face authors. Licensed under the Apache License, Version 2.0.
"""Alignment and uniformity: pairs near each other, and each modality spread over the sphere."""

import torch

from modeling_sacl.loss_sacl import contrastive_logits, find_positives

from ..distributed import gather, world_size
from ..objectives.base import ObjectiveOutput
from .base import AdditiveTerm, TermBatch


# Wang and Isola's t: how quickly the potential between two points falls with their distance.
_SHARPNESS = 2.0

# A logarithm so small that its exponential is 0, and whose difference to another is still a number.
_LOG_OF_NOTHING = -1e4


def alignment(cosines: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
    r"""
    How far pairs are from each other: the mean over the anchors of `sum_j target_ij ||x_i - y_j||^2`.

    Args:
        cosines (`torch.Tensor` of shape `(num_anchors, num_candidates)`): of L2-normalised embeddings.
        targets (`torch.Tensor` of shape `(num_anchors, num_candidates)`): rows that sum to 1 over the positives.

    Returns:
        `torch.Tensor`, scalar, in [0, 4].
    """
    return (targets * (2 - 2 * cosines)).sum(dim=-1).mean()


def log_potential(
    embeds: torch.Tensor, candidate_embeds: torch.Tensor, counted: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor]:
    r"""
    The logarithm of `sum exp(-2 ||x - y||^2)` over anchors and candidates, and over how many pairs it goes: what
    uniformity is the mean of.

    Args:
        embeds (`torch.Tensor` of shape `(num_anchors, dim)`): L2-normalised.
        candidate_embeds (`torch.Tensor` of shape `(num_candidates, dim)`): L2-normalised, of the same modality.
        counted (`torch.Tensor` of shape `(num_anchors, num_candidates)`, bool): which pairs of points count.

    Returns:
        Two `torch.Tensor` of shape `(1,)`. The logarithm is below -1,000 if nothing counts.
    """
    exponents = -_SHARPNESS * (2 - 2 * contrastive_logits(embeds, candidate_embeds))
    log_sum = exponents.masked_fill(~counted, _LOG_OF_NOTHING).flatten().logsumexp(dim=0)
    return log_sum[None], counted.sum().to(exponents.dtype)[None]


def uniformity(
    embeds: torch.Tensor, pair_ids: torch.Tensor, candidate_embeds: torch.Tensor, candidate_pair_ids: torch.Tensor
) -> torch.Tensor:
    r"""
    How evenly the points of one modality lie on the sphere, `log mean exp(-2 ||x - y||^2)` over points of different
    pairs; the lower, the more evenly. Over the anchors of all processes.

    Args:
        embeds (`torch.Tensor` of shape `(num_anchors, dim)`): L2-normalised, of this process.
        pair_ids (`torch.Tensor` of shape `(num_anchors,)`, int64): whose they are.
        candidate_embeds (`torch.Tensor` of shape `(num_candidates, dim)`): those of all processes.
        candidate_pair_ids (`torch.Tensor` of shape `(num_candidates,)`, int64): whose these are.

    Returns:
        `torch.Tensor`, scalar, in [-8, 0], the same in all processes; 0, with gradient 0, if all points are of one
        pair.
    """
    counted = ~find_positives(pair_ids, candidate_pair_ids)
    parts = log_potential(embeds, candidate_embeds, counted)
    log_sums, counts = (gather(part, [1] * world_size()) for part in parts)
    total = counts.sum()
    value = log_sums.logsumexp(dim=0) - total.clamp(min=1).log()
    # Garbage must not pass unseen, even where nothing is compared.
    nothing = torch.where(value.isnan(), value, torch.zeros_like(value))
    return torch.where(total > 0, value, nothing)


class AlignmentUniformityTerm(AdditiveTerm):
    r"""
    Both halves of what a contrast does, said openly:

        L = mean_i ||x_i - y_i||^2 + 1/2 sum over x, y of log mean_{i != j} exp(-2 ||x_i - x_j||^2)

    The first pulls an image `x` and its text `y` together; the second spreads images among images, and texts among
    texts, which the contrast itself never compares. A contrast is content when its pairs are nearer than the others,
    and leaves images and texts in two separate narrow cones; this closes the gap between them.

    Rows with equal pair ids are one pair: each is aligned with all of them, and they are not driven apart. The mean
    goes over the pairs of rows of all processes; the queue, whose features cannot move, takes no part. The source also
    has a variant with a third part, that drives images from the texts of others; it is left out, since the contrastive
    objective does that.

    Source: Wang and Isola, ICML 2020 ([arXiv 2005.10242](https://huggingface.co/papers/2005.10242)); beside the
    contrast of images and texts Fahim et al., 2024 ([arXiv 2405.18570](https://huggingface.co/papers/2405.18570)).
    """

    name = "alignment_uniformity"
    citation = """@misc{fahim2024contrastivegap,
    title = {It's Not a Modality Gap: Characterizing and Addressing the Contrastive Gap},
    author = {Abrar Fahim and Alex Murphy and Alona Fyshe},
    howpublished = {arXiv:2405.18570},
    year = {2024},
}

@inproceedings{wang2020alignment,
    title = {Understanding Contrastive Representation Learning through Alignment and Uniformity on the Hypersphere},
    author = {Tongzhou Wang and Phillip Isola},
    booktitle = {ICML},
    year = {2020},
}"""

    def __call__(self, batch: TermBatch) -> ObjectiveOutput:
        anchors, (candidates, *_) = batch.student
        image_to_text, text_to_image = batch.student.logits()
        aligned = (alignment(image_to_text, batch.hard_targets) + alignment(text_to_image, batch.hard_targets)) / 2
        images, texts = (
            uniformity(ours, anchors.pair_ids, theirs, candidates.pair_ids)
            for ours, theirs in zip(anchors[:2], candidates[:2], strict=True)
        )
        return self._output(
            aligned + (images + texts) / 2, alignment=aligned, image_uniformity=images, text_uniformity=texts
        )


__all__ = ["AlignmentUniformityTerm", "alignment", "log_potential", "uniformity"]
