# Copyright 2026 The SACL for Hugging Face authors. Licensed under the Apache License, Version 2.0.
"""The regulated contrastive loss in linear memory: the loss of `loss_sacl`, tile by tile.

The plain loss holds several matrices of anchors x candidates: gigabytes for a batch of 16,384, and out of reach for a
queue of a million features. Here the matrix is cut into tiles of `block_size` x `block_size`, of which few exist at a
time. Forward keeps a few numbers per anchor; backward computes the tiles once more:

    forward     P_i = sum_pos exp( scale * cos_ij ),       N_i = sum_neg exp( scale * cos_ij - strength * s_ij )
                R_i = mean_neg exp( -strength * s_ij ),    lse_i = log( P_i + N_i / R_i )
    backward    d loss_i / d cos_ij = scale * ( exp( scale * cos_ij + log w_ij - lse_i ) - target_ij )

    similarity  exp( s_ij ) = alpha * exp( guide_ij ) + (1 - alpha) * exp( teacher_ij )

The weights' normaliser R is one number for all negatives of an anchor and has no part in its positives. So the sums
over positives and negatives are kept apart until the end, and one pass is enough. Filtering and distillation need
normalised numbers, which they find in a pass of their own first. A teacher and a guide are embeddings as well: their
cosines too come tile by tile, where somebody looks at them. Without a teacher the model is its own.
"""

from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import torch

from .loss_sacl import (
    check_comparable,
    filter_log_weights,
    find_positives,
    log_regulation_weights,
    mix_similarities,
)


# One matrix, or several that count as one below the other.
Parts = torch.Tensor | Sequence[torch.Tensor]

# A tile of 1,024 x 1,024 numbers fits into a processor's cache and is large enough for fast matrix products.
DEFAULT_BLOCK_SIZE = 1024


class _Options(NamedTuple):
    """All that is not a tensor."""

    strength: float
    # 0 where there is no guide, or nobody looks at it.
    guide_share: float
    filter_threshold: float | None
    distillation_weight: float
    block_size: int
    num_parts: int


class _Tile(NamedTuple):
    """Some anchors with some candidates. Whoever is given a tile may overwrite its three kinds of cosines."""

    rows: slice
    # The candidates are `columns` of this part.
    part: int
    columns: slice
    candidates: torch.Tensor
    # The model's cosines.
    cosines: torch.Tensor
    # The teacher's, from which targets are taken. Without a teacher it is the very tensor `cosines`.
    teacher: torch.Tensor
    # How alike two pairs are, from which weights are taken. Without a guide it is the very tensor `teacher`.
    similarity: torch.Tensor
    # `None` where the tile has no positive.
    positives: torch.Tensor | None


class _Statistics(NamedTuple):
    """What backward must know of forward, one number for each anchor; `None` where nothing needs it."""

    num_positives: torch.Tensor
    lse: torch.Tensor
    log_mean_weight: torch.Tensor | None
    teacher_lse: torch.Tensor | None
    teacher_mass: torch.Tensor


class _LogSumExp:
    """The log-sum-exp of rows whose scores come piece by piece."""

    def __init__(self, zeros: torch.Tensor):
        # Not -inf, from which a removed score of -inf could not be told.
        self.peak = torch.full_like(zeros, torch.finfo(zeros.dtype).min)
        self.total = torch.zeros_like(zeros)

    def add(self, rows: slice, scores: torch.Tensor) -> None:
        """Takes in a piece of these rows, and overwrites it."""
        peak = torch.maximum(self.peak[rows], scores.amax(dim=1))
        total = scores.sub_(peak[:, None]).exp_().sum(dim=1)
        self.total[rows] = total + self.total[rows] * (self.peak[rows] - peak).exp()
        self.peak[rows] = peak

    def result(self) -> torch.Tensor:
        """`-inf` for a row that had no scores."""
        return self.peak + self.total.log()


