# Copyright 2026 The SACL for Hugging Face authors. Licensed under the Apache License, Version 2.0.
"""How a model is shared: its card, the cards of data sets and metrics, and the pictures that show what it learned."""

from .facts import CardFacts, DatasetFacts, EvaluationResult, FoundImages, ObjectiveFacts, merge_seeds
from .model_card import write_model_card
from .pictures import (
    plot_grounding,
    plot_retrieval_grid,
    plot_training_curves,
    plot_weight_histogram,
    visualize_patch_selection,
)
from .sections import CardError


__all__ = [
    "CardError",
    "CardFacts",
    "DatasetFacts",
    "EvaluationResult",
    "FoundImages",
    "ObjectiveFacts",
    "merge_seeds",
    "plot_grounding",
    "plot_retrieval_grid",
    "plot_training_curves",
    "plot_weight_histogram",
    "visualize_patch_selection",
    "write_model_card",
]
