# Copyright 2026 The SACL for Hugging Face authors. Licensed under the Apache License, Version 2.0.
"""Image-text retrieval metrics from embeddings, of any model, in bounded memory.

Protocol: the one of COCO and Flickr30k since Karpathy & Fei-Fei, "Deep Visual-Semantic Alignments for Generating Image
Descriptions", CVPR 2015, [arXiv 1412.2306](https://huggingface.co/papers/1412.2306): every image queries all texts,
every text queries all images, and a query is a hit at k if any of its matching items is among the first k. Graded
relevance: Järvelin & Kekäläinen, "Cumulated Gain-Based Evaluation of IR Techniques", ACM TOIS 20(4), 2002.

Ties never flatter. Similarities are computed in float64 and rounded to a grid, so that what is equal but for rounding
noise is equal whatever the chunk size, device or BLAS; among equal similarities the worst order counts.
"""

import math
import operator
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple, Protocol

import torch
from transformers.utils import logging


logger = logging.get_logger(__name__)

NDCG_CUTOFF = 10
_INTEGERS = (torch.int64, torch.int32, torch.int16, torch.int8, torch.uint8)


class Relevance(Protocol):
    """
    How relevant texts are to images: any callable with this signature, a function or an object with `__call__`.

    Args:
        image_rows (`torch.LongTensor` of shape `(num_images,)`):
            Which images are asked for.
        text_rows (`torch.LongTensor` of shape `(num_texts,)`):
            Which texts are asked for.

    Returns:
        `torch.Tensor` of shape `(num_images, num_texts)`: grades in `[0, 1]`, one for every image with every text.
        They are asked for one block at a time; the same pair must always get the same grade.

    Example:

    ```python
    >>> def same_brand(image_rows, text_rows):
    ...     return (brand[image_rows, None] == brand[None, text_rows]).float()
    ```
    """

    def __call__(self, image_rows: torch.Tensor, text_rows: torch.Tensor, /) -> torch.Tensor: ...


@torch.no_grad()
def compute_retrieval_metrics(
    image_embeds: torch.Tensor,
    text_embeds: torch.Tensor,
    image_ids: torch.Tensor,
    text_ids: torch.Tensor,
    *,
    relevance: Relevance | None = None,
    ks: Sequence[int] = (1, 5, 10),
    chunk_size: int = 1024,
) -> dict[str, float]:
    r"""
    Ranks all texts for every image and all images for every text by cosine, and says where the matching items stand.

    An image and a text match if and only if their ids are equal, so an image may have several captions and a caption
    several images.

    - `recall@k`: percent of the queries with at least one matching item among the first `k`.
    - `median_rank`, `mean_rank`: of the best-ranked matching item, 1 being best. `rank = 1 + number of non-matching
      items whose similarity is equal to or higher than the best matching item's`: a tie counts against the model, so
      that embeddings which are all the same score no better than they deserve.
    - `ndcg@10`: `100 * DCG / IDCG`, with `DCG = sum_{i=1..10} grade_i / log2(i + 1)` over the ranking and `IDCG` the
      same over the ten highest grades of all candidates. Items of equal similarity are taken in the order of rising
      grade, the worst there is. The grade is 1 for a matching item and 0 for others, or what `relevance` says.

    Queries without a matching item have no rank: they are left out of recall and ranks, a warning is logged, and their
    number is returned as `{direction}_queries_without_match` (absent when it is zero). Queries for which every
    candidate has grade 0 are left out of nDCG.

    At no time do more than `chunk_size * chunk_size` similarities exist. The result does not depend on `chunk_size`.

    Args:
        image_embeds (`torch.Tensor` of shape `(num_images, dim)`):
            L2-normalised image embeddings of any floating dtype (rows of zeros are tolerated: they tie with all).
        text_embeds (`torch.Tensor` of shape `(num_texts, dim)`):
            L2-normalised text embeddings.
        image_ids (`torch.LongTensor` of shape `(num_images,)`):
            The pair that each image belongs to.
        text_ids (`torch.LongTensor` of shape `(num_texts,)`):
            The pair that each text belongs to.
        relevance ([`Relevance`], *optional*):
            Grades in `[0, 1]` for nDCG, called with the row numbers of images and texts in the embeddings. Recall and
            ranks are by ids in any case.
        ks (`Sequence[int]`, *optional*, defaults to `(1, 5, 10)`):
            Cut-offs of recall, at least 1.
        chunk_size (`int`, *optional*, defaults to 1024):
            Side of the largest block of similarities held in memory.

    Returns:
        `dict[str, float]`: for both directions `image_to_text_recall@{k}`, `image_to_text_ndcg@10`,
        `image_to_text_median_rank`, `image_to_text_mean_rank` and the same with `text_to_image_`; `mean_recall` is the
        mean of all recalls. Recall and nDCG are percentages in `[0, 100]`.

    Raises:
        `ValueError`: if a side is empty, a shape is wrong, an embedding is not finite or not normalised, no image
        matches any text, or a grade is outside `[0, 1]`.

    Example:

    ```python
    >>> image_embeds = torch.eye(3)
    >>> text_embeds = image_embeds[[0, 0, 1, 2]]  # two captions for the first image
    >>> metrics = compute_retrieval_metrics(
    ...     image_embeds, text_embeds, image_ids=torch.tensor([7, 8, 9]), text_ids=torch.tensor([7, 7, 8, 9])
    ... )
    >>> metrics["image_to_text_recall@1"], metrics["text_to_image_mean_rank"]
    (100.0, 1.0)
    ```
    """
    ks = check_cutoffs(ks)
    return summarize_rankings(
        rank_pairs(image_embeds, text_embeds, image_ids, text_ids, relevance=relevance, chunk_size=chunk_size), ks
    )


