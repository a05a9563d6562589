# Copyright 2026 The SACL for Hugging Face authors. Licensed under the Apache License, Version 2.0.
"""The similarity-regulated contrastive loss: pure functions of tensors, no model, no state, no randomness.

Everything contrastive in this project is one formula, *cross-entropy with an additive log-weight*:

    loss_i = - sum_j  target_ij * log_softmax_j( logit_scale * cos_ij + log w_ij )

InfoNCE has `w = 1` and one-hot targets, SACL lowers `w` where a negative resembles the positive, filtering sets `w` to
0, several positives share a target row, and momentum distillation softens it. Two losses of others are not of this
form, and stand beside it: [`sigmoid_contrastive_loss`] and [`separate_positives_contrastive_loss`].

Source: Jiang et al., "Vision Language Pre-training by Contrastive Learning with Cross-Modal Similarity Regulation",
ACL 2023, [arXiv 2305.04474](https://huggingface.co/papers/2305.04474).
"""

import math

import torch
from torch import nn


def full_precision(tensor: torch.Tensor) -> torch.Tensor:
    """Half-precision tensors as float32; float32 and float64 as they are."""
    return tensor.float() if tensor.dtype in (torch.float16, torch.bfloat16) else tensor


def check_comparable(names: tuple[str, str], anchors: torch.Tensor, candidates: tuple[torch.Tensor, ...]) -> None:
    """Raises a ValueError unless anchors and all parts of the candidates are floating matrices of one width."""
    for name, embeds in ((names[0], anchors), *((names[1], part) for part in candidates)):
        if embeds.dim() != 2 or not embeds.is_floating_point():
            raise ValueError(
                f"`{name}` must be a floating tensor of shape (batch, dim), got shape {tuple(embeds.shape)} and dtype "
                f"{embeds.dtype}."
            )
        if embeds.shape[1] != anchors.shape[1]:
            raise ValueError(
                f"`{names[0]}` and `{names[1]}` must have the same width to be compared, got {anchors.shape[1]} and "
                f"{embeds.shape[1]}."
            )


def contrastive_logits(
    anchor_embeds: torch.Tensor, candidate_embeds: torch.Tensor, logit_scale: torch.Tensor | float = 1.0
) -> torch.Tensor:
    r"""
    Scaled cosines of every anchor with every candidate, never in half precision: at a temperature of 0.001 the spacing
    of bfloat16 numbers around the logits is 4, which is more than most differences that the loss has to see.

    Args:
        anchor_embeds (`torch.Tensor` of shape `(num_anchors, dim)`):
            L2-normalised embeddings, of any floating dtype.
        candidate_embeds (`torch.Tensor` of shape `(num_candidates, dim)`):
            L2-normalised embeddings of the other modality.
        logit_scale (`torch.Tensor` or `float`, *optional*, defaults to 1.0):
            The inverse of the temperature.

    Returns:
        `torch.Tensor` of shape `(num_anchors, num_candidates)`, float32 (float64 for float64 embeddings).

    Raises:
        ValueError: if the embeddings are not two floating matrices of the same width.
    """
    check_comparable(("anchor_embeds", "candidate_embeds"), anchor_embeds, (candidate_embeds,))
    with torch.autocast(anchor_embeds.device.type, enabled=False):
        return logit_scale * (full_precision(anchor_embeds) @ full_precision(candidate_embeds).T)


def mix_similarities(guide: torch.Tensor, model: torch.Tensor, alpha: float) -> torch.Tensor:
    r"""
    The similarity of a guide handed over to that of the model in training:

        exp(mixed_ij) = alpha * exp(guide_ij) + (1 - alpha) * exp(model_ij)

    so that the weights of [`regulation_weights`] are the paper's, `w_ij = Norm(mixed exp ** -strength)`.

    Args:
        guide (`torch.Tensor` of shape `(num_anchors, num_candidates)`): cosines by the guide.
        model (`torch.Tensor` of shape `(num_anchors, num_candidates)`): cosines by the model.
        alpha (`float`): the guide's share in [0, 1]: 1 is the guide alone, 0 the model alone.

    Returns:
        `torch.Tensor` of shape `(num_anchors, num_candidates)`, between the two; without gradient.

    Source: Jiang et al., ACL 2023, section 3.4.
    """
    if not 0 <= alpha <= 1:
        raise ValueError(f"`alpha` is the guide's share, from 0 to 1, got {alpha}.")
    guide, model = full_precision(guide.detach()), full_precision(model.detach())
    if alpha in (0, 1):
        return guide if alpha == 1 else model
    return torch.logaddexp(guide + math.log(alpha), model + math.log1p(-alpha))


