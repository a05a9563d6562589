# Copyright 2026 The SACL for Hugging Face authors. Licensed under the Apache License, Version 2.0.
"""Image-text retrieval from rows of scores: recall, graded nDCG, ranks, and how they vary between languages."""

import math
import operator
from collections.abc import Hashable, Sequence
from typing import Any

import datasets
import evaluate
import numpy as np


logger = evaluate.logging.get_logger(__name__)

_DESCRIPTION = """\
Where the matching candidates stand when the candidates of each query are ranked by score: recall at k, nDCG with
graded relevance, median and mean rank and, for queries in several languages, the mean rank variance. A tie always
counts against the model, so that scores which are all the same score no better than they deserve.
"""

_KWARGS_DESCRIPTION = """
Args:
    predictions (`list[list[float]]` of shape `(num_queries, num_candidates)`):
        The score of each candidate for each query; higher is better. Scores are compared as they are. `-inf` marks a
        candidate that was not considered: it comes last.
    references (`list[list[float]]` of shape `(num_queries, num_candidates)`):
        How relevant each candidate is to each query, in `[0, 1]`. A candidate with grade 1 matches; lower grades count
        for nDCG alone.
    languages (`list[str]` of shape `(num_queries,)`, *optional*):
        The language of each query, in the order in which the queries were added. Needs `query_ids`.
    query_ids (`list[int]` or `list[str]` of shape `(num_queries,)`, *optional*):
        What each query says: queries with the same id are translations of one another. Each id must come once in each
        language. Needs `languages`.
    ks (`Sequence[int]`, *optional*, defaults to `(1, 5, 10)`):
        Cut-offs of recall, at least 1.
    ndcg_cutoff (`int`, *optional*, defaults to 10):
        How many places of the ranking nDCG looks at, at least 1.

Returns:
    `dict[str, float]`:

    - `recall@{k}`: percent of the queries with at least one matching candidate among the first `k`.
    - `ndcg@{ndcg_cutoff}`: `100 * DCG / IDCG`, averaged over the queries, with `DCG = sum_i grade_i / log2(i + 1)`
      over the ranking and `IDCG` the same over the highest grades. Candidates of equal score are taken in the order of
      rising grade, the worst there is. Queries for which every candidate has grade 0 are left out.
    - `median_rank`, `mean_rank`: of the best-ranked matching candidate, 1 being best: 1 + the number of candidates
      that do not match and whose score is equal to or higher than the best matching candidate's.
    - `mean_recall`: the mean of all recalls.
    - `mean_rank_variance`, with `languages`: the variance of a question's rank over the K languages, averaged over the
      questions: `mean_j 1/K sum_k (rank_jk - mean_k rank_jk)^2`. 0 if every language finds it in the same place.
    - `queries_without_match`, if there are any: queries without a candidate of grade 1 have no rank and are left out
      of recall, ranks and mean rank variance.

Raises:
    `ValueError`: if there are no queries or none has a match, rows differ in length, a score is NaN or infinite, a
    grade is outside `[0, 1]`, or the languages are not as described.

Examples:

    Two queries and three candidates. The second query finds its match in the second place, behind a candidate that is
    half relevant.

    >>> import evaluate
    >>> retrieval = evaluate.load("path/to/image_text_retrieval")
    >>> results = retrieval.compute(
    ...     predictions=[[0.9, 0.2, 0.1], [0.7, 0.6, 0.3]],
    ...     references=[[1.0, 0.0, 0.0], [0.5, 1.0, 0.0]],
    ...     ks=[1, 2],
    ... )
    >>> {name: round(value, 2) for name, value in results.items()}
    {'recall@1': 50.0, 'recall@2': 100.0, 'ndcg@10': 92.99, 'median_rank': 1.5, 'mean_rank': 1.5, 'mean_recall': 75.0}

    The same question in two languages, answered in the first place in one and in the third in the other: the ranks 1
    and 3 are both 1 away from their mean.

    >>> results = retrieval.compute(
    ...     predictions=[[0.9, 0.2, 0.1], [0.3, 0.6, 0.7]],
    ...     references=[[1, 0, 0], [1, 0, 0]],
    ...     languages=["en", "de"],
    ...     query_ids=["a dog", "a dog"],
    ... )
    >>> results["mean_rank_variance"]
    1.0
"""