class Ranking(NamedTuple):
    """
    Where the queries of one direction find what they look for.

    Args:
        ranks (`torch.LongTensor` of shape `(num_queries,)`):
            Of the best matching item, counted from 1; 0 where there is none.
        dcg (`torch.DoubleTensor` of shape `(num_queries,)`):
            Discounted cumulative gain of the first ten.
        ideal_dcg (`torch.DoubleTensor` of shape `(num_queries,)`):
            That of the best order there is; 0 where nothing is relevant.
    """

    ranks: torch.Tensor
    dcg: torch.Tensor
    ideal_dcg: torch.Tensor


def rank_pairs(
    image_embeds: torch.Tensor,
    text_embeds: torch.Tensor,
    image_ids: torch.Tensor,
    text_ids: torch.Tensor,
    *,
    relevance: Relevance | None = None,
    chunk_size: int = 1024,
) -> dict[str, Ranking]:
    """The rankings of both directions; the arguments are those of [`compute_retrieval_metrics`]."""
    image_ids, text_ids = _check_ids(image_ids, text_ids)
    _check_embeddings("image", image_embeds, image_ids)
    _check_embeddings("text", text_embeds, text_ids)
    if image_embeds.shape[1] != text_embeds.shape[1]:
        raise ValueError(
            f"`image_embeds` have {image_embeds.shape[1]} dimensions and `text_embeds` {text_embeds.shape[1]}: "
            "pass embeddings of one shared space."
        )
    if operator.index(chunk_size) < 1:
        raise ValueError(f"`chunk_size` must be at least 1, got {chunk_size}.")

    # MPS has no float64; everything else computes where the images are.
    device = torch.device("cpu") if image_embeds.device.type == "mps" else image_embeds.device
    images, texts = image_embeds.to(device), text_embeds.to(device)
    image_ids, text_ids = image_ids.to(device), text_ids.to(device)

    grades = directed_grades(relevance)
    return {
        "image_to_text": _rank(images, texts, image_ids, text_ids, grades["image_to_text"], chunk_size),
        "text_to_image": _rank(texts, images, text_ids, image_ids, grades["text_to_image"], chunk_size),
    }


