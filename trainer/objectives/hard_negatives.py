# Copyright 2026 The SACL for Hugging Face authors. Licensed under the Apache License, Version 2.0.
"""Negatives as a sample of everything: corrected for the positives among them, and drawn towards the hard ones."""

import math
from typing import Any

import torch

from .base import BothDirections, ContrastiveBatch, ContrastiveObjective


class DebiasedObjective(ContrastiveObjective):
    r"""
    Debiased contrast: of what passes for negatives, a share `prior` are positives in truth; their part is subtracted.

        L_i = -log f_ii / ( f_ii + N g_i ),    f = exp(cos / temperature)
        g_i = max( ( mean_{j != i} f_ij - prior * f_ii ) / (1 - prior), exp(-1 / temperature) )

    with N negatives; the floor is the least that a mean of f can be. In terms of weights, all negatives of an anchor
    have the same, `N g_i / sum_j f_ij`; unlike those of [`SaclObjective`] it has gradient, as published. Several
    positives of one anchor share its target evenly, and `f_ii` in the estimate is their mean.

    Args:
        prior (`float`, *optional*, defaults to 0.1):
            In [0, 1): the share of positives among the negatives. 0 is InfoNCE.

    Source: Chuang et al., NeurIPS 2020 ([arXiv 2007.00224](https://huggingface.co/papers/2007.00224)).
    """

    name = "debiased"
    citation = """@inproceedings{chuang2020debiased,
    title = {Debiased Contrastive Learning},
    author = {Ching-Yao Chuang and Joshua Robinson and Yen-Chen Lin and others},
    booktitle = {NeurIPS},
    year = {2020},
}"""
    # How much more a negative counts for its similarity; here not at all.
    concentration: float = 0.0

    def __init__(self, prior: float = 0.1):
        if not 0 <= prior < 1:
            raise ValueError(f"`prior` is the share of positives among the negatives, in [0, 1); got {prior}.")
        self.prior = prior

    @classmethod
    def from_arguments(cls, args: Any) -> "DebiasedObjective":
        return cls(prior=args.debiased_prior)

    def get_log_weights(self, batch: ContrastiveBatch) -> BothDirections | None:
        logits, floor = self.get_logits(batch), -batch.logit_scale
        positives = batch.positive_mask
        return (
            _log_debiased_weights(logits[0], positives, self.prior, self.concentration, floor),
            _log_debiased_weights(logits[1], positives, self.prior, self.concentration, floor),
        )

    def get_streamed_loss(self, batch: ContrastiveBatch, block_size: int) -> torch.Tensor:
        return self.get_loss_by_anchors(batch, block_size)

    def get_config_dict(self) -> dict:
        return {"debiased_prior": self.prior}


class HardNegativesObjective(DebiasedObjective):
    r"""
    Debiased contrast with weights that rise with the similarity: the hardest negatives count most. It is the opposite
    of [`SaclObjective`], for data in which a similar pair is a hard negative and not a false one.

        L_i = -log f_ii / ( f_ii + N g_i ),    f = exp(cos / temperature)
        g_i = max( ( mean_{j != i} v_ij f_ij - prior * f_ii ) / (1 - prior), exp(-1 / temperature) )
        v_ij = f_ij ** concentration / mean_{k != i} f_ik ** concentration

    As in [`DebiasedObjective`], weights have gradient and several positives are averaged.

    Args:
        prior (`float`, *optional*, defaults to 0.1):
            In [0, 1): the share of positives among the negatives.
        concentration (`float`, *optional*, defaults to 1.0):
            The paper's beta, >= 0: 0 is [`DebiasedObjective`], and with `prior=0` InfoNCE. It multiplies the scaled
            cosines, as in the authors' code.

    Source: Robinson et al., ICLR 2021 ([arXiv 2010.04592](https://huggingface.co/papers/2010.04592)).
    """

    name = "hcl"
    citation = """@inproceedings{robinson2021hcl,
    title = {Contrastive Learning with Hard Negative Samples},
    author = {Joshua Robinson and Ching-Yao Chuang and Suvrit Sra and Stefanie Jegelka},
    booktitle = {ICLR},
    year = {2021},
}"""

    def __init__(self, prior: float = 0.1, concentration: float = 1.0):
        super().__init__(prior)
        if not 0 <= concentration < math.inf:
            raise ValueError(
                f"`concentration` must be a finite number >= 0 (0 weighs all alike), got {concentration}."
            )
        self.concentration = concentration

    @classmethod
    def from_arguments(cls, args: Any) -> "HardNegativesObjective":
        return cls(prior=args.debiased_prior, concentration=args.hard_negative_concentration)

    def get_config_dict(self) -> dict:
        return {**super().get_config_dict(), "hard_negative_concentration": self.concentration}


def _log_debiased_weights(
    logits: torch.Tensor, positives: torch.Tensor, prior: float, concentration: float, floor: torch.Tensor
) -> torch.Tensor:
    """
    Weights of the negatives whose sum with f is N g, as logarithms, and 0 at the positives; in logarithms throughout,
    since f overflows at a low temperature.
    """
    negatives = logits.masked_fill(positives, -torch.inf)
    tilted = (concentration * logits).masked_fill(positives, -torch.inf)
    log_sum = (tilted + negatives).logsumexp(dim=-1, keepdim=True)
    log_mean = log_sum - tilted.logsumexp(dim=-1, keepdim=True)
    log_estimate = _log_difference(log_mean, _log_mean(logits, positives), prior) - math.log1p(-prior)
    log_count = (~positives).sum(dim=-1, keepdim=True).to(logits.dtype).log()
    log_total = log_count + torch.maximum(log_estimate, floor.to(logits.dtype))
    return (concentration * logits + log_total - log_sum).masked_fill(positives, 0.0)


def _log_mean(logits: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
    """log mean f over what is in the mask."""
    count = mask.sum(dim=-1, keepdim=True).to(logits.dtype)
    return logits.masked_fill(~mask, -torch.inf).logsumexp(dim=-1, keepdim=True) - count.log()


def _log_difference(left: torch.Tensor, right: torch.Tensor, share: float) -> torch.Tensor:
    """log( exp(left) - share * exp(right) ), -inf where that is not positive."""
    if share == 0:
        return left
    ratio = right + math.log(share) - left
    is_positive = ratio < 0
    # The unused side of a `where` must be finite too, or its gradient is NaN.
    difference = left + (-torch.expm1(torch.where(is_positive, ratio, -1.0))).log()
    return torch.where(is_positive, difference, -torch.inf)
