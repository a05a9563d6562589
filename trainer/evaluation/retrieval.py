# Copyright 2026 The SACL for Hugging Face authors. Licensed under the Apache License, Version 2.0.
"""Image-text retrieval: embed a data set once, rank it in both directions, in bounded memory.

Three steps, each usable alone: `embed_pairs` (any dual encoder), `compute_retrieval_metrics` (any embeddings) and
`evaluate_retrieval` (both). `chance_retrieval_metrics` says what a random ranking of the same data would score.

Protocol: the one of COCO and Flickr30k since Karpathy & Fei-Fei, "Deep Visual-Semantic Alignments for Generating Image
Descriptions", CVPR 2015, [arXiv 1412.2306](https://huggingface.co/papers/1412.2306): every image queries all texts,
every text queries all images, and a query is a hit at k if any of its matching items is among the first k. Graded
relevance: Järvelin & Kekäläinen, "Cumulated Gain-Based Evaluation of IR Techniques", ACM TOIS 20(4), 2002.

Ties never flatter. Similarities are computed in float64 and rounded to a grid, so that what is equal but for rounding
noise is equal whatever the chunk size, device or BLAS; among equal similarities the worst order counts.
"""

import hashlib
import math
import operator
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence, Sized
from itertools import islice
from typing import Any, NamedTuple, Protocol, TypeVar

import torch
from torch import nn
from transformers.utils import logging

from ..data.transforms import ImageDecodingError, decode_image
from ..embedding import evaluation_mode, feature_encoder, text_options


logger = logging.get_logger(__name__)

T = TypeVar("T")

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


class PairEmbeddings(NamedTuple):
    """
    The two sides of a data set, embedded.

    Args:
        image_embeds (`torch.FloatTensor` of shape `(num_images, dim)`):
            L2-normalised embeddings of the distinct images.
        image_ids (`torch.LongTensor` of shape `(num_images,)`):
            The pair each image belongs to. An image and a text match if and only if their ids are equal.
        text_embeds (`torch.FloatTensor` of shape `(num_texts, dim)`):
            L2-normalised embeddings of the distinct texts.
        text_ids (`torch.LongTensor` of shape `(num_texts,)`):
            The pair each text belongs to.
        image_rows (`torch.LongTensor` of shape `(num_images,)`):
            The row of the data set that each image was first seen in.
        text_rows (`torch.LongTensor` of shape `(num_texts,)`):
            The row of the data set that each text was first seen in.
    """

    image_embeds: torch.Tensor
    image_ids: torch.Tensor
    text_embeds: torch.Tensor
    text_ids: torch.Tensor
    image_rows: torch.Tensor
    text_rows: torch.Tensor


# --------------------------------------------------------------------------------------------------------------------
# Metrics from embeddings
# --------------------------------------------------------------------------------------------------------------------


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
    image_ids, text_ids = _check_ids(image_ids, text_ids)
    _check_embeddings("image", image_embeds, image_ids)
    _check_embeddings("text", text_embeds, text_ids)
    if image_embeds.shape[1] != text_embeds.shape[1]:
        raise ValueError(
            f"`image_embeds` have {image_embeds.shape[1]} dimensions and `text_embeds` {text_embeds.shape[1]}: "
            "pass embeddings of one shared space."
        )
    ks = _check_cutoffs(ks)
    if operator.index(chunk_size) < 1:
        raise ValueError(f"`chunk_size` must be at least 1, got {chunk_size}.")

    # MPS has no float64; everything else computes where the images are.
    device = torch.device("cpu") if image_embeds.device.type == "mps" else image_embeds.device
    images, texts = image_embeds.to(device), text_embeds.to(device)
    image_ids, text_ids = image_ids.to(device), text_ids.to(device)

    by_image = None if relevance is None else _checked(relevance)
    by_text = None if by_image is None else lambda text_rows, image_rows: by_image(image_rows, text_rows).T

    metrics: dict[str, float] = {}
    without_match: dict[str, int] = {}
    for direction, queries, candidates, query_ids, candidate_ids, grades in (
        ("image_to_text", images, texts, image_ids, text_ids, by_image),
        ("text_to_image", texts, images, text_ids, image_ids, by_text),
    ):
        ranks, ndcg = _rank(queries, candidates, query_ids, candidate_ids, grades, chunk_size)
        matched = ranks > 0
        if not matched.all():
            without_match[direction] = int((~matched).sum())
        graded = ~ndcg.isnan()
        if not graded.any():
            raise ValueError("`relevance` gave grade 0 to every image with every text: nDCG has no meaning then.")
        ranks = ranks[matched]
        for k in ks:
            metrics[f"{direction}_recall@{k}"] = 100.0 * (ranks <= k).double().mean().item()
        metrics[f"{direction}_ndcg@{NDCG_CUTOFF}"] = 100.0 * ndcg[graded].mean().item()
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
    ks = _check_cutoffs(ks)
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
) -> tuple[torch.Tensor, torch.Tensor]:
    """
    The rank of each query's best matching item (0: it has none) and its nDCG in `[0, 1]` (NaN: nothing is relevant).

    Two passes over the candidates: the first finds the similarity of the best matching item, the second counts what is
    ahead of it and keeps the ten best items. Blocks without a match are skipped in the first pass, which in a data set
    in its natural order is nearly all of them.
    """
    device = queries.device
    # Grid of the similarities: the resolution of the inputs near 1. Float32 noise is not information.
    steps = 2.0 ** (36 if torch.float64 in (queries.dtype, candidates.dtype) else 24)
    discounts = torch.arange(2, NDCG_CUTOFF + 2, dtype=torch.float64, device=device).log2().reciprocal()
    candidate_chunks = torch.arange(len(candidates), device=device).split(chunk_size)
    match_counts = _match_counts(query_ids, candidate_ids)
    all_ranks, all_ndcg = [], []

    for query_rows in torch.arange(len(queries), device=device).split(chunk_size):
        query = queries[query_rows].double()

        def similarities(candidate_rows: torch.Tensor, query: torch.Tensor = query) -> torch.Tensor:
            """Whole numbers: cosines in steps of the grid."""
            return (query @ candidates[candidate_rows].double().T).mul_(steps).round_()

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
        # 0 / 0 is NaN: no candidate is relevant.
        all_ndcg.append((top_grades @ discount) / (ideal @ discount))
        all_ranks.append((ahead + 1).masked_fill(match_counts[query_rows] == 0, 0))
    return torch.cat(all_ranks), torch.cat(all_ndcg)


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