def summarize_rankings(rankings: Mapping[str, Ranking], ks: Sequence[int]) -> dict[str, float]:
    """The metrics of [`compute_retrieval_metrics`] from the rankings of both directions."""
    metrics: dict[str, float] = {}
    without_match: dict[str, int] = {}
    for direction, (ranks, dcg, ideal_dcg) in rankings.items():
        matched, graded = ranks > 0, ideal_dcg > 0
        if not matched.all():
            without_match[direction] = int((~matched).sum())
        if not graded.any():
            raise ValueError("`relevance` gave grade 0 to every image with every text: nDCG has no meaning then.")
        ranks = ranks[matched]
        for k in ks:
            metrics[f"{direction}_recall@{k}"] = 100.0 * (ranks <= k).double().mean().item()
        metrics[f"{direction}_ndcg@{NDCG_CUTOFF}"] = 100.0 * (dcg[graded] / ideal_dcg[graded]).mean().item()
        metrics[f"{direction}_median_rank"] = _median(ranks)
        metrics[f"{direction}_mean_rank"] = ranks.double().mean().item()
    _add_mean_recall(metrics)

    if without_match:
        counts = " and ".join(f"{count} {direction} queries" for direction, count in without_match.items())
        logger.warning(f"{counts} have no matching item and are left out of recall and ranks.")
        metrics.update({f"{direction}_queries_without_match": float(n) for direction, n in without_match.items()})
    return metrics


def chance_retrieval_metrics(
    image_ids: torch.Tensor, text_ids: torch.Tensor, *, ks: Sequence[int] = (1, 5, 10)
) -> dict[str, float]:
    r"""
    What a random ranking scores on average, exactly: the baseline for [`compute_retrieval_metrics`].

    For a query with `r` matching items among `N` candidates, the probability of a hit at k is `1 - C(N-r, k) / C(N,
    k)`, and the expected rank of the best matching item is `(N + 1) / (r + 1)`. Both are averaged over the queries
    that have a matching item.

    Args:
        image_ids (`torch.LongTensor` of shape `(num_images,)`):
            The pair that each image belongs to.
        text_ids (`torch.LongTensor` of shape `(num_texts,)`):
            The pair that each text belongs to.
        ks (`Sequence[int]`, *optional*, defaults to `(1, 5, 10)`):
            Cut-offs of recall, at least 1.

    Returns:
        `dict[str, float]`: `{direction}_recall@{k}` in percent and `{direction}_mean_rank`, for `image_to_text` and
        `text_to_image`, and `mean_recall`.

    Raises:
        `ValueError`: if a side is empty, ids are not vectors of integers, or no image matches any text.

    Example:

    ```python
    >>> ids = torch.arange(1000)
    >>> chance_retrieval_metrics(ids, ids)["image_to_text_recall@5"]
    0.5
    ```
    """
    image_ids, text_ids = _check_ids(image_ids, text_ids)
    ks = check_cutoffs(ks)
    metrics: dict[str, float] = {}
    for direction, query_ids, candidate_ids in (
        ("image_to_text", image_ids, text_ids),
        ("text_to_image", text_ids, image_ids),
    ):
        total = len(candidate_ids)
        # How many queries have one, two, ... matching items.
        matches, queries = _match_counts(query_ids, candidate_ids).unique(return_counts=True)
        weights = [(r, n) for r, n in zip(matches.tolist(), queries.tolist(), strict=True) if r > 0]
        num_queries = sum(n for _, n in weights)
        for k in ks:
            rankings = math.comb(total, min(k, total))
            misses = sum(n * math.comb(total - r, min(k, total)) for r, n in weights)
            # Whole numbers until the last division: exact however large they are.
            metrics[f"{direction}_recall@{k}"] = 100 * (rankings * num_queries - misses) / (rankings * num_queries)
        metrics[f"{direction}_mean_rank"] = sum(n * (total + 1) / (r + 1) for r, n in weights) / num_queries
    _add_mean_recall(metrics)
    return metrics


