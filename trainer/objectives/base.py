# Copyright 2026 The SACL for Hugging Face authors. Licensed under the Apache License, Version 2.0.
"""What a contrastive objective is given, what it returns, and the page that all of them share."""

from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any, NamedTuple

import torch
from torch.utils.checkpoint import checkpoint

from modeling_sacl.loss_sacl import (
    contrastive_logits,
    find_positives,
    full_precision,
    mix_similarities,
    weighted_contrastive_loss,
)
from modeling_sacl.streamed_loss_sacl import streamed_similarity_regulated_contrastive_loss

from ..queue import PairFeatures


# Cosines or distributions of images with candidate texts, and of texts with candidate images.
BothDirections = tuple[torch.Tensor, torch.Tensor]

# Metrics look at as many anchors as have about this many weights: all of them in a small batch.
_METRICS_SAMPLE = 65_536

_SEAMS = ("get_logits", "get_log_weights", "get_targets", "get_denominator_mask", "get_loss")


class Comparison(NamedTuple):
    r"""
    What is compared with what, as features of one model (the student, the teacher or the guide).

    Args:
        anchors ([`PairFeatures`]):
            The pairs whose loss is computed, L2-normalised.
        candidates (`tuple[PairFeatures, ...]`):
            What they are compared with: the global batch, and the queue if there is one. Side by side and not in one
            tensor, since a queue of a million features is not to be copied in every step.
    """

    anchors: PairFeatures
    candidates: tuple[PairFeatures, ...]

    @property
    def candidate_pair_ids(self) -> torch.Tensor:
        """Pair ids of all candidates, of shape `(num_candidates,)`."""
        return torch.cat([part.pair_ids for part in self.candidates])

    def logits(self, logit_scale: torch.Tensor | float = 1.0) -> BothDirections:
        """Scaled cosines of images with candidate texts, and of texts with candidate images."""
        image_embeds, text_embeds, _ = self.anchors
        image_to_text = [contrastive_logits(image_embeds, part.text_embeds, logit_scale) for part in self.candidates]
        text_to_image = [contrastive_logits(text_embeds, part.image_embeds, logit_scale) for part in self.candidates]
        return torch.cat(image_to_text, dim=1), torch.cat(text_to_image, dim=1)

    def intra_modal(self) -> BothDirections:
        """Cosines of images with candidate images, and of texts with candidate texts."""
        image_embeds, text_embeds, _ = self.anchors
        images = [contrastive_logits(image_embeds, part.image_embeds) for part in self.candidates]
        texts = [contrastive_logits(text_embeds, part.text_embeds) for part in self.candidates]
        return torch.cat(images, dim=1), torch.cat(texts, dim=1)

    def take_anchors(self, rows: slice) -> "Comparison":
        """These anchors, among all candidates."""
        return Comparison(PairFeatures(*(tensor[rows] for tensor in self.anchors)), self.candidates)


class TextFeatures(NamedTuple):
    r"""
    Texts beyond the pairs' own.

    Args:
        embeds (`torch.Tensor` of shape `(num_pairs, num_texts, dim)`):
            L2-normalised.
        counted (`torch.Tensor` of shape `(num_pairs, num_texts)`, bool):
            Which of them count; the others are in the batch already.
    """

    embeds: torch.Tensor
    counted: torch.Tensor


class ExtraTexts(NamedTuple):
    r"""
    The texts beyond the pairs' own, by the model, with gradient.

    Args:
        anchors ([`TextFeatures`]):
            Those of the pairs whose loss is computed.
        candidates ([`TextFeatures`]):
            Those of all pairs in the global batch; a queue has none.
    """

    anchors: TextFeatures
    candidates: TextFeatures


