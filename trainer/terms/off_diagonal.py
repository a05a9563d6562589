# Copyright 2026 The SACL for Hugging Face authors. Licensed under the Apache License, Version 2.0.
"""Off-diagonal similarities kept: a model that learns on goes on to find alike what it found alike before."""

from typing import Any

import torch

from ..objectives.base import ObjectiveOutput
from .base import AdditiveTerm, TermBatch


def off_diagonal_divergence(
    cosines: torch.Tensor, reference_cosines: torch.Tensor, positive_mask: torch.Tensor, temperature: float = 1.0
) -> tuple[torch.Tensor, torch.Tensor]:
    r"""
    How far the candidates' distribution has moved from that of an earlier model, for the anchors that the earlier
    model understood.

    Args:
        cosines (`torch.Tensor` of shape `(num_anchors, num_candidates)`): by the model in training.
        reference_cosines (`torch.Tensor` of shape `(num_anchors, num_candidates)`): by the earlier model.
        positive_mask (`torch.Tensor` of shape `(num_anchors, num_candidates)`, bool): the positives of each anchor.
        temperature (`float`, *optional*, defaults to 1.0): of both softmaxes, > 0.

    Returns:
        Two `torch.Tensor`, scalars: the divergence, as a mean over all anchors, and the share of anchors that were
        understood. No gradient flows to the earlier model.
    """
    reference_cosines = reference_cosines.detach()
    best = reference_cosines.argmax(dim=-1, keepdim=True)
    understood = positive_mask.gather(1, best)[:, 0]
    log_before = (reference_cosines / temperature).log_softmax(dim=-1)
    log_now = (cosines / temperature).log_softmax(dim=-1)
    divergences = (log_before.exp() * (log_before - log_now)).sum(dim=-1)
    # An anchor that is left out counts nothing, but garbage in its row must not pass unseen.
    left_out = torch.where(divergences.isnan(), torch.nan, 0.0).to(divergences.dtype)
    kept = torch.where(understood, divergences, left_out)
    return kept.mean(), understood.to(kept.dtype).mean()


class OffDiagonalTerm(AdditiveTerm):
    r"""
    For a model that learns on with new pairs: how similar it finds an image and the texts of *others* is most of what
    it knew before, and the contrast on new pairs moves just that. Rows of similarities stay as they were where they
    were right:

        L_i = KL( softmax_j(before_ij / t) || softmax_j(now_ij / t) )  if before_i is largest at a positive, else 0

    with `before` the cosines of the model as it was when the training began, `now` those of the model in training, and
    `t` a temperature; the mean goes over both directions and all anchors. The candidates are the batches of all
    processes, and not the queue.

    The trainer keeps a frozen copy of the weights that the training starts from, and asks it in every step: memory for
    the weights, and a forward without gradient. The copy is saved with every checkpoint and restored from it, so a
    resumed training compares with the same model. To chain trainings, start each from the model of the one before.

    The published code sums over the rows of a batch where this takes their mean, as every loss here does: its factor
    is this weight divided by the rows of a batch. Its softmax has no temperature, as `t = 1` here.

    Args:
        temperature (`float`, *optional*, defaults to 1.0):
            Temperature of both softmaxes, > 0. At 1 rows are nearly even, and the loss is small; near the model's own
            the nearest candidates count most.

    Source: Ni et al., ICML 2023 ([arXiv 2305.07437](https://huggingface.co/papers/2305.07437)), Mod-X.
    """

    name = "off_diagonal"
    needs_reference = True
    citation = """@inproceedings{ni2023modx,
    title = {Continual Vision-Language Representation Learning with Off-Diagonal Information},
    author = {Zixuan Ni and Longhui Wei and Siliang Tang and Yueting Zhuang and Qi Tian},
    booktitle = {ICML},
    year = {2023},
}"""

    def __init__(self, temperature: float = 1.0):
        if not temperature > 0:
            raise ValueError(f"`temperature` must be above 0, got {temperature}.")
        self.temperature = temperature

    @classmethod
    def from_arguments(cls, args: Any) -> "OffDiagonalTerm":
        return cls(temperature=args.off_diagonal_temperature)

    def get_config_dict(self) -> dict:
        return {"off_diagonal_temperature": self.temperature}

    def __call__(self, batch: TermBatch) -> ObjectiveOutput:
        reference = batch.require("reference")
        (image_to_text, images_kept), (text_to_image, texts_kept) = (
            off_diagonal_divergence(now, before, batch.positive_mask, self.temperature)
            for now, before in zip(batch.student.logits(), reference.logits(), strict=True)
        )
        return self._output((image_to_text + text_to_image) / 2, off_diagonal_kept=(images_kept + texts_kept) / 2)


__all__ = ["OffDiagonalTerm", "off_diagonal_divergence"]
