# Copyright 2026 The SACL for Hugging Face authors. Licensed under the Apache License, Version 2.0.
"""Several positives of one anchor, each of which competes with the negatives alone."""

import torch

from modeling_sacl.loss_sacl import separate_positives_contrastive_loss

from .base import ContrastiveBatch, ContrastiveObjective


class MultiPositiveObjective(ContrastiveObjective):
    r"""
    InfoNCE of each positive by itself: the other positives of the anchor leave its denominator.

        L_i = - 1/|P_i| sum_{p in P_i} log( f_ip / ( f_ip + sum_{j not in P_i} f_ij ) ),    f = exp(cos / temperature)

    where P are the candidates with the anchor's own pair id. The other objectives here share one softmax between the
    positives, as the supervised contrastive loss does (`L_out` in Khosla et al., 2020): it is least where all of them
    are equally likely, at log |P_i| and not at 0, and pushes down a positive that is found more easily than the rest.
    This loss falls to 0 as all positives rise above the negatives, in whatever order. Where each pair id occurs once,
    it is [`InfoNCEObjective`]. The source sums over the positives; the mean taken here keeps anchors of many positives
    from counting more.

    Source: Gupta et al., ICLR 2024 ([arXiv 2310.10636](https://huggingface.co/papers/2310.10636)), where it is the
    decoupled softmax; for images and texts Lee et al., NeurIPS 2022
    ([arXiv 2209.13430](https://huggingface.co/papers/2209.13430)), where it is MP-NCE, with weights that are left out.
    """

    name = "multi_positive"
    citation = """@inproceedings{gupta2024dexml,
    title = {Dual-Encoders for Extreme Multi-Label Classification},
    author = {Nilesh Gupta and Devvrit Khatri and Ankit S Rawat and others},
    booktitle = {ICLR},
    year = {2024},
}"""

    def get_loss(self, batch: ContrastiveBatch) -> torch.Tensor:
        image_to_text, text_to_image = (
            separate_positives_contrastive_loss(logits, batch.positive_mask) for logits in self.get_logits(batch)
        )
        return (image_to_text + text_to_image) / 2

    def get_streamed_loss(self, batch: ContrastiveBatch, block_size: int) -> torch.Tensor:
        return self.get_loss_by_anchors(batch, block_size)

    def get_metrics(self, batch: ContrastiveBatch) -> dict[str, torch.Tensor]:
        """How many positives an anchor has, on average."""
        return {"positives": batch.positive_mask.sum(dim=-1).to(batch.logit_scale.dtype).mean()}