def _check_cutoffs(ks: Sequence[int]) -> tuple[int, ...]:
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


# --------------------------------------------------------------------------------------------------------------------
# Embeddings from a model
# --------------------------------------------------------------------------------------------------------------------


def embed_pairs(
    model: nn.Module,
    dataset: Iterable[Mapping[str, Any]],
    processor: Callable[..., Any],
    *,
    batch_size: int = 64,
    image_column: str = "image",
    caption_column: str | None = None,
    pair_id_column: str | None = "pair_id",
    max_length: int | None = None,
    show_progress: bool = True,
) -> PairEmbeddings:
    r"""
    Embeds the images and the captions of a data set with a dual encoder, each distinct one once.

    Rows of one pair may repeat an image (one row per caption) or a caption (one row per image): an image with the same
    pixels and the same pair id is one image, a caption with the same words and the same pair id is one caption. The
    data set is read once, from front to back, and only one batch of images is in memory at a time.

    The model runs in evaluation mode, without gradient, in its own dtype on its own device and under whatever autocast
    the caller has opened; afterwards every module is back in the mode it was in. Captions are padded as the
    processor says, else to the longest of the batch (SigLIP: to the full length, as it was trained).

    Args:
        model ([`~transformers.PreTrainedModel`]):
            Any model with `get_image_features` and `get_text_features`: [`SaclModel`], [`~transformers.CLIPModel`],
            [`~transformers.SiglipModel`], [`~transformers.VisionTextDualEncoderModel`], ...
        dataset (`Iterable[Mapping[str, Any]]`):
            A [`~datasets.Dataset`] or anything that yields rows. An image is a PIL image, a caption a string or a list
            of strings, a pair id an integer or a string.
        processor ([`~transformers.ProcessorMixin`]):
            Called with `images=` and with `text=`.
        batch_size (`int`, *optional*, defaults to 64):
            Images or captions per forward pass.
        image_column (`str`, *optional*, defaults to `"image"`):
            Name of the image column.
        caption_column (`str`, *optional*):
            Name of the caption column. By default `"captions"` if there is one, else `"caption"`.
        pair_id_column (`str`, *optional*, defaults to `"pair_id"`):
            Name of the column that says what belongs together. With `None`, or if there is no column `"pair_id"`,
            every row is a pair of its own.
        max_length (`int`, *optional*):
            Longer captions are cut to so many tokens. By default what the processor, tokenizer or model allows.
        show_progress (`bool`, *optional*, defaults to `True`):
            Whether to show progress bars.

    Returns:
        [`PairEmbeddings`]: embeddings in float32 (float64 for a float64 model) on the model's device, with ids and
        row numbers. String ids are numbered in the order in which they appear.

    Raises:
        `ValueError`: if the data set is empty, or a column is missing or holds something else than described.
        `TypeError`: if the model has no `get_image_features` or `get_text_features`.

    Example:

    ```python
    >>> from datasets import load_dataset
    >>> from transformers import AutoModel, AutoProcessor

    >>> model = AutoModel.from_pretrained("openai/clip-vit-base-patch32")
    >>> processor = AutoProcessor.from_pretrained("openai/clip-vit-base-patch32")
    >>> dataset = load_dataset("imagefolder", data_dir="photos", split="train")
    >>> embeddings = embed_pairs(model, dataset, processor)
    >>> embeddings.image_embeds.shape
    torch.Size([5000, 512])
    ```
    """
    if operator.index(batch_size) < 1:
        raise ValueError(f"`batch_size` must be at least 1, got {batch_size}.")
    encode_images, encode_texts = (
        feature_encoder(model, "get_image_features"),
        feature_encoder(model, "get_text_features"),
    )
    options = text_options(model, processor, max_length)

    image_keys: dict[tuple[bytes, int | str], int] = {}  # (pixels, pair) -> row
    text_keys: dict[tuple[str, int | str], int] = {}  # (words, pair) -> row

    def distinct_images() -> Iterator[Any]:
        """Reads the data set; yields the images that are new, notes the captions that are new."""
        columns: tuple[str, str, str | None] | None = None
        for row_number, row in enumerate(_progress(dataset, "Embedding images", show_progress)):
            columns = columns or _resolve_columns(row, image_column, caption_column, pair_id_column)
            pair_id = row_number if columns[2] is None else _pair_id(row[columns[2]], row_number)
            for caption in _captions(row[columns[1]], row_number):
                text_keys.setdefault((caption, pair_id), row_number)
            image = _rgb_image(row[columns[0]], row_number)
            pixels = hashlib.blake2b(image.tobytes(), digest_size=16, key=str(image.size).encode()).digest()
            if image_keys.setdefault((pixels, pair_id), row_number) == row_number:
                yield image

    with evaluation_mode(model), torch.inference_mode():
        image_batches = [
            encode_images(processor(images=images, return_tensors="pt"))
            for images in _batches(distinct_images(), batch_size)
        ]
        if not image_batches:
            raise ValueError("The data set has no rows: nothing can be embedded.")
        # The same words under several pair ids are embedded once, so that their similarities are equal to the bit.
        texts = list(dict.fromkeys(text for text, _ in text_keys))
        if not texts:
            raise ValueError("The data set has no captions: nothing can be embedded.")
        text_bar = _progress(range(0, len(texts), batch_size), "Embedding texts", show_progress)
        text_batches = [
            encode_texts(processor(text=texts[start : start + batch_size], return_tensors="pt", **options))
            for start in text_bar
        ]

    # Outside of inference mode: ordinary tensors, which may be changed in place or meet autograd.
    image_embeds, text_embeds = torch.cat(image_batches), torch.cat(text_batches)
    device = image_embeds.device
    positions = {text: position for position, text in enumerate(texts)}
    text_embeds = text_embeds[torch.tensor([positions[text] for text, _ in text_keys], device=device)]
    image_ids, text_ids = _integer_ids([pair for _, pair in image_keys], [pair for _, pair in text_keys])
    return PairEmbeddings(
        image_embeds=image_embeds,
        image_ids=image_ids.to(device),
        text_embeds=text_embeds,
        text_ids=text_ids.to(device),
        image_rows=torch.tensor(list(image_keys.values()), device=device),
        text_rows=torch.tensor(list(text_keys.values()), device=device),
    )