def log_regulation_weights(
    similarity: torch.Tensor, *, strength: float = 1.0, negative_mask: torch.Tensor | None = None
) -> torch.Tensor:
    r"""
    The logarithm of [`regulation_weights`] at the negatives and 0 elsewhere: the bias that regulates the logits.

    Same arguments and errors as [`regulation_weights`]. Strength 0 gives exact zeros.
    """
    if similarity.dim() != 2 or not similarity.is_floating_point():
        raise ValueError(
            f"`similarity` must be a floating tensor of shape (anchors, candidates), got shape "
            f"{tuple(similarity.shape)} and dtype {similarity.dtype}."
        )
    if not (math.isfinite(strength) and strength >= 0):
        raise ValueError(f"`strength` must be a finite number >= 0 (0 switches the regulation off), got {strength}.")
    if negative_mask is None:
        negative_mask = ~torch.eye(*similarity.shape, dtype=torch.bool, device=similarity.device)
    elif negative_mask.shape != similarity.shape or negative_mask.dtype != torch.bool:
        raise ValueError(
            f"`negative_mask` must be a bool tensor of the similarity's shape {tuple(similarity.shape)} (True = "
            f"negative), got shape {tuple(negative_mask.shape)} and dtype {negative_mask.dtype}."
        )

    scores = -strength * full_precision(similarity.detach())
    if strength == 0:
        return torch.zeros_like(scores)
    scores = scores.masked_fill(~negative_mask, -torch.inf)
    num_negatives = negative_mask.sum(dim=-1, keepdim=True).to(scores.dtype)
    log_mean = scores.logsumexp(dim=-1, keepdim=True) - num_negatives.log()
    return (scores - log_mean).masked_fill(~negative_mask, 0.0)


def regulation_weights(
    similarity: torch.Tensor, *, strength: float = 1.0, negative_mask: torch.Tensor | None = None
) -> torch.Tensor:
    r"""
    How strongly each negative is pushed away from its anchor: the more similar, the less.

        w_ij = Norm( exp(cos_ij) ** -strength ),    Norm: the mean over the negatives of anchor i is 1

    These are the two conditions of the paper (section 3.3): the weights fall strictly with the similarity, and their
    mean over the negatives of each anchor is 1, so that regulation moves the push between the negatives without
    changing its amount. `strength=1` is the printed formula, `strength=0` is InfoNCE (all weights 1), large values
    approach the removal of every negative but the least similar. Weights carry no gradient.

    Args:
        similarity (`torch.Tensor` of shape `(num_anchors, num_candidates)`):
            Cosines in [-1, 1], of any floating dtype (half precision is computed in float32).
        strength (`float`, *optional*, defaults to 1.0):
            The exponent of the regulation, >= 0.
        negative_mask (`torch.Tensor` of shape `(num_anchors, num_candidates)`, bool, *optional*):
            `True` at the negatives. Defaults to everything but the diagonal.

    Returns:
        `torch.Tensor` of shape `(num_anchors, num_candidates)`: > 0 with mean 1 over the negatives of each row, 0
        elsewhere. A row without negatives is all 0.

    Raises:
        ValueError: for a similarity that is not a floating matrix, a negative or non-finite strength, or a mask of
            another shape or dtype.

    Example:

    ```python
    >>> import torch
    >>> from modeling_sacl import regulation_weights

    >>> cosines = torch.tensor([[0.9, 0.8, 0.1], [0.8, 0.9, 0.1], [0.1, 0.1, 0.9]])
    >>> regulation_weights(cosines, strength=2.0)[0].tolist()  # the near-duplicate counts a quarter of the other
    [0.0, 0.39563..., 1.60436...]
    ```
    """
    log_weights = log_regulation_weights(similarity, strength=strength, negative_mask=negative_mask)
    if negative_mask is None:
        negative_mask = ~torch.eye(*similarity.shape, dtype=torch.bool, device=similarity.device)
    return log_weights.exp().masked_fill(~negative_mask, 0.0)