@dataclass
class ContrastiveBatch:
    r"""
    Everything that a contrastive objective may look at; it never sees the model.

    Args:
        student ([`Comparison`]):
            The model's own features. Those of the batch have gradient, those of the queue have not.
        logit_scale (`torch.Tensor`, scalar):
            The inverse of the temperature.
        teacher ([`Comparison`], *optional*):
            The same pairs as the momentum teacher sees them.
        guide ([`Comparison`], *optional*):
            The same pairs as the guide sees them; one of a single modality has its features in the place of both.
        guide_share (`float`, *optional*, defaults to 0.0):
            The paper's alpha at this moment of training: 1 is the guide's similarity alone, 0 the model's.
        regulation_strength (`float`, *optional*, defaults to 0.0):
            The strength at this moment of training.
        distillation_weight (`float`, *optional*, defaults to 0.0):
            The share of the teacher in soft targets at this moment of training.
        logit_bias (`torch.Tensor`, scalar, *optional*):
            The learned bias of the logits, for an objective that needs one.
        extra_texts ([`ExtraTexts`], *optional*):
            Texts beyond those of the pairs, for an objective that compares with them.
    """

    student: Comparison
    logit_scale: torch.Tensor
    teacher: Comparison | None = None
    guide: Comparison | None = None
    guide_share: float = 0.0
    regulation_strength: float = 0.0
    distillation_weight: float = 0.0
    logit_bias: torch.Tensor | None = None
    extra_texts: ExtraTexts | None = None

    @cached_property
    def positive_mask(self) -> torch.Tensor:
        """The candidates with the anchor's own pair id: bool, of shape `(num_anchors, num_candidates)`."""
        return find_positives(self.student.anchors.pair_ids, self.student.candidate_pair_ids)

    @cached_property
    def hard_targets(self) -> torch.Tensor:
        """The target split evenly over the positives, of shape `(num_anchors, num_candidates)`."""
        positives = self.positive_mask.to(full_precision(self.student.anchors.image_embeds).dtype)
        return positives / positives.sum(dim=-1, keepdim=True).clamp(min=1)

    @cached_property
    def teacher_similarity(self) -> BothDirections | None:
        """Cosines by the momentum teacher, without gradient."""
        return None if self.teacher is None else _detached(self.teacher.logits())

    @cached_property
    def similarity(self) -> BothDirections:
        """
        Detached cosines that say how alike two pairs are: the teacher's if there is one, else the model's own; mixed
        with the guide's while there is one.
        """
        own = _detached(self.student.logits()) if self.teacher_similarity is None else self.teacher_similarity
        return own if self.guide is None else self._mixed(self.guide.logits(), own)

    @cached_property
    def intra_modal_similarity(self) -> BothDirections:
        """
        Detached cosines of images with images, and of texts with texts: by the teacher, the model and the guide as in
        `similarity`.
        """
        own = _detached((self.student if self.teacher is None else self.teacher).intra_modal())
        return own if self.guide is None else self._mixed(self.guide.intra_modal(), own)

    def _mixed(self, guide: BothDirections, own: BothDirections) -> BothDirections:
        return (
            mix_similarities(guide[0], own[0], self.guide_share),
            mix_similarities(guide[1], own[1], self.guide_share),
        )

    def sample(self) -> "ContrastiveBatch":
        """A few of the anchors among all candidates: what is true of the batch, at little cost."""
        num_candidates = sum(len(part.pair_ids) for part in self.student.candidates)
        step = -(-len(self.student.anchors.pair_ids) * num_candidates // _METRICS_SAMPLE)
        return self if step <= 1 else self.take_anchors(slice(None, None, step))

    def take_anchors(self, rows: slice) -> "ContrastiveBatch":
        """These anchors, among all candidates."""
        names = ("student", "teacher", "guide")
        compared = {name: getattr(self, name) for name in names if getattr(self, name) is not None}
        taken: dict[str, Any] = {name: comparison.take_anchors(rows) for name, comparison in compared.items()}
        if self.extra_texts is not None:
            anchors = TextFeatures(*(tensor[rows] for tensor in self.extra_texts.anchors))
            taken["extra_texts"] = self.extra_texts._replace(anchors=anchors)
        return replace(self, **taken)


def _detached(both: BothDirections) -> BothDirections:
    return both[0].detach(), both[1].detach()


@dataclass
class ObjectiveOutput:
    """Named losses (to be weighted and summed) and detached metrics (to be logged), all scalar tensors."""

    losses: dict[str, torch.Tensor]
    metrics: dict[str, torch.Tensor] = field(default_factory=dict)


class ContrastiveObjective:
    r"""
    Cross-entropy over weighted candidates, in both directions:

        loss = mean_i - sum_j  target_ij * log_softmax_j( logit_ij + log w_ij )

    An objective says where it departs from InfoNCE by overriding a seam: `get_logits`, `get_log_weights`,
    `get_targets`, each of which returns a pair, image to text and text to image, or `get_denominator_mask`; one of
    another form than the cross-entropy above overrides `get_loss`.

    Attributes:
        name (`str`): what `SaclTrainingArguments(objective=...)` calls it.
        citation (`str`): BibTeX of its source, for model cards.
        needs_teacher (`bool`): whether it cannot do without a momentum teacher.
        needs_guide (`bool`): whether it cannot do without a guide. It is then given one throughout the training,
            whatever `guide_share` says.
        needs_logit_bias (`bool`): whether it cannot do without a learned bias of the logits.
        extra_texts (`str`, *optional*): what the texts that it needs beyond those of the pairs are called in a batch:
            `"negative"` for `negative_input_ids` and so on. By default it needs none.
    """

    name: str
    citation: str
    needs_teacher: bool = False
    needs_guide: bool = False
    needs_logit_bias: bool = False
    extra_texts: str | None = None

    @classmethod
    def from_arguments(cls, args: Any) -> "ContrastiveObjective":
        """The objective with the settings that [`SaclTrainingArguments`] hold for it."""
        return cls()

    def guide_of(self, batch: ContrastiveBatch) -> Comparison:
        """The guide of a batch; a ValueError if there is none."""
        if batch.guide is None:
            raise ValueError(f"The objective `{self.name}` compares pairs by a guide; there is none.")
        return batch.guide

    def logit_bias_of(self, batch: ContrastiveBatch) -> torch.Tensor:
        """The bias of a batch's logits; a ValueError if there is none."""
        if batch.logit_bias is None:
            raise ValueError(
                f"The objective `{self.name}` learns a bias of its logits; the batch has no `logit_bias`."
            )
        return batch.logit_bias

    def extra_texts_of(self, batch: ContrastiveBatch) -> ExtraTexts:
        """The texts beyond the pairs' own; a ValueError if there are none."""
        if batch.extra_texts is None:
            raise ValueError(
                f"The objective `{self.name}` compares with texts beyond those of the pairs; the batch has no "
                "`extra_texts`."
            )
        return batch.extra_texts

    def get_logits(self, batch: ContrastiveBatch) -> BothDirections:
        """Scaled cosines of anchors with candidates."""
        return batch.student.logits(batch.logit_scale)

    def get_log_weights(self, batch: ContrastiveBatch) -> BothDirections | None:
        """Logarithms of the negatives' weights; `None` weighs all alike."""
        return None

    def get_targets(self, batch: ContrastiveBatch) -> BothDirections | None:
        """Target distributions; `None` splits the target evenly over the positives."""
        return None

    def get_denominator_mask(self, batch: ContrastiveBatch) -> torch.Tensor | None:
        """The candidates over which the softmax normalises, the same in both directions; `None` takes all."""
        return None

    def get_streamed_options(self, batch: ContrastiveBatch) -> dict[str, Any]:
        """
        The seams above in the words of [`streamed_similarity_regulated_contrastive_loss`], which never holds the
        matrices that they return.
        """
        return {"strength": 0.0}

    @classmethod
    def streams(cls) -> bool:
        """Whether the loss can be computed in blocks: not if a seam says what no streamed option says."""

        def first_definer(*names: str) -> int:
            return min(i for i, parent in enumerate(cls.__mro__) if any(name in vars(parent) for name in names))

        return first_definer("get_streamed_options", "get_streamed_loss") <= first_definer(*_SEAMS)

    def get_metrics(self, batch: ContrastiveBatch) -> dict[str, torch.Tensor]:
        """What to log beside the loss; the batch is a sample of the anchors if there are many."""
        return {}

    def get_config_dict(self) -> dict:
        """The settings that this objective adds, for model cards and configs."""
        return {}

    def __call__(self, batch: ContrastiveBatch, block_size: int | None = None) -> ObjectiveOutput:
        """
        The loss, from the whole matrix of anchors and candidates, or in blocks of `block_size` of them: the same
        number in memory that grows with anchors plus candidates.
        """
        if block_size is not None and not self.streams():
            raise ValueError(
                f"`{type(self).__name__}` cannot be computed in blocks, since it overrides a seam without "
                "`get_streamed_options` or `get_streamed_loss`: set `loss_block_size=None`."
            )
        loss = self.get_loss(batch) if block_size is None else self.get_streamed_loss(batch, block_size)
        with torch.no_grad():
            return ObjectiveOutput(losses={"itc_loss": loss}, metrics=self.get_metrics(batch.sample()))

    def get_loss(self, batch: ContrastiveBatch) -> torch.Tensor:
        """The mean of both directions, from the whole matrix of anchors and candidates."""
        logits = self.get_logits(batch)
        log_weights = self.get_log_weights(batch)
        targets = self.get_targets(batch)
        denominator_mask = self.get_denominator_mask(batch)
        image_to_text, text_to_image = (
            weighted_contrastive_loss(
                logits[direction],
                batch.positive_mask,
                log_weights=None if log_weights is None else log_weights[direction],
                soft_targets=None if targets is None else targets[direction],
                denominator_mask=denominator_mask,
            )
            for direction in (0, 1)
        )
        return (image_to_text + text_to_image) / 2

    def get_streamed_loss(self, batch: ContrastiveBatch, block_size: int) -> torch.Tensor:
        """The same number in blocks."""
        anchors = batch.student.anchors
        return streamed_similarity_regulated_contrastive_loss(
            anchors.image_embeds,
            anchors.text_embeds,
            batch.logit_scale,
            pair_ids=anchors.pair_ids,
            candidate_pair_ids=batch.student.candidate_pair_ids,
            **_candidate_embeds("", batch.student),
            **self.get_streamed_options(batch),
            block_size=block_size,
        )

    def get_loss_by_anchors(self, batch: ContrastiveBatch, block_size: int) -> torch.Tensor:
        """
        `get_loss` in blocks of `block_size` anchors among all candidates, computed once more in backward: the
        `get_streamed_loss` of an objective whose loss is a mean over anchors that know nothing of one another.
        """
        anchor_ids = batch.student.anchors.pair_ids
        counted = torch.isin(anchor_ids, batch.student.candidate_pair_ids)

        # What a batch caches goes with it: the one of a block must not outlive the block.
        def loss_of(rows: slice) -> torch.Tensor:
            return self.get_loss(batch.take_anchors(rows))

        losses = []
        for first in range(0, len(anchor_ids), block_size):
            rows = slice(first, first + block_size)
            losses.append(checkpoint(loss_of, rows, use_reentrant=False) * counted[rows].sum())
        return torch.stack(losses).sum() / counted.sum().clamp(min=1)


def streamed_features(name: str, comparison: Comparison | None) -> dict[str, Any]:
    """A teacher's or guide's features as the streamed loss takes them; nothing if there is none."""
    if comparison is None:
        return {}
    image_embeds, text_embeds, _ = comparison.anchors
    own = {f"{name}_image_embeds": image_embeds, f"{name}_text_embeds": text_embeds}
    return {**own, **_candidate_embeds(f"{name}_", comparison)}


def _candidate_embeds(prefix: str, comparison: Comparison) -> dict[str, Any]:
    return {
        f"{prefix}candidate_image_embeds": tuple(part.image_embeds for part in comparison.candidates),
        f"{prefix}candidate_text_embeds": tuple(part.text_embeds for part in comparison.candidates),
    }