def evaluate_retrieval(
    model: nn.Module,
    dataset: Iterable[Mapping[str, Any]],
    processor: Callable[..., Any],
    *,
    batch_size: int = 64,
    relevance: Relevance | None = None,
    ks: Sequence[int] = (1, 5, 10),
    chunk_size: int = 1024,
    image_column: str = "image",
    caption_column: str | None = None,
    pair_id_column: str | None = "pair_id",
    max_length: int | None = None,
    show_progress: bool = True,
) -> dict[str, float]:
    r"""
    How well a dual encoder finds the texts of an image and the images of a text in a data set.

    [`embed_pairs`] followed by [`compute_retrieval_metrics`], where columns, padding, metrics and protocol are
    described.

    Args:
        model ([`~transformers.PreTrainedModel`]):
            Any model with `get_image_features` and `get_text_features`.
        dataset (`Iterable[Mapping[str, Any]]`):
            Rows with an image, a caption or several, and optionally a pair id.
        processor ([`~transformers.ProcessorMixin`]):
            Called with `images=` and with `text=`.
        batch_size (`int`, *optional*, defaults to 64):
            Images or captions per forward pass.
        relevance ([`Relevance`], *optional*):
            Grades in `[0, 1]` for nDCG, called with row numbers of `dataset` (of an image or text that occurs in
            several rows, the first). By default 1 for equal pair ids and 0 for others.
        ks (`Sequence[int]`, *optional*, defaults to `(1, 5, 10)`):
            Cut-offs of recall, at least 1.
        chunk_size (`int`, *optional*, defaults to 1024):
            Side of the largest block of similarities held in memory.
        image_column (`str`, *optional*, defaults to `"image"`):
            Name of the image column.
        caption_column (`str`, *optional*):
            Name of the caption column. By default `"captions"` if there is one, else `"caption"`.
        pair_id_column (`str`, *optional*, defaults to `"pair_id"`):
            Name of the column that says what belongs together. With `None`, or if there is no column `"pair_id"`,
            every row is a pair of its own.
        max_length (`int`, *optional*):
            Longer captions are cut to so many tokens. By default what the processor, tokenizer or model allows.
        show_progress (`bool`, *optional*, defaults to `True`):
            Whether to show progress bars.

    Returns:
        `dict[str, float]`: the metrics of [`compute_retrieval_metrics`], recall and nDCG in percent.

    Raises:
        `ValueError`: if the data set, a column, an embedding or a grade is not as described.
        `TypeError`: if the model has no `get_image_features` or `get_text_features`.

    Example:

    ```python
    >>> metrics = evaluate_retrieval(model, dataset, processor, caption_column="sentence", pair_id_column="emoji_id")
    >>> round(metrics["text_to_image_recall@1"], 1)
    23.4
    ```
    """
    embeddings = embed_pairs(
        model,
        dataset,
        processor,
        batch_size=batch_size,
        image_column=image_column,
        caption_column=caption_column,
        pair_id_column=pair_id_column,
        max_length=max_length,
        show_progress=show_progress,
    )
    by_row: Relevance | None = None
    if relevance is not None:
        # On the host, where row numbers index columns and lists.
        image_rows, text_rows = embeddings.image_rows.cpu(), embeddings.text_rows.cpu()
        by_row = lambda images, texts: relevance(image_rows[images.cpu()], text_rows[texts.cpu()])  # noqa: E731

    return compute_retrieval_metrics(
        embeddings.image_embeds,
        embeddings.text_embeds,
        embeddings.image_ids,
        embeddings.text_ids,
        relevance=by_row,
        ks=ks,
        chunk_size=chunk_size,
    )