def filter_log_weights(log_weights: torch.Tensor, threshold: float) -> torch.Tensor:
    r"""
    Removal instead of regulation ("ALBEF++" in section 4.3 of the paper): negatives whose weight is under `threshold`
    are dropped from the loss, the others count in full.

    Args:
        log_weights (`torch.Tensor` of shape `(num_anchors, num_candidates)`):
            What [`log_regulation_weights`] returns.
        threshold (`float`):
            In (0, 1). Since the weights of an anchor have mean 1, at least one negative always stays.

    Returns:
        `torch.Tensor` of shape `(num_anchors, num_candidates)`: `-inf` at the removed negatives, 0 elsewhere.
    """
    if not 0 < threshold < 1:
        raise ValueError(
            f"`filter_threshold` must be in (0, 1), the range of weights worth removing, got {threshold}."
        )
    # `0 * log_weights` keeps a NaN alive: a comparison alone would turn garbage into a kept negative.
    return torch.where(log_weights < math.log(threshold), -torch.inf, 0.0 * log_weights)


def find_positives(pair_ids: torch.Tensor, candidate_pair_ids: torch.Tensor | None = None) -> torch.Tensor:
    r"""
    The candidates that carry the anchor's own pair id.

    Args:
        pair_ids (`torch.Tensor` of shape `(num_anchors,)`, integer).
        candidate_pair_ids (`torch.Tensor` of shape `(num_candidates,)`, integer, *optional*, defaults to `pair_ids`).

    Returns:
        bool `torch.Tensor` of shape `(num_anchors, num_candidates)`.
    """
    candidate_pair_ids = pair_ids if candidate_pair_ids is None else candidate_pair_ids
    for name, ids in (("pair_ids", pair_ids), ("candidate_pair_ids", candidate_pair_ids)):
        if ids.dim() != 1 or ids.is_floating_point():
            raise ValueError(
                f"`{name}` must be an integer tensor of shape (batch,), got shape {tuple(ids.shape)} and dtype "
                f"{ids.dtype}."
            )
    return pair_ids[:, None] == candidate_pair_ids[None, :]


def weighted_contrastive_loss(
    logits: torch.Tensor,
    positive_mask: torch.Tensor,
    *,
    log_weights: torch.Tensor | None = None,
    soft_targets: torch.Tensor | None = None,
    denominator_mask: torch.Tensor | None = None,
) -> torch.Tensor:
    r"""
    Cross-entropy with an additive log-weight, one direction: the core of every contrastive objective here.

        loss_i = - sum_j target_ij * log_softmax_j( logits_ij + log w_ij ),    target_ij = 1 / |P_i| for j in P_i

    With one positive and no weights this is InfoNCE; with weights it is the paper's equation

        L_i = -log f_ii / ( f_ii + sum_{j != i} w_ij f_ij ),    f = exp(cos / temperature);

    several positives share the target evenly, as in the supervised contrastive loss.

    Args:
        logits (`torch.Tensor` of shape `(num_anchors, num_candidates)`):
            Scaled cosines.
        positive_mask (`torch.Tensor` of shape `(num_anchors, num_candidates)`, bool):
            The positives P of each anchor. Anchors without one are left out of the mean.
        log_weights (`torch.Tensor` of shape `(num_anchors, num_candidates)`, *optional*):
            Added to the logits: 0 at the positives, `log w` at the negatives, `-inf` removes a candidate.
        soft_targets (`torch.Tensor` of shape `(num_anchors, num_candidates)`, *optional*):
            Rows that sum to 1 and take the place of the even targets. Mass on removed candidates is left out.
        denominator_mask (`torch.Tensor` of shape `(num_anchors, num_candidates)`, bool, *optional*):
            The candidates over which the softmax normalises. Defaults to all. Anchors without one have loss 0.

    Returns:
        `torch.Tensor`, scalar: the mean over the anchors that have a positive; 0, with gradient 0, if none has. An
        anchor without negatives has loss 0. NaN in the input is NaN in the output, never hidden.
    """
    for name, tensor in (
        ("positive_mask", positive_mask),
        ("log_weights", log_weights),
        ("soft_targets", soft_targets),
        ("denominator_mask", denominator_mask),
    ):
        _check_shape(name, tensor, logits)
    logits = full_precision(logits)
    if log_weights is not None:
        logits = logits + log_weights.to(logits.dtype)
    num_positives = positive_mask.sum(dim=-1)
    if soft_targets is None:
        targets = positive_mask.to(logits.dtype) / num_positives.clamp(min=1)[:, None]
    else:
        targets = soft_targets.to(logits.dtype).masked_fill(logits == -torch.inf, 0.0)

    if denominator_mask is None:
        log_probabilities = nn.functional.log_softmax(logits, dim=-1)
    else:
        normalizers = logits.masked_fill(~denominator_mask, -torch.inf).logsumexp(dim=-1, keepdim=True)
        log_probabilities = logits - torch.where(denominator_mask.any(dim=-1, keepdim=True), normalizers, logits)
    losses = -torch.where(targets == 0, 0.0, targets * log_probabilities).sum(dim=-1)
    return _mean_over(num_positives > 0, losses, log_probabilities)


