# Copyright 2026 The SACL for Hugging Face authors. Licensed under the Apache License, Version 2.0.
"""Re-ranking: what the embeddings found, put in order by the head that sees image and text together.

The two stages are ALBEF's (Li et al., "Align before Fuse", NeurIPS 2021, section 5,
[arXiv 2107.07651](https://huggingface.co/papers/2107.07651)). An image meets all its texts at once, those that it
found and those that found it: its keys and values in the fusion encoder are computed once, and copied for none.
"""

import operator
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import torch
from torch import nn
from transformers.utils import logging

from ..embedding import evaluation_mode, text_options
from .pair_embeddings import PairEmbeddings, batched, progress
from .ranking import NDCG_CUTOFF, Ranking, Relevance, directed_grades, grid_similarities, rank_discounts


logger = logging.get_logger(__name__)

# Images in the image tower at a time. In the shapes of ALBEF at 384 pixels each has 21 MB of keys and values.
_IMAGE_BATCH_SIZE = 8
# An image with fewer texts than this shares a pass with others, which costs copies of its keys and values.
_FEW_TEXTS = 8
# Scores nearer to one another than this are the same but for the rounding of their batches.
_SCORE_STEP = 2.0**-14


class Candidates(NamedTuple):
    """
    What the embeddings found for each query of one direction.

    Args:
        rows (`torch.LongTensor` of shape `(num_queries, k)`):
            The candidates of the highest cosines, best first.
        cosines (`torch.FloatTensor` of shape `(num_queries, k)`):
            Their cosines.
    """

    rows: torch.Tensor
    cosines: torch.Tensor


@torch.no_grad()
def find_candidates(queries: torch.Tensor, candidates: torch.Tensor, k: int, chunk_size: int = 1024) -> Candidates:
    r"""
    The first stage: the `k` best candidates of each query by cosine. Among equals the first in the data come first, so
    that the result does not depend on `chunk_size`.

    Args:
        queries (`torch.Tensor` of shape `(num_queries, dim)`):
            L2-normalised embeddings.
        candidates (`torch.Tensor` of shape `(num_candidates, dim)`):
            L2-normalised embeddings.
        k (`int`):
            How many; fewer if there are no more.
        chunk_size (`int`, *optional*, defaults to 1024):
            Side of the largest block of similarities held in memory.

    Returns:
        [`Candidates`]

    Raises:
        ValueError: if `k` is below 1.

    Example:

    ```python
    >>> images = torch.eye(3)
    >>> find_candidates(images[:1], images, k=2).rows
    tensor([[0, 1]])
    ```
    """
    if operator.index(k) < 1:
        raise ValueError(f"`k` must be at least 1, got {k}.")
    rows, cosines = [], []
    for query in queries.split(chunk_size):
        best = query.new_empty(len(query), 0, dtype=torch.float64)
        best_rows = torch.empty(len(query), 0, dtype=torch.long, device=query.device)
        for chunk_rows in torch.arange(len(candidates), device=query.device).split(chunk_size):
            best = torch.cat([best, grid_similarities(query, candidates[chunk_rows])], dim=1)
            best_rows = torch.cat([best_rows, chunk_rows.expand(len(query), -1)], dim=1)
            best, order = best.sort(dim=1, descending=True, stable=True)
            best, best_rows = best[:, :k], best_rows.gather(1, order)[:, :k]
        rows.append(best_rows)
        cosines.append((query[:, None].float() * candidates[best_rows].float()).sum(dim=-1))
    return Candidates(torch.cat(rows), torch.cat(cosines))


# ------------------------------------------------------------------------------------------------------ second stage