def _resolve_columns(
    row: Mapping[str, Any], image_column: str, caption_column: str | None, pair_id_column: str | None
) -> tuple[str, str, str | None]:
    if caption_column is None:
        caption_column = "captions" if "captions" in row else "caption"
    if pair_id_column == "pair_id" and "pair_id" not in row:
        pair_id_column = None
    for argument, column in (
        ("image_column", image_column),
        ("caption_column", caption_column),
        ("pair_id_column", pair_id_column),
    ):
        if column is not None and column not in row:
            raise ValueError(f"The data set has no column {column!r}, only {sorted(row)}: set `{argument}`.")
    return image_column, caption_column, pair_id_column


def _rgb_image(value: Any, row_number: int) -> Any:
    try:
        return decode_image(value)
    except (ImageDecodingError, TypeError) as error:
        raise ValueError(f"The image of row {row_number} cannot be read: {error}") from error


def _captions(value: Any, row_number: int) -> list[str]:
    captions = [value] if isinstance(value, str) else value
    if not isinstance(captions, (list, tuple)) or not all(isinstance(caption, str) for caption in captions):
        raise ValueError(f"The caption of row {row_number} must be a string or a list of strings, got {value!r}.")
    return list(captions)


def _pair_id(value: Any, row_number: int) -> int | str:
    if isinstance(value, str):
        return value
    try:
        return operator.index(value)
    except TypeError:
        raise ValueError(f"The pair id of row {row_number} must be an integer or a string, got {value!r}.") from None


def _integer_ids(*sides: list[int | str]) -> tuple[torch.Tensor, ...]:
    pairs = list(dict.fromkeys(pair for side in sides for pair in side))
    if len({isinstance(pair, str) for pair in pairs}) > 1:
        raise ValueError("Pair ids must be all integers or all strings, but the data set has both.")
    if not isinstance(pairs[0], str):
        return tuple(torch.tensor(side, dtype=torch.long) for side in sides)
    codes = {pair: code for code, pair in enumerate(pairs)}
    return tuple(torch.tensor([codes[pair] for pair in side], dtype=torch.long) for side in sides)


def _batches(items: Iterable[T], size: int) -> Iterator[list[T]]:
    iterator = iter(items)
    while batch := list(islice(iterator, size)):
        yield batch


def _progress(items: Iterable[T], description: str, show: bool) -> Iterable[T]:
    total = len(items) if isinstance(items, Sized) else None
    return logging.tqdm(items, desc=description, total=total, disable=not show)