def _rank(
    queries: torch.Tensor,
    candidates: torch.Tensor,
    query_ids: torch.Tensor,
    candidate_ids: torch.Tensor,
    grades: Callable[[torch.Tensor, torch.Tensor], torch.Tensor] | None,
    chunk_size: int,
) -> Ranking:
    """
    Two passes over the candidates: the first finds the similarity of the best matching item, the second counts what is
    ahead of it and keeps the ten best items. Blocks without a match are skipped in the first pass, which in a data set
    in its natural order is nearly all of them.
    """
    device = queries.device
    discounts = rank_discounts(device)
    candidate_chunks = torch.arange(len(candidates), device=device).split(chunk_size)
    match_counts = _match_counts(query_ids, candidate_ids)
    all_ranks, all_dcg, all_ideal = [], [], []

    for query_rows in torch.arange(len(queries), device=device).split(chunk_size):

        def similarities(candidate_rows: torch.Tensor, query_rows: torch.Tensor = query_rows) -> torch.Tensor:
            return grid_similarities(queries[query_rows], candidates[candidate_rows])

        def matches(candidate_rows: torch.Tensor, query_rows: torch.Tensor = query_rows) -> torch.Tensor:
            return query_ids[query_rows, None] == candidate_ids[None, candidate_rows]

        best = torch.full((len(query_rows),), -math.inf, dtype=torch.float64, device=device)
        for candidate_rows in candidate_chunks:
            match = matches(candidate_rows)
            if match.any():
                best = torch.maximum(best, similarities(candidate_rows).masked_fill_(~match, -math.inf).amax(dim=1))

        ahead = torch.zeros(len(query_rows), dtype=torch.long, device=device)
        top_keys = top_grades = ideal = best.new_empty(len(query_rows), 0)
        for candidate_rows in candidate_chunks:
            match, similarity = matches(candidate_rows), similarities(candidate_rows)
            ahead += ((similarity >= best[:, None]) & ~match).sum(dim=1)
            if grades is None:
                grade = match.double()
            else:
                grade = grades(query_rows, candidate_rows).to(device, torch.float64)
                ideal = torch.cat([ideal, grade.topk(min(NDCG_CUTOFF, grade.shape[1])).values], dim=1)
                ideal = ideal.topk(min(NDCG_CUTOFF, ideal.shape[1])).values
            # Similarities are a whole step apart and grades move them by at most half a step: the order is that of
            # the similarity, and among equals the least relevant comes first.
            keys, columns = similarity.sub_(grade, alpha=0.5).topk(min(NDCG_CUTOFF, similarity.shape[1]))
            top_keys = torch.cat([top_keys, keys], dim=1)
            top_grades = torch.cat([top_grades, grade.gather(1, columns)], dim=1)
            top_keys, columns = top_keys.topk(min(NDCG_CUTOFF, top_keys.shape[1]))
            top_grades = top_grades.gather(1, columns)
            del similarity  # before the next block is computed: one at a time

        if grades is None:
            # Binary relevance: the ideal ranking starts with the matching items, as many as there are.
            places = torch.arange(top_grades.shape[1], device=device)
            ideal = (places < match_counts[query_rows, None]).double()
        discount = discounts[: top_grades.shape[1]]
        all_dcg.append(top_grades @ discount)
        all_ideal.append(ideal @ discount)
        all_ranks.append((ahead + 1).masked_fill(match_counts[query_rows] == 0, 0))
    return Ranking(torch.cat(all_ranks), torch.cat(all_dcg), torch.cat(all_ideal))


def grid_similarities(queries: torch.Tensor, candidates: torch.Tensor) -> torch.Tensor:
    """Cosines as whole numbers: in steps of the resolution of the inputs near 1. Float32 noise is not information."""
    return (queries.double() @ candidates.double().T).mul_(grid_steps(queries, candidates)).round_()


def grid_steps(queries: torch.Tensor, candidates: torch.Tensor) -> float:
    return 2.0 ** (36 if torch.float64 in (queries.dtype, candidates.dtype) else 24)


def rank_discounts(device: torch.device) -> torch.Tensor:
    """What a grade counts at each of the first ranks."""
    return torch.arange(2, NDCG_CUTOFF + 2, dtype=torch.float64, device=device).log2().reciprocal()


def directed_grades(
    relevance: Relevance | None,
) -> dict[str, Callable[[torch.Tensor, torch.Tensor], torch.Tensor] | None]:
    """For each direction, the grades of queries and candidates by their row numbers."""
    if relevance is None:
        return {"image_to_text": None, "text_to_image": None}
    checked = _checked(relevance)
    return {"image_to_text": checked, "text_to_image": lambda texts, images: checked(images, texts).T}