def match_pairs(
    model: nn.Module,
    images: Iterable[Any],
    texts: Sequence[str],
    candidates: Sequence[torch.Tensor],
    processor: Callable[..., Any],
    *,
    batch_size: int = 128,
    max_length: int | None = None,
    show_progress: bool = True,
) -> list[torch.Tensor]:
    r"""
    The second stage: how well images match texts, by the head that sees both.

    The texts go through the text tower once; their tokens stay on the model's device, 61 kB for a text of 20 tokens
    of 768 dimensions in float32. The images are read once, a few at a time. The model runs in evaluation mode without
    gradient; afterwards every module is back in the mode it was in.

    Args:
        model ([`SaclForImageTextRetrieval`], [`SaclForPreTraining`]):
            A model with `match`, perhaps with adapters.
        images (`Iterable`):
            PIL images, one after another.
        texts (`Sequence[str]`):
            The texts.
        candidates (`Sequence[torch.LongTensor]`):
            For each image, which of the texts to look at, by number; there may be none.
        processor ([`~transformers.ProcessorMixin`]):
            Called with `images=` and with `text=`.
        batch_size (`int`, *optional*, defaults to 128):
            Texts that meet images in one pass.
        max_length (`int`, *optional*):
            Longer texts are cut to so many tokens. By default what the processor, tokenizer or model allows.
        show_progress (`bool`, *optional*, defaults to `True`):
            Whether to show progress bars.

    Returns:
        `list[torch.FloatTensor]`: for each image the log-odds of "match" against "no match" for each of its
        candidates, in their order, on the CPU; `sigmoid` makes probabilities of them.

    Raises:
        TypeError: if the model has no matching head.
        ValueError: if `batch_size` is below 1, or images and candidates are not equally many.

    Example:

    ```python
    >>> (log_odds,) = match_pairs(model, [image], ["a red bus", "a cat"], [torch.tensor([0, 1])], processor)
    >>> probabilities = log_odds.sigmoid()
    ```
    """
    if operator.index(batch_size) < 1:
        raise ValueError(f"`batch_size` must be at least 1, got {batch_size}.")
    matcher = find_matching_model(model)
    scores: list[torch.Tensor] = []
    with evaluation_mode(model), torch.inference_mode():
        tokens = _encode_texts(matcher, processor, texts, candidates, batch_size, max_length, show_progress)
        image_iterator = progress(images, "Matching images with texts", show_progress, total=len(candidates))
        for batch in batched(image_iterator, _IMAGE_BATCH_SIZE):
            their_candidates = candidates[len(scores) : len(scores) + len(batch)]
            if len(their_candidates) != len(batch):
                raise ValueError(f"There are more images than `candidates`, of which there are {len(candidates)}.")
            scores += _match_images(matcher, processor, batch, their_candidates, tokens, batch_size)
    if len(scores) != len(candidates):
        raise ValueError(f"There are {len(scores)} images, but `candidates` for {len(candidates)}.")
    # Outside of inference mode: ordinary tensors.
    return [score.clone() for score in scores]


def find_matching_model(model: nn.Module) -> Any:
    """The model below adapters, which must have `match`."""
    get_base_model = getattr(model, "get_base_model", None)
    unwrapped = get_base_model() if callable(get_base_model) else model
    if not hasattr(unwrapped, "match"):
        raise TypeError(
            f"`{type(unwrapped).__name__}` has no matching head, so it cannot look twice at what its embeddings "
            "found: load the checkpoint as `SaclForImageTextRetrieval`."
        )
    return unwrapped


def _encode_texts(
    model: Any,
    processor: Callable[..., Any],
    texts: Sequence[str],
    candidates: Sequence[torch.Tensor],
    batch_size: int,
    max_length: int | None,
    show_progress: bool,
) -> dict[int, torch.Tensor]:
    """The tokens, without padding, of every text that some image is to look at."""
    needed = torch.cat([torch.as_tensor(rows).cpu() for rows in candidates]).unique().tolist() if candidates else []
    # Texts of one length together: next to no padding.
    needed.sort(key=lambda number: len(texts[number]))
    options = text_options(model, processor, max_length)
    tokens: dict[int, torch.Tensor] = {}
    for numbers in batched(progress(needed, "Reading texts", show_progress), batch_size):
        inputs = processor(text=[texts[number] for number in numbers], return_tensors="pt", **options)
        input_ids, mask = inputs["input_ids"].to(model.device), inputs["attention_mask"].to(model.device)
        states = model.sacl.get_text_features(input_ids, attention_mask=mask).last_hidden_state
        tokens.update({number: row[keep.bool()] for number, row, keep in zip(numbers, states, mask, strict=True)})
    return tokens


