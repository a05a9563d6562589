# Copyright 2026 The SACL for Hugging Face authors. Licensed under the Apache License, Version 2.0.
"""How well a model does: rankings, and what chance alone would give."""

from .grounding import (
    Grounding,
    best_point,
    chance_grounding_metrics,
    evaluate_grounding,
    ground_text,
    ground_texts,
    heat_map,
    score_boxes,
)
from .pair_embeddings import PairEmbeddings, embed_pairs
from .question_answering import answer_questions, evaluate_question_answering
from .ranking import Relevance, chance_retrieval_metrics, compute_retrieval_metrics
from .reranking import find_candidates, match_pairs
from .retrieval import evaluate_retrieval


__all__ = [
    "Grounding",
    "PairEmbeddings",
    "Relevance",
    "answer_questions",
    "best_point",
    "chance_grounding_metrics",
    "chance_retrieval_metrics",
    "compute_retrieval_metrics",
    "embed_pairs",
    "evaluate_grounding",
    "evaluate_question_answering",
    "evaluate_retrieval",
    "find_candidates",
    "match_pairs",
    "ground_text",
    "ground_texts",
    "heat_map",
    "score_boxes",
]
