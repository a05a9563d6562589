# Copyright 2026 The SACL for Hugging Face authors. Licensed under the Apache License, Version 2.0.
"""Mixup between pairs: what is half of one pair and half of another belongs to both."""

from collections.abc import Mapping
from typing import Any

import torch
from torch import nn

from modeling_sacl.loss_sacl import contrastive_logits, find_positives, full_precision, weighted_contrastive_loss

from ..objectives.base import ObjectiveOutput
from .base import AdditiveTerm, Mixture, TermBatch
from .rows import MIXED


def draw_mixture(inputs: Mapping[str, Any], alpha: float) -> dict[str, torch.Tensor]:
    """
    What a batch has to have to be mixed: for each row a partner of the same batch, its own share, drawn from
    Beta(alpha, alpha), and the images mixed accordingly.

    Randomness comes from torch's global generator, which checkpoints save: a resumed run draws the same.

    Args:
        inputs (`Mapping[str, torch.Tensor]`): a batch with `pixel_values`, of any shape, and `pair_ids`.
        alpha (`float`): above 0; the smaller, the more often one of the two has nearly all.

    Returns:
        `dict[str, torch.Tensor]`: `mixed_pixel_values`, `mixup_partner` (row numbers) and `mixup_share`.
    """
    pixels = inputs["pixel_values"]
    concentration = torch.tensor(float(alpha), dtype=torch.float64)
    share = torch.distributions.Beta(concentration, concentration).sample((len(pixels),))
    share = share.to(pixels.device, full_precision(pixels).dtype)
    partner = torch.randperm(len(pixels)).to(pixels.device)
    weights = share.to(pixels.dtype).view(-1, *[1] * (pixels.dim() - 1))
    return {
        "mixed_pixel_values": weights * pixels + (1 - weights) * pixels[partner],
        "mixup_partner": partner,
        "mixup_share": share,
    }


def mixture_of(outputs: Mapping[str, Any], inputs: Mapping[str, Any]) -> Mixture:
    """The mixtures of a batch: images were mixed before the tower, texts are after it."""
    partner = inputs["mixup_partner"]
    texts = full_precision(nn.functional.normalize(outputs["text_embeds"], dim=-1))
    weights = inputs["mixup_share"].to(texts.dtype)[:, None]
    return Mixture(
        image_embeds=nn.functional.normalize(outputs["mixed_image_embeds"], dim=-1),
        text_embeds=nn.functional.normalize(weights * texts + (1 - weights) * texts[partner], dim=-1),
        pair_ids=inputs["pair_ids"],
        partner_ids=inputs["pair_ids"][partner],
        share=inputs["mixup_share"],
    )


def mixing_targets(
    mixture: Mixture, pair_ids: torch.Tensor, candidate_pair_ids: torch.Tensor | None = None
) -> torch.Tensor:
    r"""
    How much of each mixture is each candidate: its share at its own pair, the rest at its partner's, each split evenly
    over all rows of that pair.

    Args:
        mixture ([`Mixture`]): the mixtures.
        pair_ids (`torch.Tensor` of shape `(num_pairs,)`): of the whole batch.
        candidate_pair_ids (`torch.Tensor` of shape `(num_candidates,)`, *optional*, defaults to `pair_ids`):
            Those that are asked for.

    Returns:
        `torch.Tensor` of shape `(num_mixtures, num_candidates)`; over the whole batch rows sum to 1.
    """
    candidate_pair_ids = pair_ids if candidate_pair_ids is None else candidate_pair_ids
    share = mixture.share[:, None]
    parts = []
    for ids in (mixture.pair_ids, mixture.partner_ids):
        rows_of_pair = find_positives(ids, pair_ids).sum(dim=-1, keepdim=True).clamp(min=1)
        parts.append(find_positives(ids, candidate_pair_ids).to(share.dtype) / rows_of_pair)
    return share * parts[0] + (1 - share) * parts[1]