def _match_images(
    model: Any,
    processor: Callable[..., Any],
    images: list[Any],
    candidates: Sequence[torch.Tensor],
    tokens: Mapping[int, torch.Tensor],
    batch_size: int,
) -> list[torch.Tensor]:
    """The log-odds of a few images with their texts."""
    pixel_values = processor(images=images, return_tensors="pt")["pixel_values"]
    vision_outputs = model.sacl.get_image_features(pixel_values.to(model.device, model.dtype))
    key_values = model.sacl.project_images(vision_outputs)
    numbers = [torch.as_tensor(rows).tolist() for rows in candidates]
    scores = [torch.empty(len(rows)) for rows in numbers]
    for pairs in _passes([len(rows) for rows in numbers], batch_size):
        rows = [tokens[numbers[image][place]] for image, place in pairs]
        text_tokens = nn.utils.rnn.pad_sequence(rows, batch_first=True)
        mask = nn.utils.rnn.pad_sequence([row.new_ones(len(row), dtype=torch.long) for row in rows], batch_first=True)
        image_index = torch.tensor([image for image, _ in pairs], device=model.device)
        here = key_values
        if key_values is not None and pairs[0][0] == pairs[-1][0]:
            # One image: its keys and values serve all texts as they are.
            image, image_index = pairs[0][0], torch.zeros_like(image_index)
            here = tuple((key[image : image + 1], value[image : image + 1]) for key, value in key_values)
        logits = model.match(text_tokens, vision_outputs, mask, image_index, image_key_values=here).cpu()
        for (image, place), (no_match, match) in zip(pairs, logits, strict=True):
            scores[image][place] = match - no_match
    return scores


def _passes(counts: Sequence[int], batch_size: int) -> Iterator[list[tuple[int, int]]]:
    """Pairs of an image and the place of one of its texts; an image with many texts has passes of its own."""
    shared: list[tuple[int, int]] = []
    for image, count in enumerate(counts):
        pairs = [(image, place) for place in range(count)]
        if count < _FEW_TEXTS:
            shared += pairs
        else:
            yield from batched(pairs, batch_size)
    yield from batched(shared, batch_size)


# ------------------------------------------------------------------------------------------------------------ ranking