_CITATION = """\
@inproceedings{karpathy2015deep,
  title={Deep Visual-Semantic Alignments for Generating Image Descriptions},
  author={Karpathy, Andrej and Fei-Fei, Li},
  booktitle={Proceedings of the IEEE Conference on Computer Vision and Pattern Recognition (CVPR)},
  year={2015}
}
@article{jarvelin2002cumulated,
  title={Cumulated Gain-Based Evaluation of {IR} Techniques},
  author={J{\\"a}rvelin, Kalervo and Kek{\\"a}l{\\"a}inen, Jaana},
  journal={ACM Transactions on Information Systems},
  volume={20},
  number={4},
  pages={422--446},
  year={2002}
}
@inproceedings{nie2024improving,
  title={Improving the Consistency in Cross-Lingual Cross-Modal Retrieval with 1-to-{K} Contrastive Learning},
  author={Nie, Zhijie and Zhang, Richong and Feng, Zhangchi and Huang, Hailang and Liu, Xudong},
  booktitle={Proceedings of the 30th ACM SIGKDD Conference on Knowledge Discovery and Data Mining (KDD)},
  year={2024}
}
"""


@evaluate.utils.file_utils.add_start_docstrings(_DESCRIPTION, _KWARGS_DESCRIPTION)
class ImageTextRetrieval(evaluate.Metric):
    def _info(self) -> evaluate.MetricInfo:
        row = datasets.Sequence(datasets.Value("float64"))
        return evaluate.MetricInfo(
            description=_DESCRIPTION,
            citation=_CITATION,
            inputs_description=_KWARGS_DESCRIPTION,
            features=datasets.Features({"predictions": row, "references": row}),
            license="Apache License 2.0",
            reference_urls=["https://arxiv.org/abs/1412.2306", "https://arxiv.org/abs/2406.18254"],
        )

    def _compute(
        self,
        predictions: Sequence[Sequence[float]],
        references: Sequence[Sequence[float]],
        languages: Sequence[str] | None = None,
        query_ids: Sequence[Hashable] | None = None,
        ks: Sequence[int] = (1, 5, 10),
        ndcg_cutoff: int = 10,
    ) -> dict[str, float]:
        cutoffs = sorted({operator.index(k) for k in ks})
        if not cutoffs or cutoffs[0] < 1:
            raise ValueError(f"`ks` must hold at least one cut-off, each at least 1, got {tuple(ks)}.")
        if operator.index(ndcg_cutoff) < 1:
            raise ValueError(f"`ndcg_cutoff` must be at least 1, got {ndcg_cutoff}.")
        if not len(predictions):
            raise ValueError("There are no queries: pass `predictions` with at least one row of scores.")
        if (languages is None) != (query_ids is None):
            given, missing = ("query_ids", "languages") if languages is None else ("languages", "query_ids")
            raise ValueError(
                f"Got `{given}` without `{missing}`: the mean rank variance compares the ranks of queries with one id "
                "between their languages. Pass both or neither."
            )

        num_candidates = 0 if predictions[0] is None else len(predictions[0])
        all_ranks, all_ndcg = np.zeros(len(predictions), dtype=np.int64), np.zeros(len(predictions))
        for row, (scores, grades) in enumerate(zip(predictions, references, strict=True)):
            all_ranks[row], all_ndcg[row] = _rank(*_check_row(row, scores, grades, num_candidates), ndcg_cutoff)

        matched, graded = all_ranks > 0, ~np.isnan(all_ndcg)
        if not matched.any():
            raise ValueError(
                "No query has a matching candidate: `references` must be 1 where query and candidate belong together."
            )
        ranks = all_ranks[matched]
        results = {f"recall@{k}": 100.0 * float((ranks <= k).mean()) for k in cutoffs}
        mean_recall = sum(results.values()) / len(results)
        results[f"ndcg@{ndcg_cutoff}"] = 100.0 * float(all_ndcg[graded].mean())
        results["median_rank"] = float(np.median(ranks))
        results["mean_rank"] = float(ranks.mean())
        results["mean_recall"] = mean_recall
        if languages is not None:
            results["mean_rank_variance"] = _mean_rank_variance(
                all_ranks,
                _per_query("languages", languages, all_ranks),
                _per_query("query_ids", query_ids, all_ranks),
            )
        if not matched.all():
            logger.warning(
                f"{(~matched).sum()} queries have no matching candidate and are left out of recall and ranks."
            )
            results["queries_without_match"] = float((~matched).sum())
        return results