def sigmoid_contrastive_loss(logits: torch.Tensor, positive_mask: torch.Tensor) -> torch.Tensor:
    r"""
    Every anchor with every candidate as a question of its own, one direction: do these two belong together?

        loss_i = - sum_j log sigmoid( l_ij * logits_ij ),    l_ij = 1 for j in P_i, else -1

    Nothing is normalised over candidates, so this is no cross-entropy with weights, but a sum over entries.

    Args:
        logits (`torch.Tensor` of shape `(num_anchors, num_candidates)`):
            Scaled cosines plus a bias, without which the many negatives would drown the few positives at the start.
        positive_mask (`torch.Tensor` of shape `(num_anchors, num_candidates)`, bool):
            The positives P of each anchor; it may have any number, none included.

    Returns:
        `torch.Tensor`, scalar: the mean over the anchors of the sum over the candidates. NaN in the input is NaN in
        the output.

    Raises:
        ValueError: if mask and logits differ in shape.

    Source: Zhai et al., ICCV 2023 ([arXiv 2303.15343](https://huggingface.co/papers/2303.15343)).
    """
    _check_shape("positive_mask", positive_mask, logits)
    logits = full_precision(logits)
    return -nn.functional.logsigmoid(torch.where(positive_mask, logits, -logits)).sum() / max(len(logits), 1)


def separate_positives_contrastive_loss(logits: torch.Tensor, positive_mask: torch.Tensor) -> torch.Tensor:
    r"""
    Cross-entropy of each positive with the negatives alone, one direction: positives do not compete with one another.

        loss_i = - 1/|P_i| sum_{p in P_i} log( f_ip / ( f_ip + sum_{j not in P_i} f_ij ) ),    f = exp(logits)

    With one positive for each anchor this is [`weighted_contrastive_loss`] without weights.

    Args:
        logits (`torch.Tensor` of shape `(num_anchors, num_candidates)`):
            Scaled cosines.
        positive_mask (`torch.Tensor` of shape `(num_anchors, num_candidates)`, bool):
            The positives P of each anchor. Anchors without one are left out of the mean.

    Returns:
        `torch.Tensor`, scalar: the mean over the anchors that have a positive; 0, with gradient 0, if none has. An
        anchor without negatives has loss 0. NaN in the input is NaN in the output, never hidden.

    Raises:
        ValueError: if mask and logits differ in shape.

    Source: Gupta et al., ICLR 2024 ([arXiv 2310.10636](https://huggingface.co/papers/2310.10636)).
    """
    _check_shape("positive_mask", positive_mask, logits)
    logits = full_precision(logits)
    negatives = logits.masked_fill(positive_mask, -torch.inf).logsumexp(dim=-1, keepdim=True)
    losses = nn.functional.softplus(negatives - logits)
    num_positives = positive_mask.sum(dim=-1)
    means = torch.where(positive_mask, losses, 0.0).sum(dim=-1) / num_positives.clamp(min=1)
    return _mean_over(num_positives > 0, means, logits)


