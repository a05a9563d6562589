# Copyright 2026 The SACL for Hugging Face authors. Licensed under the Apache License, Version 2.0.
"""Image-text retrieval: embed a data set once, rank it in both directions, and look twice at what came first.

Three steps, each usable alone: `embed_pairs` (any dual encoder), `compute_retrieval_metrics` (any embeddings) and
`rerank` (models with a matching head); `evaluate_retrieval` is all of them. `chance_retrieval_metrics` says what a
random ranking of the same data would score.
"""

import operator
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

from torch import nn

from .pair_embeddings import embed_pairs, read_images
from .ranking import NDCG_CUTOFF, Relevance, check_cutoffs, rank_pairs, summarize_rankings
from .reranking import find_matching_model, rerank_pairs


def evaluate_retrieval(
    model: nn.Module,
    dataset: Iterable[Mapping[str, Any]],
    processor: Callable[..., Any],
    *,
    batch_size: int = 64,
    rerank_top_k: int = 0,
    relevance: Relevance | None = None,
    ks: Sequence[int] = (1, 5, 10),
    chunk_size: int = 1024,
    image_column: str = "image",
    caption_column: str | None = None,
    pair_id_column: str | None = "pair_id",
    max_length: int | None = None,
    on_error: str = "raise",
    show_progress: bool = True,
) -> dict[str, float]:
    r"""
    How well a model finds the texts of an image and the images of a text in a data set.

    [`embed_pairs`] followed by [`compute_retrieval_metrics`], where columns, padding, metrics and protocol are
    described. With `rerank_top_k`, a model with a matching head then looks twice: the best `rerank_top_k` candidates
    of each query by cosine are put in the order of the head's scores, as ALBEF and SACL report their results (256 for
    COCO, 128 for Flickr30k). All metrics are there a second and a third time then: `itm_...` by the log-odds of a
    match, and `itm_itc_...` by these plus the cosine divided by the temperature.

    Args:
        model ([`~transformers.PreTrainedModel`]):
            Any model with `get_image_features` and `get_text_features`.
        dataset (`Iterable[Mapping[str, Any]]`):
            Rows with an image, a caption or several, and optionally a pair id.
        processor ([`~transformers.ProcessorMixin`]):
            Called with `images=` and with `text=`.
        batch_size (`int`, *optional*, defaults to 64):
            Images or captions per forward pass.
        rerank_top_k (`int`, *optional*, defaults to 0):
            How many candidates the matching head looks at for each query: none, or at least ten, since nDCG is of the
            first ten. The data set is then read twice. [`match_pairs`] is the slow part: each image meets each text
            once that it found or that found it.
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
        on_error (`str`, *optional*, defaults to `"raise"`):
            What to do about rows whose image cannot be read or that have no caption: `"raise"`, or `"skip"`, which
            leaves them out and warns.
        show_progress (`bool`, *optional*, defaults to `True`):
            Whether to show progress bars.

    Returns:
        `dict[str, float]`: the metrics of [`compute_retrieval_metrics`], recall and nDCG in percent; with
        `rerank_top_k` also those of both re-rankings.

    Raises:
        `ValueError`: if the data set, a column, an embedding or a grade is not as described, or `rerank_top_k` is from
        1 to 9.
        `TypeError`: if the model has no `get_image_features` or `get_text_features`, or, with `rerank_top_k`, no
        matching head.

    Example:

    ```python
    >>> metrics = evaluate_retrieval(model, dataset, processor, caption_column="sentence", pair_id_column="emoji_id")
    >>> round(metrics["text_to_image_recall@1"], 1)
    23.4
    ```
    """
    ks = check_cutoffs(ks)
    if rerank_top_k and operator.index(rerank_top_k) < NDCG_CUTOFF:
        raise ValueError(f"`rerank_top_k` must be 0 or at least {NDCG_CUTOFF}, got {rerank_top_k}.")
    if rerank_top_k:
        find_matching_model(model)  # Before the embedding, which may take long.
    embeddings = embed_pairs(
        model,
        dataset,
        processor,
        batch_size=batch_size,
        image_column=image_column,
        caption_column=caption_column,
        pair_id_column=pair_id_column,
        max_length=max_length,
        on_error=on_error,
        show_progress=show_progress,
    )
    by_row: Relevance | None = None
    if relevance is not None:
        # On the host, where row numbers index columns and lists.
        image_rows, text_rows = embeddings.image_rows.cpu(), embeddings.text_rows.cpu()
        by_row = lambda images, texts: relevance(image_rows[images.cpu()], text_rows[texts.cpu()])  # noqa: E731

    rankings = rank_pairs(
        embeddings.image_embeds,
        embeddings.text_embeds,
        embeddings.image_ids,
        embeddings.text_ids,
        relevance=by_row,
        chunk_size=chunk_size,
    )
    metrics = summarize_rankings(rankings, ks)
    if rerank_top_k:
        images = read_images(dataset, embeddings.image_rows.tolist(), image_column)
        looked_twice = rerank_pairs(
            model,
            images,
            embeddings,
            processor,
            rankings,
            top_k=rerank_top_k,
            relevance=by_row,
            chunk_size=chunk_size,
            max_length=max_length,
            show_progress=show_progress,
        )
        for score, reranked in looked_twice.items():
            metrics.update({f"{score}_{name}": value for name, value in summarize_rankings(reranked, ks).items()})
    return metrics