def _check_row(row: int, scores: Any, grades: Any, num_candidates: int) -> tuple[np.ndarray, np.ndarray]:
    """One query's scores and grades; `None`, which is how Arrow writes a missing number, is NaN here."""
    arrays = []
    for name, values in (("predictions", scores), ("references", grades)):
        found = 0 if values is None else len(values)
        if found == 0 or found != num_candidates:
            raise ValueError(
                f"Row {row} of `{name}` has {found} candidates, but row 0 of `predictions` has {num_candidates}: "
                "score and grade the same candidates, at least one, for every query. A candidate that was not "
                "considered has the score -inf."
            )
        arrays.append(np.array(values, dtype=np.float64))
    scores, grades = arrays
    bad = np.isnan(scores) | (scores == math.inf)
    if bad.any():
        raise ValueError(
            f"Row {row} of `predictions` has the score {scores[bad][0]} for candidate {bad.argmax()}: scores must be "
            "numbers, or -inf for a candidate that was not considered."
        )
    bad = ~((grades >= 0) & (grades <= 1))
    if bad.any():
        raise ValueError(
            f"Row {row} of `references` has the grade {grades[bad][0]} for candidate {bad.argmax()}: grades must be "
            "in [0, 1], where 1 is a match. Divide grades on another scale by the highest."
        )
    return scores, grades


def _rank(scores: np.ndarray, grades: np.ndarray, cutoff: int) -> tuple[int, float]:
    """The rank of the best matching candidate (0: there is none) and nDCG in `[0, 1]` (NaN: nothing is relevant)."""
    matching = grades == 1
    rank = 1 + int((scores[~matching] >= scores[matching].max()).sum()) if matching.any() else 0
    # By falling score, and among equals the least relevant first.
    ranking = np.lexsort((grades, -scores))[:cutoff]
    discounts = 1 / np.log2(np.arange(2, len(ranking) + 2))
    ideal = np.sort(grades)[::-1][:cutoff] @ discounts
    return rank, float(grades[ranking] @ discounts / ideal) if ideal > 0 else math.nan


def _per_query(name: str, values: Any, ranks: np.ndarray) -> list[Hashable]:
    values = values.tolist() if hasattr(values, "tolist") else list(values)
    if len(values) != len(ranks):
        raise ValueError(
            f"`{name}` has {len(values)} entries for {len(ranks)} queries: pass one for each row of `predictions`, "
            "those of earlier `add_batch` calls included."
        )
    return values


def _mean_rank_variance(ranks: np.ndarray, languages: Sequence[Hashable], query_ids: Sequence[Hashable]) -> float:
    names = list(dict.fromkeys(languages))
    if len(names) < 2:
        raise ValueError(f"All queries are in the language {names[0]!r}: the mean rank variance needs at least two.")
    instances: dict[Hashable, dict[Hashable, int]] = {}
    for query_id, language, rank in zip(query_ids, languages, ranks.tolist(), strict=True):
        translations = instances.setdefault(query_id, {})
        if language in translations:
            raise ValueError(
                f"The query id {query_id!r} comes twice in the language {language!r}. Queries with one id must be "
                "translations of one another: number the captions of an image, and give each number an id."
            )
        translations[language] = rank
    for query_id, translations in instances.items():
        missing = [language for language in names if language not in translations]
        if missing:
            raise ValueError(
                f"The query id {query_id!r} has no query in {missing}: ranks are compared over all languages {names}. "
                "Add the missing translations, or leave the query out."
            )
    table = np.array([[translations[language] for language in names] for translations in instances.values()])
    table = table[(table > 0).all(axis=1)]
    if not len(table):
        raise ValueError("No query has a matching candidate in every language: the mean rank variance has no meaning.")
    return float(table.var(axis=1).mean())
