# Copyright 2026 The SACL for Hugging Face authors. Licensed under the Apache License, Version 2.0.
"""What models say of a batch, as an objective and its terms are told: pairs of this process among those of all."""

from collections.abc import Mapping
from typing import Any, TypeVar

import torch
from torch import nn

from .data.collator import GUIDE_COLUMNS
from .distributed import gather, row_counts
from .extra_texts import compare_extra_texts
from .objectives import Comparison, ContrastiveBatch, ExtraTexts
from .queue import FeatureQueue, PairFeatures
from .sharding import whole
from .terms import Mixture, TermBatch
from .terms.mixup import mixture_of
from .terms.rows import VIEW


# What a model returns: a `ModelOutput`, or embeddings put together from those of chunks.
Outputs = Mapping[str, Any]

Features = TypeVar("Features", PairFeatures, Mixture)


def normalized(outputs: Outputs, prefix: str = "") -> tuple[torch.Tensor, torch.Tensor]:
    """Embeddings of images and texts, of unit length, whether or not the model returns them so."""
    return (
        nn.functional.normalize(outputs[f"{prefix}image_embeds"], dim=-1),
        nn.functional.normalize(outputs[f"{prefix}text_embeds"], dim=-1),
    )


def guide_features_of(inputs: Mapping[str, torch.Tensor]) -> PairFeatures | None:
    """The guide's features of the batch. A guide of one modality compares captions, or images, with each other."""
    given = [inputs[column] for column in GUIDE_COLUMNS if column in inputs]
    return PairFeatures(given[0], given[-1], inputs["pair_ids"]) if given else None


class GlobalBatch:
    """
    The batch of all processes, as one of them sees it: anchors, whose loss it computes, among the candidates of all.
    All processes have to make it, and to ask it the same.

    Args:
        inputs (`dict[str, torch.Tensor]`): The batch of this process.
        local (`bool`): Whether anchors are the pairs of this process alone, see `local_loss`.
    """

    def __init__(self, inputs: Mapping[str, torch.Tensor], local: bool):
        self.inputs = inputs
        self.local = local
        # How many rows each process has.
        self.counts = row_counts(inputs["pair_ids"])

    def share(self) -> float:
        """What the mean of this process counts: the mean over processes would take small batches for large ones."""
        return len(self.inputs["pair_ids"]) * len(self.counts) / sum(self.counts)

    def spread(self, own: Features) -> tuple[Features, Features]:
        """Features of this process as anchors, and those of all processes as candidates."""
        everyones = type(own)(*(gather(tensor, self.counts) for tensor in own))
        return own if self.local else everyones, everyones

    def pairs(self, outputs: Outputs, prefix: str = "") -> PairFeatures:
        """What a model says of the pairs of this process."""
        return PairFeatures(*normalized(outputs, prefix), self.inputs["pair_ids"])

    def compare(self, features: PairFeatures, queue: FeatureQueue | None = None) -> Comparison:
        """Anchors of this process among the candidates of all processes, then of the queue."""
        anchors, everyones = self.spread(features)
        queued = None if queue is None else queue.features()
        return Comparison(anchors, (everyones,) if queued is None else (everyones, queued))

    def compare_extra_texts(self, outputs: Outputs, kind: str) -> ExtraTexts:
        """The texts beyond those of the pairs, which the model has embedded with them."""
        embeds = nn.functional.normalize(outputs["extra_text_embeds"], dim=-1)
        return compare_extra_texts(embeds, self.inputs, kind, self.counts, local=self.local)

    def for_terms(self, batch: ContrastiveBatch, outputs: Outputs, reference_outputs: Outputs | None) -> TermBatch:
        """What terms are told beside the objective: without the queue, with further views, mixtures and the past."""
        return TermBatch(
            # The objective's own comparison: nothing is gathered twice.
            student=Comparison(batch.student.anchors, batch.student.candidates[:1]),
            logit_scale=batch.logit_scale,
            reference=None if reference_outputs is None else self.compare(self.pairs(reference_outputs)),
            views=self.spread(self.pairs(outputs, VIEW)) if "view_image_embeds" in outputs else None,
            mixture=self.spread(mixture_of(outputs, self.inputs)) if "mixed_image_embeds" in outputs else None,
        )


# Scalars ---------------------------------------------------------------------------------------------------------


def parameter_named(model: nn.Module, name: str) -> nn.Parameter | None:
    """The parameter of this name, wherever in the model it is."""
    named = model.named_parameters()
    return next((parameter for path, parameter in named if path.split(".")[-1] == name), None)


def logit_scale_of(model: nn.Module, outputs: Outputs) -> torch.Tensor:
    """The inverse of the temperature: as the model has returned it, or else its parameter."""
    if outputs.get("logit_scale") is not None:
        return outputs["logit_scale"].view(())
    parameter = parameter_named(model, "logit_scale")
    if parameter is None:
        raise ValueError(
            f"`{type(model).__name__}` has no parameter `logit_scale`, so the temperature of the contrast is "
            "unknown: give the model one (the logarithm of the inverse temperature), or return `logit_scale`."
        )
    return whole(parameter).exp().view(())


def logit_bias_of(model: nn.Module, outputs: Outputs, objective: str) -> torch.Tensor:
    """The bias of the logits, which this objective learns: as the model has returned it, or else its parameter."""
    if outputs.get("logit_bias") is not None:
        return outputs["logit_bias"].view(())
    parameter = parameter_named(model, "logit_bias")
    if parameter is None:
        raise ValueError(
            f"The objective {objective!r} learns a bias of its logits, and `{type(model).__name__}` has no parameter "
            "`logit_bias`: take a SigLIP model or `SaclConfig(logit_bias_init_value=-10.0)`, or give the model one, "
            "`model.logit_bias = torch.nn.Parameter(torch.tensor(-10.0))`."
        )
    return whole(parameter).view(())