def rerank_pairs(
    model: nn.Module,
    images: Iterable[Any],
    embeddings: PairEmbeddings,
    processor: Callable[..., Any],
    first: Mapping[str, Ranking],
    *,
    top_k: int,
    relevance: Relevance | None = None,
    chunk_size: int = 1024,
    max_length: int | None = None,
    show_progress: bool = True,
) -> dict[str, dict[str, Ranking]]:
    r"""
    Both stages for both directions of a data set: each image meets each text once that it found or that found it.

    Args:
        model ([`SaclForImageTextRetrieval`], [`SaclForPreTraining`]):
            A model with a matching head.
        images (`Iterable`):
            The PIL images of `embeddings`, in their order.
        embeddings ([`PairEmbeddings`]):
            What [`embed_pairs`] made of the data set.
        processor ([`~transformers.ProcessorMixin`]):
            Called with `images=` and with `text=`.
        first (`dict` of [`Ranking`]):
            The ranking by cosine, for `"image_to_text"` and `"text_to_image"`.
        top_k (`int`):
            How many candidates of each query to look at.
        relevance ([`Relevance`], *optional*):
            Grades in `[0, 1]` by row numbers of the embeddings.
        chunk_size (`int`, *optional*, defaults to 1024):
            Side of the largest block of similarities held in memory.
        max_length (`int`, *optional*):
            Longer texts are cut to so many tokens.
        show_progress (`bool`, *optional*, defaults to `True`):
            Whether to show progress bars.

    Returns:
        `dict`: for the scores `"itm"` (log-odds of a match) and `"itm_itc"` (the same plus the cosine divided by the
        temperature) the rankings of both directions.
    """
    image_embeds, text_embeds = embeddings.image_embeds.cpu(), embeddings.text_embeds.cpu()
    image_ids, text_ids = embeddings.image_ids.cpu(), embeddings.text_ids.cpu()
    num_images, num_texts = len(image_ids), len(text_ids)
    found = {
        "image_to_text": find_candidates(image_embeds, text_embeds, top_k, chunk_size),
        "text_to_image": find_candidates(text_embeds, image_embeds, top_k, chunk_size),
    }
    # A pair by one number, by which its score is looked up again.
    pairs = {
        "image_to_text": torch.arange(num_images)[:, None] * num_texts + found["image_to_text"].rows,
        "text_to_image": found["text_to_image"].rows * num_texts + torch.arange(num_texts)[:, None],
    }
    distinct = torch.cat([numbers.flatten() for numbers in pairs.values()]).unique()
    counts = torch.bincount(distinct // num_texts, minlength=num_images).tolist()
    log_odds = torch.cat(
        match_pairs(
            model,
            images,
            embeddings.texts,
            (distinct % num_texts).split(counts),
            processor,
            max_length=max_length,
            show_progress=show_progress,
        )
    )
    logit_scale = find_matching_model(model).sacl.logit_scale.detach().float().exp().cpu()
    grades = directed_grades(relevance)
    reranked: dict[str, dict[str, Ranking]] = {"itm": {}, "itm_itc": {}}
    for direction, query_ids, candidate_ids in (
        ("image_to_text", image_ids, text_ids),
        ("text_to_image", text_ids, image_ids),
    ):
        candidates = found[direction]
        ranking = Ranking(*(values.cpu() for values in first[direction]))
        itm = log_odds[torch.searchsorted(distinct, pairs[direction])]
        for name, scores in (("itm", itm), ("itm_itc", itm + logit_scale * candidates.cosines)):
            reranked[name][direction] = rerank(
                ranking, candidates, scores, query_ids, candidate_ids, grades[direction]
            )
    return reranked


def rerank(
    first: Ranking,
    candidates: Candidates,
    scores: torch.Tensor,
    query_ids: torch.Tensor,
    candidate_ids: torch.Tensor,
    grades: Callable[[torch.Tensor, torch.Tensor], torch.Tensor] | None = None,
) -> Ranking:
    r"""
    The ranking after the second stage: the candidates in the order of their new scores, and behind them all others as
    they were. A tie counts against the model, as in the first stage.

    Args:
        first ([`Ranking`]):
            That of the first stage.
        candidates ([`Candidates`]):
            What the first stage found: ten for each query at least, or all there are.
        scores (`torch.Tensor` of shape `(num_queries, k)`):
            Their new scores, higher is better.
        query_ids (`torch.LongTensor` of shape `(num_queries,)`):
            The pair that each query belongs to.
        candidate_ids (`torch.LongTensor` of shape `(num_candidates,)`):
            The pair that each candidate belongs to.
        grades (`Callable`, *optional*):
            From query rows and candidate rows to grades in `[0, 1]`. By default 1 for equal ids.

    Returns:
        [`Ranking`]
    """
    scores = (scores.double() / _SCORE_STEP).round()
    match = query_ids[:, None] == candidate_ids[candidates.rows]
    best = scores.masked_fill(~match, -torch.inf).amax(dim=1, keepdim=True)
    ahead = ((scores >= best) & ~match).sum(dim=1)
    ranks = torch.where(match.any(dim=1), ahead + 1, first.ranks)

    grade = match.double()
    if grades is not None:
        queries = torch.arange(len(query_ids), device=query_ids.device)
        blocks = [grades(query[None], rows) for query, rows in zip(queries, candidates.rows, strict=True)]
        grade = torch.cat(blocks).double()
    # By score, the least relevant first among equals.
    order = grade.argsort(dim=1, stable=True)
    order = order.gather(1, scores.gather(1, order).argsort(dim=1, descending=True, stable=True))[:, :NDCG_CUTOFF]
    dcg = grade.gather(1, order) @ rank_discounts(grade.device)[: order.shape[1]]
    return Ranking(ranks, dcg, first.ideal_dcg)