class MixupTerm(AdditiveTerm):
    r"""
    Each pair is mixed with another, `lambda` of the one and `1 - lambda` of the other, `lambda ~ Beta(a, a)`. A mixed
    image belongs to both texts, and a mixed text to both images, in these shares:

        mix_i = lambda_i x_i + (1 - lambda_i) x_j
        L_i = -lambda_i log softmax_k( cos(mix_i, y_k) / temperature )_i
              - (1 - lambda_i) log softmax_k( cos(mix_i, y_k) / temperature )_j

    and the same from each text to all mixed images, and for mixed texts; the mean of the four. So pairs come to share
    what they have in common, instead of only being told apart.

    Images are mixed as they enter the model, and the mixed ones are embedded in the same forward, as rows behind the
    pairs. Word numbers cannot be mixed, so texts are as embeddings, which costs nothing. (The published code mixes
    both behind their encoders, and before normalising.) Partners are of the same process, candidates of all. Rows with
    equal pair ids share their pair's part evenly. The temperature is that of the contrast. The source adds the losses
    of both modalities, where this takes their mean. It also mixes half of the rows only, and passes on to a loss
    without mixtures in the course of the training; both are left out.

    Args:
        alpha (`float`, *optional*, defaults to 0.15):
            The parameter of the Beta distribution, > 0.

    Source: Kumar et al., 2024 ([arXiv 2409.17777](https://huggingface.co/papers/2409.17777)), M3CoL.
    """

    name = "mixup"
    reads = ("mixed_pixel_values", "mixup_partner", "mixup_share")
    rows = MIXED
    citation = """@misc{kumar2024m3col,
    title = {Harnessing Shared Relations via Multimodal Mixup Contrastive Learning for Multimodal Classification},
    author = {Raja Kumar and Raghav Singhal and Pranamya Kulkarni and Deval Mehta and Kshitij Jadhav},
    howpublished = {arXiv:2409.17777},
    year = {2024},
}"""

    def __init__(self, alpha: float = 0.15):
        if not alpha > 0:
            raise ValueError(f"`alpha` of the Beta distribution must be above 0, got {alpha}.")
        self.alpha = alpha

    @classmethod
    def from_arguments(cls, args: Any) -> "MixupTerm":
        return cls(alpha=args.mixup_alpha)

    def get_config_dict(self) -> dict:
        return {"mixup_alpha": self.alpha}

    def prepare(self, inputs: Mapping[str, Any]) -> dict[str, Any]:
        pixels = inputs.get("pixel_values")
        shapes = [name for name in ("pixel_attention_mask", "spatial_shapes") if name in inputs]
        if not isinstance(pixels, torch.Tensor) or not pixels.is_floating_point() or shapes:
            found = "none" if pixels is None else f"{pixels.dtype}, beside {shapes}" if shapes else str(pixels.dtype)
            raise ValueError(
                f"`mixup_weight` mixes `pixel_values`, floats of one shape for all rows; the batch has {found}. Set "
                "`mixup_weight=0`."
            )
        return {**inputs, **draw_mixture(inputs, self.alpha)}

    def __call__(self, batch: TermBatch) -> ObjectiveOutput:
        mixed, all_mixed = batch.require("mixture")
        pairs, (all_pairs, *_) = batch.student
        targets = mixing_targets(mixed, all_pairs.pair_ids)
        targets_of_pairs = mixing_targets(all_mixed, all_pairs.pair_ids, pairs.pair_ids).T
        losses: list[torch.Tensor] = []
        for side, other in (("image_embeds", "text_embeds"), ("text_embeds", "image_embeds")):
            comparisons = (
                (getattr(mixed, side), getattr(all_pairs, other), targets),
                (getattr(pairs, other), getattr(all_mixed, side), targets_of_pairs),
            )
            losses += [
                weighted_contrastive_loss(
                    contrastive_logits(anchors, candidates, batch.logit_scale),
                    torch.ones_like(shares, dtype=torch.bool),  # Every anchor counts, however little it is a part of.
                    soft_targets=shares,
                )
                for anchors, candidates, shares in comparisons
            ]
        return self._output(
            torch.stack(losses).mean(),
            mixed_image_loss=(losses[0] + losses[1]) / 2,
            mixed_text_loss=(losses[2] + losses[3]) / 2,
        )


__all__ = ["Mixture", "MixupTerm", "draw_mixture", "mixing_targets", "mixture_of"]