class _Direction:
    """One direction of the loss, cut into tiles, of which forward and backward see the same."""

    def __init__(
        self,
        options: _Options,
        logit_scale: torch.Tensor,
        pair_ids: torch.Tensor,
        candidate_pair_ids: torch.Tensor,
        *embeds: torch.Tensor,
    ):
        self.options = options
        self.scale = logit_scale.item()
        self.regulated, self.distilled = options.strength > 0, options.distillation_weight > 0
        self.filtered = self.regulated and options.filter_threshold is not None
        self.pair_ids, self.candidate_pair_ids = pair_ids, candidate_pair_ids
        # Anchors and the parts of the candidates: by the model, then by a teacher and by a guide, where there are.
        length = 1 + options.num_parts
        sources = [embeds[first : first + length] for first in range(0, len(embeds), length)]
        self.has_teacher = len(sources) > (2 if options.guide_share > 0 else 1)
        self.dtype = torch.float32
        for tensor in sources[0]:
            self.dtype = torch.promote_types(self.dtype, tensor.dtype)
        self.sources = [(anchors.to(self.dtype), parts) for anchors, *parts in sources]
        self.anchors, self.candidates = self.sources[0]

    def per_anchor(self) -> torch.Tensor:
        """A zero for each anchor."""
        return self.anchors.new_zeros(len(self.anchors))

    def tiles(self, with_logits: bool = True) -> Iterator[_Tile]:
        """All tiles, one after another, in the same memory: each is gone when the next one comes."""
        size, guide_share = self.options.block_size, self.options.guide_share
        height, width = min(size, len(self.anchors)), min(size, len(self.candidate_pair_ids))
        memory = self.anchors.new_empty(len(self.sources), height * width)
        # Without logits, the model's cosines are wanted only as the similarity.
        first_wanted = 0 if with_logits or (guide_share < 1 and not self.has_teacher) else 1
        first = 0
        for part, all_candidates in enumerate(self.candidates):
            for columns in _slices(len(all_candidates), size):
                candidates = [parts[part][columns].to(self.dtype) for _, parts in self.sources]
                ids = self.candidate_pair_ids[first : first + len(candidates[0])]
                first += len(ids)
                # Few tiles have a positive; the others are spared the masks.
                has_positive = torch.isin(self.pair_ids, ids).tolist()
                for rows in _slices(len(self.anchors), size):
                    shape = len(self.pair_ids[rows]), len(ids)
                    products = [numbers[: shape[0] * shape[1]].view(shape) for numbers in memory]
                    for index, (anchors, _) in enumerate(self.sources[first_wanted:], start=first_wanted):
                        # Autocast leaves products with `out=` alone, and products in place.
                        torch.mm(anchors[rows], candidates[index].T, out=products[index])
                    # Model, teacher, guide: without a guide the teacher is the last, and without both the model is.
                    cosines, teacher, similarity = products[0], products[int(self.has_teacher)], products[-1]
                    if 0 < guide_share < 1:
                        similarity.copy_(mix_similarities(similarity, teacher, guide_share))
                    positives = find_positives(self.pair_ids[rows], ids) if any(has_positive[rows]) else None
                    yield _Tile(rows, part, columns, candidates[0], cosines, teacher, similarity, positives)

    def weight_scores(self, tile: _Tile) -> torch.Tensor:
        """The negatives' `log w`, but for the normaliser; `-inf` at the positives."""
        scores = tile.similarity * -self.options.strength
        return scores if tile.positives is None else scores.masked_fill_(tile.positives, -torch.inf)

    def log_mean_weight(self, weights: _LogSumExp, num_positives: torch.Tensor) -> torch.Tensor:
        """The normaliser of the weights, the logarithm of their mean; 0 where there are no negatives."""
        num_negatives = len(self.candidate_pair_ids) - num_positives
        return (weights.result() - num_negatives.clamp(min=1).log()).masked_fill(num_negatives == 0, 0.0)

    def normalisers(self) -> tuple[torch.Tensor | None, torch.Tensor | None]:
        """The normalisers of the weights and of the teacher's distribution, in a pass that spares the logits."""
        weights, teacher = _LogSumExp(self.per_anchor()), _LogSumExp(self.per_anchor())
        num_positives = self.per_anchor()
        for tile in self.tiles(with_logits=False):
            if tile.positives is not None:
                num_positives[tile.rows] += tile.positives.sum(dim=1)
            if self.regulated:
                weights.add(tile.rows, self.weight_scores(tile))
            if self.distilled:
                teacher.add(tile.rows, tile.teacher.mul_(self.scale))
        return (
            self.log_mean_weight(weights, num_positives) if self.regulated else None,
            teacher.result() if self.distilled else None,
        )

    def weighted_logits(self, tile: _Tile, log_mean_weight: torch.Tensor | None) -> torch.Tensor:
        """
        The logits, plus `log w` at the negatives: without its normaliser where that is not known yet, and `-inf` for
        what is removed. Overwrites the cosines.
        """
        strength, threshold = self.options.strength, self.options.filter_threshold
        if not self.regulated:
            return tile.cosines.mul_(self.scale)
        if threshold is not None:
            assert log_mean_weight is not None
            log_weights = self.weight_scores(tile).sub_(log_mean_weight[tile.rows, None])
            log_weights = filter_log_weights(log_weights, threshold)
            if tile.positives is not None:
                log_weights.masked_fill_(tile.positives, 0.0)
            return tile.cosines.mul_(self.scale).add_(log_weights)

        logits = None if tile.positives is None else tile.cosines * self.scale
        if tile.similarity is tile.cosines:
            weighted = tile.cosines.mul_(self.scale - strength)
        else:
            weighted = tile.cosines.mul_(self.scale).sub_(tile.similarity, alpha=strength)
        if log_mean_weight is not None:
            weighted.sub_(log_mean_weight[tile.rows, None])
        if logits is None or tile.positives is None:
            return weighted
        return torch.where(tile.positives, logits, weighted)

    def teacher_targets(self, tile: _Tile, teacher_lse: torch.Tensor, weighted: torch.Tensor) -> torch.Tensor:
        """The teacher's distribution, without its mass on what is removed. Overwrites the teacher's cosines."""
        targets = tile.teacher.mul_(self.scale).sub_(teacher_lse[tile.rows, None]).exp_()
        return targets.masked_fill_(weighted == -torch.inf, 0.0) if self.filtered else targets

    def forward(self) -> tuple[torch.Tensor, _Statistics]:
        """The loss of each anchor, undefined for one without positive, and what backward must know."""
        log_mean_weight = teacher_lse = None
        if self.filtered or self.distilled:
            log_mean_weight, teacher_lse = self.normalisers()
        normalise_at_the_end = self.regulated and log_mean_weight is None
        positive, negative, weights = (_LogSumExp(self.per_anchor()) for _ in range(3))
        num_positives, positive_sum, teacher_sum, teacher_mass = (self.per_anchor() for _ in range(4))
        for tile in self.tiles():
            rows, positives = tile.rows, tile.positives
            if normalise_at_the_end:
                weights.add(rows, self.weight_scores(tile))
            weighted = self.weighted_logits(tile, log_mean_weight)
            if teacher_lse is not None:
                targets = self.teacher_targets(tile, teacher_lse, weighted)
                teacher_mass[rows] += targets.sum(dim=1)
                teacher_sum[rows] += torch.where(targets == 0, 0.0, targets * weighted).sum(dim=1)
            if positives is not None:
                num_positives[rows] += positives.sum(dim=1)
                positive_sum[rows] += torch.where(positives, weighted, 0.0).sum(dim=1)
                positive.add(rows, weighted.masked_fill(~positives, -torch.inf))
                weighted.masked_fill_(positives, -torch.inf)
            negative.add(rows, weighted)

        positive_lse, negative_lse = positive.result(), negative.result()
        if normalise_at_the_end:
            log_mean_weight = self.log_mean_weight(weights, num_positives)
            negative_lse = negative_lse - log_mean_weight
        lse = torch.logaddexp(positive_lse, negative_lse)
        # `lse - positive_sum / num_positives`, but in terms that are small where the loss is, and so stay precise.
        losses = torch.logaddexp(negative_lse - positive_lse, torch.zeros_like(lse))
        losses = losses + (positive_lse - positive_sum / num_positives)
        if self.distilled:
            losses = torch.lerp(losses, teacher_mass * lse - teacher_sum, self.options.distillation_weight)
        return losses, _Statistics(num_positives, lse, log_mean_weight, teacher_lse, teacher_mass)

    def gradient_by_logits(self, tile: _Tile, statistics: _Statistics) -> torch.Tensor:
        """What the model gives to each candidate, minus the target: the gradient of the anchors' own losses."""
        share, teacher_targets = self.options.distillation_weight, None
        gradient = self.weighted_logits(tile, statistics.log_mean_weight)
        if statistics.teacher_lse is not None:
            teacher_targets = self.teacher_targets(tile, statistics.teacher_lse, gradient)
        gradient.sub_(statistics.lse[tile.rows, None]).exp_()
        if teacher_targets is not None:
            target_mass = 1 - share + share * statistics.teacher_mass[tile.rows, None]
            gradient.mul_(target_mass).sub_(teacher_targets, alpha=share)
        if tile.positives is not None:
            target = (1 - share) / statistics.num_positives[tile.rows, None]
            gradient.sub_(torch.where(tile.positives, target, 0.0))
        return gradient

    def backward(
        self, statistics: _Statistics, row_weights: torch.Tensor, of_anchors: bool, of_parts: Sequence[bool]
    ) -> tuple[torch.Tensor | None, list[torch.Tensor | None]]:
        """The gradient of the weighted sum of losses, for a scale of 1, by the anchors and by the candidates."""
        by_anchors = torch.zeros_like(self.anchors) if of_anchors else None
        by_parts = [
            torch.zeros_like(part, dtype=self.dtype) if wanted else None
            for part, wanted in zip(self.candidates, of_parts, strict=True)
        ]
        weighted_anchors = row_weights[:, None] * self.anchors
        for tile in self.tiles():
            gradient, by_candidates = self.gradient_by_logits(tile, statistics), by_parts[tile.part]
            if by_anchors is not None:
                by_anchors[tile.rows].addmm_(gradient, tile.candidates)
            if by_candidates is not None:
                by_candidates[tile.columns].addmm_(gradient.T, weighted_anchors[tile.rows])
        return None if by_anchors is None else by_anchors.mul_(row_weights[:, None]), by_parts