def _checked(relevance: Relevance) -> Relevance:
    def checked(image_rows: torch.Tensor, text_rows: torch.Tensor, /) -> torch.Tensor:
        grades = relevance(image_rows, text_rows)
        expected = (len(image_rows), len(text_rows))
        if not isinstance(grades, torch.Tensor) or tuple(grades.shape) != expected:
            found = tuple(grades.shape) if isinstance(grades, torch.Tensor) else type(grades).__name__
            raise ValueError(f"`relevance` must return a tensor of shape (images, texts) = {expected}, got {found}.")
        outside = ~((grades >= 0) & (grades <= 1))
        if outside.any():
            raise ValueError(f"`relevance` must return grades in [0, 1], got {_first(grades[outside])}.")
        return grades

    return checked


def _check_embeddings(side: str, embeds: torch.Tensor, ids: torch.Tensor) -> None:
    if not isinstance(embeds, torch.Tensor) or embeds.ndim != 2 or not embeds.is_floating_point():
        raise ValueError(
            f"`{side}_embeds` must be a floating point tensor of shape (num_{side}s, dim), got {_describe(embeds)}."
        )
    if len(embeds) != len(ids):
        raise ValueError(f"`{side}_embeds` has {len(embeds)} rows but `{side}_ids` has {len(ids)}.")
    norms = torch.linalg.vector_norm(embeds.detach(), dim=1, dtype=torch.promote_types(embeds.dtype, torch.float32))
    bad = ~norms.isfinite()
    if bad.any():
        raise ValueError(f"`{side}_embeds` has NaN or infinite values in {_first_rows(bad)}.")
    # Loose enough for bfloat16, tight enough to notice that normalising was forgotten.
    bad = ((norms - 1.0).abs() > 0.01) & (norms > 0)
    if bad.any():
        raise ValueError(
            f"`{side}_embeds` must be L2-normalised, but {_first_rows(bad)} have lengths like "
            f"{norms[bad][0].item():.4g}: apply `torch.nn.functional.normalize(embeds, dim=-1)` first."
        )


def _check_ids(image_ids: torch.Tensor, text_ids: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    for side, ids in (("image", image_ids), ("text", text_ids)):
        if not isinstance(ids, torch.Tensor) or ids.ndim != 1 or ids.dtype not in _INTEGERS:
            raise ValueError(f"`{side}_ids` must be a vector of integers, got {_describe(ids)}.")
        if len(ids) == 0:
            raise ValueError(f"There are no {side}s: nothing can be ranked.")
    image_ids, text_ids = image_ids.long(), text_ids.long().to(image_ids.device)
    if not torch.isin(image_ids, text_ids).any():
        raise ValueError(
            f"No image matches any text: the image ids are {_first(image_ids)}, the text ids {_first(text_ids)}. "
            "Items of one pair must carry the same id."
        )
    return image_ids, text_ids


def check_cutoffs(ks: Sequence[int]) -> tuple[int, ...]:
    cutoffs = tuple(operator.index(k) for k in ks)
    if not cutoffs or min(cutoffs) < 1:
        raise ValueError(f"`ks` must hold at least one cut-off, each at least 1, got {tuple(ks)}.")
    return tuple(sorted(set(cutoffs)))


def _match_counts(query_ids: torch.Tensor, candidate_ids: torch.Tensor) -> torch.Tensor:
    """How many candidates carry each query's id, without comparing them all."""
    ordered = candidate_ids.sort().values
    return torch.searchsorted(ordered, query_ids, right=True) - torch.searchsorted(ordered, query_ids)


def _median(ranks: torch.Tensor) -> float:
    """The middle value, or the mean of the two in the middle (`torch.median` would give the lower one)."""
    ordered = ranks.sort().values
    return (ordered[(len(ordered) - 1) // 2].item() + ordered[len(ordered) // 2].item()) / 2


def _add_mean_recall(metrics: dict[str, float]) -> None:
    recalls = [value for name, value in metrics.items() if "_recall@" in name]
    metrics["mean_recall"] = sum(recalls) / len(recalls)


def _describe(value: Any) -> str:
    return f"{value.dtype} of shape {tuple(value.shape)}" if isinstance(value, torch.Tensor) else type(value).__name__


def _first(values: torch.Tensor, limit: int = 5) -> str:
    shown = ", ".join(str(value) for value in values[:limit].tolist())
    return f"{shown}, ... ({len(values)} in all)" if len(values) > limit else shown


def _first_rows(mask: torch.Tensor) -> str:
    return f"rows {_first(mask.nonzero().flatten())}"
