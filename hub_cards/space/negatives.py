# Copyright 2026 The SACL for Hugging Face authors. Licensed under the Apache License, Version 2.0.
"""One anchor under the microscope: what the regulated loss makes of every negative of its batch."""

from typing import NamedTuple

import torch

from modeling_sacl import regulation_weights
from modeling_sacl.loss_sacl import find_positives


class WeighedNegative(NamedTuple):
    """
    A negative of the anchor.

    Args:
        position (`int`):
            Its place in the batch.
        similarity (`float`):
            Its cosine with the anchor.
        weight (`float`):
            How strongly the loss pushes it away: 1 as InfoNCE does, less if it is spared, more if it makes up for
            those.
    """

    position: int
    similarity: float
    weight: float


class NegativesOfAnchor(NamedTuple):
    """
    The batch as one anchor sees it.

    Args:
        own_similarity (`float`):
            The cosine of the anchor with its own pair.
        positives (`list[int]`):
            Places in the batch of further pairs with the anchor's pair id, which are no negatives.
        negatives (`list` of [`WeighedNegative`]):
            All others, least weight first: the likeliest false negatives.
    """

    own_similarity: float
    positives: list[int]
    negatives: list[WeighedNegative]


def explain_negatives(
    image_embeds: torch.Tensor,
    text_embeds: torch.Tensor,
    anchor: int = 0,
    *,
    strength: float = 1.0,
    pair_ids: torch.Tensor | None = None,
) -> dict[str, NegativesOfAnchor]:
    r"""
    The weight of every negative of one anchor, in both directions, as in appendix F of the paper: the negatives with
    the least weight are those that resemble the anchor's positive, and so the ones that may be false.

    Args:
        image_embeds (`torch.Tensor` of shape `(batch_size, dim)`):
            L2-normalised embeddings of the images of a batch.
        text_embeds (`torch.Tensor` of shape `(batch_size, dim)`):
            L2-normalised embeddings of its texts; row i is the text of image i.
        anchor (`int`, *optional*, defaults to 0):
            Which pair of the batch is the anchor.
        strength (`float`, *optional*, defaults to 1.0):
            The strength of the regulation, at least 0, as in [`regulation_weights`].
        pair_ids (`torch.Tensor` of shape `(batch_size,)`, integer, *optional*):
            Rows with equal ids are positives of one another. By default every row is a pair of its own.

    Returns:
        `dict` with a [`NegativesOfAnchor`] for `"image_to_text"`, where the anchor's image meets the texts of the
        batch, and for `"text_to_image"`, where its text meets the images.

    Raises:
        `ValueError`: if the shapes do not fit, the anchor is not in the batch, or the strength is below 0.

    Example:

    ```python
    >>> import torch
    >>> from hub_cards.space import explain_negatives

    >>> images = torch.nn.functional.normalize(torch.tensor([[1.0, 0.0], [0.9, 0.1], [0.0, 1.0]]), dim=-1)
    >>> seen = explain_negatives(images, images, anchor=0)["image_to_text"]
    >>> [negative.position for negative in seen.negatives]  # the one that looks like the anchor is spared
    [1, 2]
    ```

    Source: Jiang et al., "Vision Language Pre-training by Contrastive Learning with Cross-Modal Similarity
    Regulation", ACL 2023, section 3.3 and appendix F ([arXiv 2305.04474](https://huggingface.co/papers/2305.04474)).
    """
    if image_embeds.ndim != 2 or image_embeds.shape != text_embeds.shape:
        raise ValueError(
            "`image_embeds` and `text_embeds` must have the same shape (batch_size, dim), got "
            f"{tuple(image_embeds.shape)} and {tuple(text_embeds.shape)}."
        )
    if not 0 <= anchor < len(image_embeds):
        raise ValueError(f"`anchor` must be a row of the batch, 0 to {len(image_embeds) - 1}, got {anchor}.")
    if pair_ids is None:
        pair_ids = torch.arange(len(image_embeds))
    elif pair_ids.shape != image_embeds.shape[:1]:
        raise ValueError(
            f"`pair_ids` must have one id per pair, shape ({len(image_embeds)},), got shape {tuple(pair_ids.shape)}."
        )
    is_negative = ~find_positives(pair_ids[anchor : anchor + 1], pair_ids).to(image_embeds.device)
    return {
        direction: _weigh(queries[anchor : anchor + 1] @ candidates.T, is_negative, anchor, strength)
        for direction, queries, candidates in (
            ("image_to_text", image_embeds, text_embeds),
            ("text_to_image", text_embeds, image_embeds),
        )
    }


def _weigh(similarity: torch.Tensor, is_negative: torch.Tensor, anchor: int, strength: float) -> NegativesOfAnchor:
    """The one row of similarities of the anchor with the batch, read as the loss reads it."""
    weights = regulation_weights(similarity, strength=strength, negative_mask=is_negative)[0]
    cosines, (negative_here,) = similarity[0].tolist(), is_negative.tolist()
    negatives = [
        WeighedNegative(position, cosines[position], weight)
        for position, weight in enumerate(weights.tolist())
        if negative_here[position]
    ]
    # Of equal weights, which strength 0 makes of all, the most similar first.
    negatives.sort(key=lambda negative: (negative.weight, -negative.similarity))
    positives = [place for place, is_one in enumerate(negative_here) if not is_one and place != anchor]
    return NegativesOfAnchor(cosines[anchor], positives, negatives)
