# Copyright 2026 The SACL for Hugging Face authors. Licensed under the Apache License, Version 2.0.
"""SACL: contrast regulated by similarity."""

from typing import Any

import torch

from modeling_sacl.loss_sacl import filter_log_weights, full_precision, log_regulation_weights

from .base import BothDirections, ContrastiveBatch, ContrastiveObjective, streamed_features


# The sweep of the paper is best near it.
DEFAULT_FILTER_THRESHOLD = 0.3


class SaclObjective(ContrastiveObjective):
    r"""
    Similarity-regulated contrast: every negative is weighted down by its similarity to the anchor, so that false and
    half-false negatives are not driven away.

        L_i = -log f_ii / ( f_ii + sum_{j != i} w_ij f_ij ),    w_ij = Norm( exp(cos_ij) ** -strength )

    where Norm makes the mean over the negatives of an anchor 1. The similarity is the momentum teacher's when there is
    one, else the model's own; weights carry no gradient.

    Args:
        filter_threshold (`float`, *optional*):
            In (0, 1): remove the negatives whose weight is under it and leave the others at 1 ("ALBEF++" in the
            paper's section 4.3), instead of regulating.
        quantile (`float`, *optional*):
            In (0, 1), ours: regulate only above this quantile of an anchor's similarities, which is the similarity of
            all below. In a random batch most negatives are true ones, however their similarities differ.

    Source: Jiang et al., ACL 2023 ([arXiv 2305.04474](https://huggingface.co/papers/2305.04474)), where it is SRCL.
    """

    name = "sacl"
    citation = """@inproceedings{jiang2023sacl,
    title = {Vision Language Pre-training by Contrastive Learning with Cross-Modal Similarity Regulation},
    author = {Chaoya Jiang and Wei Ye and Haiyang Xu and others},
    booktitle = {ACL},
    year = {2023},
}"""

    def __init__(self, filter_threshold: float | None = None, quantile: float | None = None):
        if quantile is not None and not 0 < quantile < 1:
            raise ValueError(f"`quantile` is of the similarities of an anchor's negatives, in (0, 1); got {quantile}.")
        self.filter_threshold = filter_threshold
        self.quantile = quantile

    @classmethod
    def from_arguments(cls, args: Any) -> "SaclObjective":
        return cls(filter_threshold=args.filter_threshold, quantile=args.regulation_quantile)

    def get_log_weights(self, batch: ContrastiveBatch) -> BothDirections | None:
        negatives = ~batch.positive_mask
        image_to_text, text_to_image = (
            log_regulation_weights(
                similarity if self.quantile is None else _raised_to_quantile(similarity, negatives, self.quantile),
                strength=batch.regulation_strength,
                negative_mask=negatives,
            )
            for similarity in batch.similarity
        )
        if self.filter_threshold is None:
            return image_to_text, text_to_image
        return (
            filter_log_weights(image_to_text, self.filter_threshold),
            filter_log_weights(text_to_image, self.filter_threshold),
        )

    def get_streamed_options(self, batch: ContrastiveBatch) -> dict[str, Any]:
        return {
            "strength": batch.regulation_strength,
            "filter_threshold": self.filter_threshold,
            **streamed_features("similarity", batch.teacher),
            **streamed_features("guide", batch.guide),
            "guide_share": batch.guide_share,
        }

    def get_streamed_loss(self, batch: ContrastiveBatch, block_size: int) -> torch.Tensor:
        # A quantile needs all similarities of an anchor at once.
        by_anchors = self.quantile is not None
        return (self.get_loss_by_anchors if by_anchors else super().get_streamed_loss)(batch, block_size)

    def get_metrics(self, batch: ContrastiveBatch) -> dict[str, torch.Tensor]:
        """
        Mean, minimum and 5th percentile of the negatives' weights, and the share of negatives removed; NaN, undefined,
        for a batch without a negative.
        """
        log_weights = self.get_log_weights(batch)
        assert log_weights is not None
        both = torch.stack(log_weights)
        negatives = (~batch.positive_mask).expand_as(both)
        weights = both.exp()
        count = negatives.sum()
        metrics = {
            "regulation_weight_mean": torch.where(negatives, weights, 0.0).sum() / count,
            "regulation_weight_min": torch.where(
                count > 0, torch.where(negatives, weights, torch.inf).amin(), torch.nan
            ),
            "regulation_weight_p5": torch.where(negatives, weights, torch.nan).nanquantile(0.05),
            "regulation_strength": torch.tensor(float(batch.regulation_strength)),
        }
        if batch.guide is not None:
            metrics["guide_share"] = torch.tensor(float(batch.guide_share))
        if self.filter_threshold is not None:
            metrics["filtered_negatives"] = ((weights == 0) & negatives).sum() / count
        return metrics

    def get_config_dict(self) -> dict:
        return {"filter_threshold": self.filter_threshold, "regulation_quantile": self.quantile}


def _raised_to_quantile(similarity: torch.Tensor, negatives: torch.Tensor, quantile: float) -> torch.Tensor:
    """Similarities of which those under the quantile of an anchor's negatives are that quantile."""
    similarity = full_precision(similarity)
    floor = torch.where(negatives, similarity, torch.nan).nanquantile(quantile, dim=-1, keepdim=True)
    # An anchor without a negative has no quantile, and nothing to weigh; a NaN is to be seen.
    return torch.where(floor.isnan(), similarity, similarity.maximum(floor))


class FilterObjective(SaclObjective):
    r"""
    Removal of likely false negatives, the paper's alternative to regulation ("ALBEF++"): a negative whose weight is
    under a threshold is dropped, the others count in full.

        L_i = -log f_ii / ( f_ii + sum_{j != i} [w_ij >= threshold] f_ij ),    f = exp(cos / temperature)

    with `w` as in [`SaclObjective`], of which this is the mode `filter_threshold` under a name of its own. Weights
    have mean 1 and fall as `exp(-strength * cos)`, so a negative is removed if its cosine is more than about
    `-log(threshold) / strength` above that of the average negative: 1.2 at the defaults, which few negatives are. A
    greater strength, or a threshold nearer to 1, removes more; `filtered_negatives` in the log says how many.

    Args:
        filter_threshold (`float`, *optional*, defaults to 0.3):
            In (0, 1). The paper's sweep is best between 0.2 and 0.3, with weights of its own guide.

    Source: Jiang et al., ACL 2023 ([arXiv 2305.04474](https://huggingface.co/papers/2305.04474)), section 4.3.
    """

    name = "filter"
    citation = SaclObjective.citation

    def __init__(self, filter_threshold: float = DEFAULT_FILTER_THRESHOLD):
        super().__init__(filter_threshold)

    @classmethod
    def from_arguments(cls, args: Any) -> "FilterObjective":
        return cls(DEFAULT_FILTER_THRESHOLD if args.filter_threshold is None else args.filter_threshold)
