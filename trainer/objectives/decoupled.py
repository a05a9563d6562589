# Copyright 2026 The SACL for Hugging Face authors. Licensed under the Apache License, Version 2.0.
"""Decoupled contrast: the positive is pulled as hard however well it is placed already."""

import torch

from .base import ContrastiveBatch, ContrastiveObjective


class DecoupledObjective(ContrastiveObjective):
    r"""
    InfoNCE without the positive in the denominator:

        L_i = -log f_ii / sum_{j != i} f_ij,    f = exp(cos / temperature)

    The gradient of InfoNCE fades by the factor 1 - p_ii as the positive's probability p_ii grows, the sooner the fewer
    the negatives are; here it does not. The two are related by `L_i = InfoNCE_i + log(1 - p_ii)`, so this loss can be
    negative. Several positives of one anchor share its target evenly, and all of them are left out of the denominator.
    An anchor without negatives has loss 0. The published weight of the positive (DCLW) is left out.

    Source: Yeh et al., ECCV 2022 ([arXiv 2110.06848](https://huggingface.co/papers/2110.06848)).
    """

    name = "dcl"
    citation = """@inproceedings{yeh2022dcl,
    title = {Decoupled Contrastive Learning},
    author = {Chun-Hsiao Yeh and Cheng-Yao Hong and Yen-Chi Hsu and others},
    booktitle = {ECCV},
    year = {2022},
}"""

    def get_denominator_mask(self, batch: ContrastiveBatch) -> torch.Tensor | None:
        return ~batch.positive_mask

    def get_streamed_loss(self, batch: ContrastiveBatch, block_size: int) -> torch.Tensor:
        return self.get_loss_by_anchors(batch, block_size)