def _slices(length: int, size: int) -> list[slice]:
    """Cuts `length` into pieces of `size`, and a last one of what is left."""
    return [slice(start, min(start + size, length)) for start in range(0, length, size)]


class _StreamedLoss(torch.autograd.Function):
    """The mean loss of a [`_Direction`]; differentiable once, by scale, anchors and candidates."""

    @staticmethod
    def forward(ctx: Any, options: _Options, *inputs: torch.Tensor) -> torch.Tensor:
        losses, statistics = _Direction(options, *inputs).forward()
        has_positive = statistics.num_positives > 0
        num_counted = has_positive.sum().clamp(min=1)
        ctx.options = options
        ctx.save_for_backward(*inputs, has_positive.to(losses.dtype) / num_counted, *statistics)
        # An anchor that is left out counts nothing, but garbage in its row must not pass unseen.
        left_out = torch.where(statistics.lse.isnan(), torch.nan, 0.0)
        return torch.where(has_positive, losses, left_out).sum() / num_counted

    @staticmethod
    def backward(ctx: Any, grad_output: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
        # `once_differentiable` would let a gradient penalty pass unseen, as a constant.
        if torch.is_grad_enabled():
            raise RuntimeError(
                "The streamed contrastive loss is differentiable once: with `create_graph=True`, take the plain loss "
                "of `loss_sacl`."
            )
        num_inputs, saved = len(ctx.needs_input_grad) - 1, ctx.saved_tensors
        inputs, (row_weights, *statistics) = saved[:num_inputs], saved[num_inputs:]
        _, of_scale, _, _, of_anchors, *of_parts = ctx.needs_input_grad
        of_parts = of_parts[: ctx.options.num_parts]
        direction = _Direction(ctx.options, *inputs)
        by_anchors, by_parts = direction.backward(
            _Statistics(*statistics), grad_output * row_weights, of_anchors or of_scale, of_parts
        )
        gradients: list[torch.Tensor | None] = [None] * num_inputs
        if of_scale:
            assert by_anchors is not None
            gradients[0] = (by_anchors * direction.anchors).sum().view_as(inputs[0])
        if of_anchors:
            assert by_anchors is not None
            gradients[3] = by_anchors.mul_(direction.scale)
        for index, by_part in enumerate(by_parts, start=4):
            gradients[index] = None if by_part is None else by_part.mul_(direction.scale)
        return None, *(
            None if gradient is None else gradient.to(tensor)
            for gradient, tensor in zip(gradients, inputs, strict=True)
        )


def _as_parts(embeds: Parts) -> tuple[torch.Tensor, ...]:
    return (embeds,) if isinstance(embeds, torch.Tensor) else tuple(embeds)


def _check_embeds(names: tuple[str, str], anchors: torch.Tensor, candidates: tuple[torch.Tensor, ...]) -> None:
    """Anchors and candidates are floating matrices that can be compared."""
    if not candidates:
        raise ValueError(f"`{names[1]}` must be a tensor or hold at least one, got none.")
    check_comparable(names, anchors, candidates)


def _as_source(
    kind: str, anchors: torch.Tensor | None, candidates: Parts | None, expected: list[int]
) -> list[torch.Tensor]:
    """Anchors and parts of the candidates by a teacher or a guide, without gradient; nothing where there is none."""
    names = f"{kind}_anchor_embeds", f"{kind}_candidate_embeds"
    if (anchors is None) != (candidates is None):
        raise ValueError(f"`{names[0]}` and `{names[1]}` go together: give both or none.")
    if anchors is None or candidates is None:
        return []
    parts = _as_parts(candidates)
    _check_embeds(names, anchors, parts)
    lengths = [len(tensor) for tensor in (anchors, *parts)]
    if lengths != expected:
        raise ValueError(
            f"The {kind} embeddings must be as many as anchors and candidates, in tensors of the same lengths: "
            f"expected {expected[0]} and {expected[1:]}, got {lengths[0]} and {lengths[1:]}."
        )
    return [tensor.detach() for tensor in (anchors, *parts)]


def streamed_contrastive_loss(
    anchor_embeds: torch.Tensor,
    candidate_embeds: Parts,
    logit_scale: torch.Tensor | float,
    *,
    pair_ids: torch.Tensor,
    candidate_pair_ids: torch.Tensor,
    strength: float = 0.0,
    similarity_anchor_embeds: torch.Tensor | None = None,
    similarity_candidate_embeds: Parts | None = None,
    guide_anchor_embeds: torch.Tensor | None = None,
    guide_candidate_embeds: Parts | None = None,
    guide_share: float = 0.0,
    filter_threshold: float | None = None,
    distillation_weight: float = 0.0,
    block_size: int = DEFAULT_BLOCK_SIZE,
) -> torch.Tensor:
    r"""
    One direction of the regulated contrastive loss, in memory that grows with anchors plus candidates instead of
    anchors times candidates:

        L_i = - sum_j  target_ij * log( w_ij f_ij / sum_k w_ik f_ik ),    f_ij = exp( logit_scale * cos_ij )

        w_ij = Norm( exp(s_ij) ** -strength ) at the negatives, 1 at the positives
        exp(s_ij) = alpha * exp(g_ij) + (1 - alpha) * exp(t_ij),    alpha = guide_share
        target_ij = (1 - a) * [j in P_i] / |P_i| + a * softmax_j( logit_scale * t_ij ),    a = distillation_weight

    where P_i are the candidates with the anchor's own pair id, t the cosines of a teacher's embeddings (or of the
    embeddings themselves) and g those of a guide's. The result is that of [`weighted_contrastive_loss`] for the same
    logits, positives, [`log_regulation_weights`] of [`mix_similarities`] and soft targets, and so are the gradients;
    only the order of summation differs. It costs one matrix product of anchors and candidates more, which backward
    computes anew, and as many more for a teacher or a guide.

    Args:
        anchor_embeds (`torch.Tensor` of shape `(num_anchors, dim)`):
            L2-normalised. Any floating dtype; half precision is computed in float32, autocast or not.
        candidate_embeds (`torch.Tensor` of shape `(num_candidates, dim)` or a sequence of such tensors):
            L2-normalised. Several tensors, such as the batch and a queue, count as one below the other, but are not
            copied into one, and those that need no gradient take no work for it.
        logit_scale (`torch.Tensor` with one element or `float`):
            The inverse of the temperature.
        pair_ids (`torch.Tensor` of shape `(num_anchors,)`, integer):
            Which pair each anchor belongs to.
        candidate_pair_ids (`torch.Tensor` of shape `(num_candidates,)`, integer):
            The same of the candidates, over all tensors. Anchors without a positive are left out of the mean.
        strength (`float`, *optional*, defaults to 0.0):
            How strongly similar negatives are spared; 1 is SACL's formula, 0 is InfoNCE and costs nothing.
        similarity_anchor_embeds (`torch.Tensor` of shape `(num_anchors, similarity_dim)`, *optional*):
            The teacher: embeddings, L2-normalised, whose cosines t are the similarity, or what a guide leaves of it,
            and the soft targets. Defaults to the anchors and candidates themselves. No gradient flows into t.
        similarity_candidate_embeds (as `candidate_embeds`, of width `similarity_dim`, *optional*):
            The same of the candidates, in tensors of the same lengths as theirs.
        guide_anchor_embeds (`torch.Tensor` of shape `(num_anchors, guide_dim)`, *optional*):
            The guide: embeddings, L2-normalised, whose cosines g have a share in the similarity, and none in the
            targets. No gradient flows into g.
        guide_candidate_embeds (as `candidate_embeds`, of width `guide_dim`, *optional*):
            The same of the candidates, in tensors of the same lengths as theirs.
        guide_share (`float`, *optional*, defaults to 0.0):
            The guide's share `alpha` in the similarity, in [0, 1]. At 1 the teacher's cosines are computed for soft
            targets only, at 0 the guide's not at all.
        filter_threshold (`float`, *optional*):
            In (0, 1): remove the negatives with a weight under the threshold and leave the others at weight 1, instead
            of regulating. Mass of the targets on what is removed is left out.
        distillation_weight (`float`, *optional*, defaults to 0.0):
            The share `a` of the teacher in the targets, in [0, 1], as in ALBEF. Needs similarity embeddings.
        block_size (`int`, *optional*, defaults to 1024):
            How many anchors and candidates are compared at a time: a handful of matrices of `block_size` x
            `block_size` is all that exists at once. It changes nothing but speed and memory; 1,024 suits a processor's
            cache, a GPU may want more.

    Returns:
        `torch.Tensor`, scalar: the mean over the anchors that have a positive; 0, with gradient 0, if none has.
        float32, or float64 if an embedding is. NaN in the input is NaN in the output. Differentiable once.

    Raises:
        ValueError: for shapes or dtypes that do not fit, a negative strength, a threshold outside of (0, 1), a
            distillation weight outside of [0, 1] or without similarity embeddings, a guide's share outside of [0, 1]
            or without its embeddings, or a block size under 1.

    Example:

    ```python
    >>> import torch
    >>> from torch.nn.functional import normalize
    >>> from modeling_sacl.streamed_loss_sacl import streamed_contrastive_loss

    >>> image_embeds = normalize(torch.randn(8, 256), dim=-1).requires_grad_()
    >>> text_embeds = normalize(torch.randn(8, 256), dim=-1).requires_grad_()
    >>> queue = normalize(torch.randn(100, 256), dim=-1)
    >>> loss = streamed_contrastive_loss(
    ...     image_embeds,
    ...     (text_embeds, queue),
    ...     logit_scale=1 / 0.07,
    ...     pair_ids=torch.arange(8),
    ...     candidate_pair_ids=torch.arange(108),
    ...     strength=1.0,
    ... )
    >>> loss.backward()
    ```

    Source: Jiang et al., ACL 2023 ([arXiv 2305.04474](https://huggingface.co/papers/2305.04474)), equations 6 to 9;
    the soft targets: Li et al., NeurIPS 2021 ([arXiv 2107.07651](https://huggingface.co/papers/2107.07651)), section
    3.3; tiles for InfoNCE: Cheng et al., 2024 ([arXiv 2410.17243](https://huggingface.co/papers/2410.17243)); the
    running sum: Milakov and Gimelshein, 2018 ([arXiv 1805.02867](https://huggingface.co/papers/1805.02867)).
    """
    candidates = _as_parts(candidate_embeds)
    _check_embeds(("anchor_embeds", "candidate_embeds"), anchor_embeds, candidates)
    lengths = [len(part) for part in candidates]
    for name, ids, length in (
        ("pair_ids", pair_ids, len(anchor_embeds)),
        ("candidate_pair_ids", candidate_pair_ids, sum(lengths)),
    ):
        if ids.shape != (length,) or ids.is_floating_point():
            raise ValueError(
                f"`{name}` must be an integer tensor with an id for each row of embeddings, shape ({length},), got "
                f"shape {tuple(ids.shape)} and dtype {ids.dtype}."
            )
    expected = [len(anchor_embeds), *lengths]
    teacher = _as_source("similarity", similarity_anchor_embeds, similarity_candidate_embeds, expected)
    guide = _as_source("guide", guide_anchor_embeds, guide_candidate_embeds, expected)
    # The plain loss knows what is allowed, and says so for an empty matrix too.
    nothing = torch.zeros(0, 0)
    log_regulation_weights(nothing, strength=strength)
    if filter_threshold is not None:
        filter_log_weights(nothing, filter_threshold)
    if not 0 <= distillation_weight <= 1:
        raise ValueError(f"`distillation_weight` is a share, in [0, 1], got {distillation_weight}.")
    if distillation_weight > 0 and not teacher:
        raise ValueError(
            f"`distillation_weight={distillation_weight}` takes a share of the targets from a teacher: give its "
            "embeddings as `similarity_anchor_embeds` and `similarity_candidate_embeds`."
        )
    if not 0 <= guide_share <= 1:
        raise ValueError(f"`guide_share` is a share, in [0, 1], got {guide_share}.")
    if guide_share > 0 and not guide:
        raise ValueError(
            f"`guide_share={guide_share}` takes a share of the similarity from a guide: give its embeddings as "
            "`guide_anchor_embeds` and `guide_candidate_embeds`."
        )
    if block_size < 1:
        raise ValueError(f"`block_size` must be at least 1, got {block_size}.")
    if not isinstance(logit_scale, torch.Tensor):
        logit_scale = torch.tensor(logit_scale, dtype=torch.float64)
    if logit_scale.numel() != 1:
        raise ValueError(f"`logit_scale` must be one number, got shape {tuple(logit_scale.shape)}.")

    # What nobody looks at is not worth a matrix product.
    if strength == 0:
        guide_share = 0.0
    if guide_share == 0:
        guide = []
    if distillation_weight == 0 and (strength == 0 or guide_share == 1):
        teacher = []
    options = _Options(strength, guide_share, filter_threshold, distillation_weight, block_size, len(candidates))
    return _StreamedLoss.apply(
        options, logit_scale, pair_ids, candidate_pair_ids, anchor_embeds, *candidates, *teacher, *guide
    )


def streamed_similarity_regulated_contrastive_loss(
    image_embeds: torch.Tensor,
    text_embeds: torch.Tensor,
    logit_scale: torch.Tensor | float,
    *,
    strength: float = 1.0,
    pair_ids: torch.Tensor | None = None,
    candidate_image_embeds: Parts | None = None,
    candidate_text_embeds: Parts | None = None,
    candidate_pair_ids: torch.Tensor | None = None,
    similarity_image_embeds: torch.Tensor | None = None,
    similarity_text_embeds: torch.Tensor | None = None,
    similarity_candidate_image_embeds: Parts | None = None,
    similarity_candidate_text_embeds: Parts | None = None,
    guide_image_embeds: torch.Tensor | None = None,
    guide_text_embeds: torch.Tensor | None = None,
    guide_candidate_image_embeds: Parts | None = None,
    guide_candidate_text_embeds: Parts | None = None,
    guide_share: float = 0.0,
    filter_threshold: float | None = None,
    distillation_weight: float = 0.0,
    block_size: int = DEFAULT_BLOCK_SIZE,
) -> torch.Tensor:
    r"""
    [`similarity_regulated_contrastive_loss`] in linear memory: the mean of the image-to-text and the text-to-image
    [`streamed_contrastive_loss`]. Where the plain function takes matrices of similarities and soft targets, this one
    takes the embeddings that they are the cosines of.

    Args:
        image_embeds (`torch.Tensor` of shape `(batch_size, dim)`):
            L2-normalised. Any floating dtype; half precision is computed in float32, autocast or not.
        text_embeds (`torch.Tensor` of shape `(batch_size, dim)`):
            L2-normalised; row i is the text of image i.
        logit_scale (`torch.Tensor` with one element or `float`):
            The inverse of the temperature.
        strength (`float`, *optional*, defaults to 1.0):
            How strongly similar negatives are spared; 1 is the paper's formula, 0 is InfoNCE.
        pair_ids (`torch.Tensor` of shape `(batch_size,)`, integer, *optional*):
            Rows with equal ids are positives of one another. Defaults to every row its own pair.
        candidate_image_embeds, candidate_text_embeds (`torch.Tensor` of shape `(num_candidates, dim)`, or a sequence \
of such tensors, *optional*):
            What the anchors are compared with, when that is more than the batch: `(batch, queue)`. Given together, and
            with `pair_ids` and `candidate_pair_ids`.
        candidate_pair_ids (`torch.Tensor` of shape `(num_candidates,)`, integer, *optional*):
            Pair ids of the candidates, over all tensors.
        similarity_image_embeds, similarity_text_embeds (`torch.Tensor` of shape `(batch_size, similarity_dim)`, \
*optional*):
            The teacher: embeddings, L2-normalised, whose cosines the weights come from, as far as a guide does not say
            them, and soft targets. Defaults to the embeddings themselves.
        similarity_candidate_image_embeds, similarity_candidate_text_embeds (as the candidates, *optional*):
            The same of the candidates, when these are more than the batch.
        guide_image_embeds, guide_text_embeds (`torch.Tensor` of shape `(batch_size, guide_dim)`, *optional*):
            The guide: embeddings, L2-normalised, whose cosines the weights come from in part or in whole.
        guide_candidate_image_embeds, guide_candidate_text_embeds (as the candidates, *optional*):
            The same of the candidates, when these are more than the batch.
        guide_share (`float`, *optional*, defaults to 0.0):
            The guide's share in the similarity, in [0, 1]: 1 is the guide alone, 0 the teacher alone.
        filter_threshold (`float`, *optional*):
            In (0, 1): remove the negatives with a weight under the threshold, instead of regulating.
        distillation_weight (`float`, *optional*, defaults to 0.0):
            The share of the softmax over the teacher's cosines in the targets, in [0, 1].
        block_size (`int`, *optional*, defaults to 1024):
            How many anchors and candidates are compared at a time.

    Returns:
        `torch.Tensor`, scalar.

    Raises:
        ValueError: as [`streamed_contrastive_loss`], and for an empty batch or candidates without pair ids.

    Example:

    ```python
    >>> import torch
    >>> from torch.nn.functional import normalize
    >>> from modeling_sacl.streamed_loss_sacl import streamed_similarity_regulated_contrastive_loss

    >>> image_embeds = normalize(torch.randn(4096, 64), dim=-1)
    >>> text_embeds = normalize(torch.randn(4096, 64), dim=-1)
    >>> loss = streamed_similarity_regulated_contrastive_loss(image_embeds, text_embeds, logit_scale=1 / 0.07)
    ```

    Source: Jiang et al., ACL 2023 ([arXiv 2305.04474](https://huggingface.co/papers/2305.04474)).
    """
    if image_embeds.shape != text_embeds.shape or image_embeds.dim() != 2 or len(image_embeds) == 0:
        raise ValueError(
            "`image_embeds` and `text_embeds` must have the same shape (batch_size, dim) with batch_size >= 1, got "
            f"{tuple(image_embeds.shape)} and {tuple(text_embeds.shape)}."
        )
    own = image_embeds, text_embeds
    similarity = similarity_image_embeds, similarity_text_embeds
    guide = guide_image_embeds, guide_text_embeds
    embeds: tuple[Parts | None, Parts | None] = (candidate_image_embeds, candidate_text_embeds)
    similar: tuple[Parts | None, Parts | None] = (similarity_candidate_image_embeds, similarity_candidate_text_embeds)
    guided: tuple[Parts | None, Parts | None] = (guide_candidate_image_embeds, guide_candidate_text_embeds)
    given = [candidate is not None for candidate in (*embeds, candidate_pair_ids)]
    if any(given) and (not all(given) or pair_ids is None):
        raise ValueError(
            "`candidate_image_embeds`, `candidate_text_embeds`, `candidate_pair_ids` and `pair_ids` go together: "
            "among candidates that are not the batch itself, the positives are found by their pair ids."
        )
    if pair_ids is None:
        pair_ids = torch.arange(len(image_embeds), device=image_embeds.device)
    if candidate_pair_ids is None:
        for kind, of_candidates in (("similarity", similar), ("guide", guided)):
            if of_candidates != (None, None):
                raise ValueError(
                    f"`{kind}_candidate_image_embeds` and `{kind}_candidate_text_embeds` describe candidates that are "
                    f"more than the batch: give these too, or leave the {kind} of the batch to speak for itself."
                )
        candidate_pair_ids = pair_ids
        embeds, similar, guided = own, similarity, guide
    for kind, of_all in (("similarity", (*similarity, *similar)), ("guide", (*guide, *guided))):
        if len({tensor is None for tensor in of_all}) > 1:
            raise ValueError(
                f"The {kind} is one of images and texts, of the batch and of all candidates: give "
                f"`{kind}_image_embeds` and `{kind}_text_embeds`, and with candidates "
                f"`{kind}_candidate_image_embeds` and `{kind}_candidate_text_embeds`, or none of them."
            )

    losses = []
    for anchor, candidate in ((0, 1), (1, 0)):
        candidate_embeds = embeds[candidate]
        assert candidate_embeds is not None
        losses.append(
            streamed_contrastive_loss(
                own[anchor],
                candidate_embeds,
                logit_scale,
                pair_ids=pair_ids,
                candidate_pair_ids=candidate_pair_ids,
                strength=strength,
                similarity_anchor_embeds=similarity[anchor],
                similarity_candidate_embeds=similar[candidate],
                guide_anchor_embeds=guide[anchor],
                guide_candidate_embeds=guided[candidate],
                guide_share=guide_share,
                filter_threshold=filter_threshold,
                distillation_weight=distillation_weight,
                block_size=block_size,
            )
        )
    return (losses[0] + losses[1]) / 2


__all__ = ["streamed_contrastive_loss", "streamed_similarity_regulated_contrastive_loss"]
