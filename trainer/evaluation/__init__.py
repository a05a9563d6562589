# Copyright 2026 The SACL for Hugging Face authors. Licensed under the Apache License, Version 2.0.
"""How well a model does: rankings, and what chance alone would give."""

from .retrieval import (
    PairEmbeddings,
    Relevance,
    chance_retrieval_metrics,
    compute_retrieval_metrics,
    embed_pairs,
    evaluate_retrieval,
)


__all__ = [
    "PairEmbeddings",
    "Relevance",
    "chance_retrieval_metrics",
    "compute_retrieval_metrics",
    "embed_pairs",
    "evaluate_retrieval",
]