def _check_shape(name: str, tensor: torch.Tensor | None, logits: torch.Tensor) -> None:
    if tensor is not None and tensor.shape != logits.shape:
        raise ValueError(
            f"`{name}` must have the shape of the logits {tuple(logits.shape)}, got {tuple(tensor.shape)}."
        )


def _mean_over(counted: torch.Tensor, losses: torch.Tensor, seen: torch.Tensor) -> torch.Tensor:
    """The mean loss of the anchors that count. The others count nothing, but garbage in their rows is not hidden."""
    left_out = torch.where(seen.isnan().any(dim=-1), torch.nan, 0.0)
    return torch.where(counted, losses, left_out).sum() / counted.sum().clamp(min=1)


def similarity_regulated_contrastive_loss(
    image_embeds: torch.Tensor,
    text_embeds: torch.Tensor,
    logit_scale: torch.Tensor | float,
    *,
    strength: float = 1.0,
    similarity: torch.Tensor | tuple[torch.Tensor, torch.Tensor] | None = None,
    pair_ids: torch.Tensor | None = None,
    candidate_image_embeds: torch.Tensor | None = None,
    candidate_text_embeds: torch.Tensor | None = None,
    candidate_pair_ids: torch.Tensor | None = None,
    filter_threshold: float | None = None,
    soft_targets: tuple[torch.Tensor, torch.Tensor] | None = None,
) -> torch.Tensor:
    r"""
    The similarity-regulated contrastive loss (SACL, in the paper SRCL) of a batch of image-text pairs: InfoNCE in
    which each negative is weighted down by its similarity to the anchor, so that false and half-false negatives are
    not driven away. The mean of the image-to-text and the text-to-image loss, averaged over anchors.

    Args:
        image_embeds (`torch.Tensor` of shape `(batch_size, dim)`):
            L2-normalised. Any floating dtype; half precision is computed in float32, autocast or not.
        text_embeds (`torch.Tensor` of shape `(batch_size, dim)`):
            L2-normalised; row i is the text of image i.
        logit_scale (`torch.Tensor` or `float`):
            1 / temperature (for a CLIP-like model: `model.logit_scale.exp()`).
        strength (`float`, *optional*, defaults to 1.0):
            How strongly similar negatives are spared; 1 is the paper's formula, 0 is InfoNCE.
        similarity (`torch.Tensor` of shape `(batch_size, num_candidates)` or a tuple of two, *optional*):
            Where the weights come from: cosines of images with texts, e.g. of a guide model. A tuple holds
            image-to-text and text-to-image; a single square tensor is transposed for the second. Defaults to the
            embeddings' own detached cosines.
        pair_ids (`torch.Tensor` of shape `(batch_size,)`, integer, *optional*):
            Rows with equal ids are positives of one another. Defaults to every row its own pair.
        candidate_image_embeds, candidate_text_embeds (`torch.Tensor` of shape `(num_candidates, dim)`, *optional*):
            What the anchors are compared with, when that is more than the batch: the batch gathered over processes,
            then a queue. Given together, and with `pair_ids` and `candidate_pair_ids`, by which the positives (the
            batch's own pairs, and any repetition in the queue) are found.
        candidate_pair_ids (`torch.Tensor` of shape `(num_candidates,)`, integer, *optional*):
            Pair ids of the candidates.
        filter_threshold (`float`, *optional*):
            In (0, 1): remove the negatives with a weight under the threshold and leave the others at weight 1,
            instead of regulating.
        soft_targets (tuple of two `torch.Tensor` of shape `(batch_size, num_candidates)`, *optional*):
            Target distributions for image-to-text and text-to-image, e.g. ALBEF's momentum distillation.

    Returns:
        `torch.Tensor`, scalar. One pair alone, or a batch of positives only, has loss 0 up to the even split over
        several positives; NaN in the input is NaN in the output.

    Raises:
        ValueError: for shapes or dtypes that do not fit, an empty batch, a negative strength, a threshold outside of
            (0, 1), or candidates without pair ids.

    Example:

    ```python
    >>> import torch
    >>> from torch.nn.functional import normalize
    >>> from modeling_sacl import similarity_regulated_contrastive_loss

    >>> image_embeds = normalize(torch.randn(8, 256), dim=-1)
    >>> text_embeds = normalize(torch.randn(8, 256), dim=-1)
    >>> loss = similarity_regulated_contrastive_loss(image_embeds, text_embeds, logit_scale=1 / 0.07)
    ```

    Source: Jiang et al., ACL 2023, equations 6 to 9; the exponent, the filter and the pair ids are ours.
    """
    if image_embeds.shape != text_embeds.shape or image_embeds.dim() != 2 or len(image_embeds) == 0:
        raise ValueError(
            "`image_embeds` and `text_embeds` must have the same shape (batch_size, dim) with batch_size >= 1, got "
            f"{tuple(image_embeds.shape)} and {tuple(text_embeds.shape)}."
        )
    given = [
        candidate is not None for candidate in (candidate_image_embeds, candidate_text_embeds, candidate_pair_ids)
    ]
    if any(given) and (not all(given) or pair_ids is None):
        raise ValueError(
            "`candidate_image_embeds`, `candidate_text_embeds`, `candidate_pair_ids` and `pair_ids` go together: "
            "among candidates that are not the batch itself, the positives are found by their pair ids."
        )
    if pair_ids is None:
        pair_ids = torch.arange(len(image_embeds), device=image_embeds.device)
    elif pair_ids.shape != image_embeds.shape[:1]:
        raise ValueError(
            f"`pair_ids` must have one id per pair, shape ({len(image_embeds)},), got shape {tuple(pair_ids.shape)}."
        )
    candidate_image_embeds = image_embeds if candidate_image_embeds is None else candidate_image_embeds
    candidate_text_embeds = text_embeds if candidate_text_embeds is None else candidate_text_embeds

    positive_mask = find_positives(pair_ids, candidate_pair_ids)
    num_candidates = positive_mask.shape[1]
    if not len(candidate_image_embeds) == len(candidate_text_embeds) == num_candidates:
        raise ValueError(
            "`candidate_image_embeds`, `candidate_text_embeds` and `candidate_pair_ids` must have equal lengths, got "
            f"{len(candidate_image_embeds)}, {len(candidate_text_embeds)} and {num_candidates}."
        )
    for name, pair in (("similarity", similarity), ("soft_targets", soft_targets)):
        if isinstance(pair, tuple) and len(pair) != 2:
            raise ValueError(f"`{name}` must hold two tensors, image to text and text to image, got {len(pair)}.")
    similarities = similarity if isinstance(similarity, tuple) else (similarity, similarity)
    if isinstance(similarity, torch.Tensor):
        if similarity.shape[0] != similarity.shape[-1]:
            raise ValueError(
                f"A rectangular `similarity`, here {tuple(similarity.shape)}, cannot serve both directions: give a "
                "tuple (image to text, text to image)."
            )
        similarities = (similarity, similarity.T)
    for cosines in similarities:
        if cosines is not None and cosines.shape != positive_mask.shape:
            raise ValueError(
                f"`similarity` must have the shape (batch_size, num_candidates) = {tuple(positive_mask.shape)}, got "
                f"{tuple(cosines.shape)}."
            )
    targets = (None, None) if soft_targets is None else soft_targets

    directions = ((image_embeds, candidate_text_embeds), (text_embeds, candidate_image_embeds))
    losses = []
    for (anchors, candidates), cosines, soft_target in zip(directions, similarities, targets, strict=True):
        logits = contrastive_logits(anchors, candidates, logit_scale)
        if cosines is None:
            cosines = contrastive_logits(anchors.detach(), candidates.detach())
        log_weights = log_regulation_weights(cosines, strength=strength, negative_mask=~positive_mask)
        if filter_threshold is not None:
            log_weights = filter_log_weights(log_weights, filter_threshold)
        losses.append(
            weighted_contrastive_loss(logits, positive_mask, log_weights=log_weights, soft_targets=soft_target)
        )
    return (losses[0] + losses[1]) / 2


__all__ = [
    "check_comparable",
    "contrastive_logits",
    "filter_log_weights",
    "find_positives",
    "full_precision",
    "log_regulation_weights",
    "mix_similarities",
    "regulation_weights",
    "separate_positives_contrastive_loss",
    "sigmoid_contrastive_loss",
    "similarity_regulated_contrastive_loss",
    "weighted_contrastive_loss",
]
